"""Masks beside images: of indices and of colours."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from selftrain_core.config import parse_config
from selftrain_core.config_model import identity
from selftrain_core.errors import ConfigError, DataError
from selftrain_core.geometry import Geometry
from selftrain_core.labels import IGNORE, MaskLabels
from selftrain_core.testing import DataSourceContract
from selftrain_core.testing.samples import mask_labels, write_images
from selftrain_segmentation.class_table import read_class_table
from selftrain_segmentation.config import SegmentationConfig
from selftrain_segmentation.source_config import ColourMasksConfig, IndexMasksConfig
from selftrain_segmentation.sources import ColourMasks, IndexMasks
from selftrain_segmentation.task import SegmentationTask

CLASSES = ("ground", "sky")
COLOURS = {"ground": (10, 20, 30), "sky": (0, 0, 255), "void": (0, 0, 0)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", ["a", "deep/b"], suffix=".jpg")
    (tmp_path / "masks/deep").mkdir(parents=True)
    return tmp_path


def index_masks(folder: Path, **settings: Any) -> IndexMasks:
    return IndexMasks(IndexMasksConfig(images=folder / "images", masks=folder / "masks", **settings), CLASSES)


def colour_masks(folder: Path, **settings: Any) -> ColourMasks:
    settings = {"colours": COLOURS, "ignore": ("void",), **settings}
    return ColourMasks(ColourMasksConfig(images=folder / "images", masks=folder / "masks", **settings), CLASSES)


def mask(path: Path, values: Any) -> None:
    Image.fromarray(np.array(values, np.uint8)).save(path)


# --- where masks lie ---


def test_scanning_does_not_ask_for_masks(folder: Path) -> None:
    assert [entry.id for entry in index_masks(folder).scan()] == ["a", "deep/b"]


@pytest.mark.parametrize(
    ("pattern", "name"), [("{id}.tif", "b.tif"), ("{id}_L.png", "b_L.png"), ("{id}_mask.gif", "b_mask.gif")]
)
def test_masks_may_be_named_otherwise(folder: Path, pattern: str, name: str) -> None:
    mask(folder / "masks/deep" / name, [[0, 1]])
    source = index_masks(folder, mask_name=pattern)
    assert source.read_labels(list(source.scan())[1]).classes_HW.tolist() == [[0, 1]]


def test_masks_may_lie_in_a_folder_of_each_image(folder: Path) -> None:
    (folder / "masks/a").mkdir()
    mask(folder / "masks/a/label.png", [[1]])
    source = index_masks(folder, mask_name="{id}/label.png")
    assert source.read_labels(next(source.scan())).classes_HW.tolist() == [[1]]


@pytest.mark.parametrize("pattern", ["mask.png", "{name}.png", "{id}{x}.png", "{id}}.png"])
def test_a_mask_name_without_the_id_is_explained(folder: Path, pattern: str) -> None:
    with pytest.raises(ValueError, match=r"must hold \{id\}, which stands for the image's id, and no other braces"):
        index_masks(folder, mask_name=pattern)


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ([], r"the mask .*masks/deep/b\.png does not exist; .*masks/deep holds no file with 'b' in its name"),
        (["b.tif"], r"b\.png does not exist; there is b\.tif: for that one set mask_name: '\{id\}\.tif'"),
        (["b_mask.png", "b_x.png"], r"there is b_mask\.png, b_x\.png: for that one set mask_name: '\{id\}_mask\.png'"),
    ],
)
@pytest.mark.parametrize("make", [index_masks, colour_masks])
def test_a_missing_mask_is_explained(folder: Path, there: list[str], message: str, make: Any) -> None:
    for name in there:
        mask(folder / "masks/deep" / name, [[0]])
    source = make(folder)
    with pytest.raises(DataError, match=message):
        source.read_labels(list(source.scan())[1])


def test_a_missing_mask_folder_is_explained(folder: Path) -> None:
    (folder / "masks/deep").rmdir()
    source = index_masks(folder)
    with pytest.raises(DataError, match=r"b\.png does not exist; there is no folder .*masks/deep"):
        source.read_labels(list(source.scan())[1])


def test_a_mask_of_the_image_before_its_exif_rotation_is_explained() -> None:
    task = SegmentationTask(SegmentationConfig(), CLASSES)
    turned, other = (MaskLabels(np.zeros(shape, np.uint8)) for shape in ((30, 20), (30, 30)))
    geometry = Geometry.fit((20, 30), (32, 32))
    message = r"the mask is 20×30 pixels, its image 30×20 pixels; .* EXIF rotation\): turn the mask as the image's EXIF"
    with pytest.raises(DataError, match=message):
        task.to_targets(turned, None, geometry)
    with pytest.raises(DataError, match=r"the mask is 30×30 pixels, its image 30×20 pixels; .* EXIF rotation\)$"):
        task.to_targets(other, None, geometry)


# --- indices ---


def test_a_mask_is_read(folder: Path) -> None:
    mask(folder / "masks/deep/b.png", [[0, 1, IGNORE]])
    source = index_masks(folder)
    labels = source.read_labels(list(source.scan())[1])
    assert labels.classes_HW.tolist() == [[0, 1, IGNORE]]
    assert labels.scores_HW is None
    assert labels.classes_HW.flags.c_contiguous


@pytest.mark.parametrize("value", [2, 254])
def test_a_value_out_of_range_is_explained(folder: Path, value: int) -> None:
    mask(folder / "masks/a.png", [[0, value, IGNORE]])
    message = rf"a\.png holds the value {value}; with 2 classes values are 0 to 1, and 255 for ignore: ground, sky"
    with pytest.raises(DataError, match=message):
        index_masks(folder).read_labels(next(index_masks(folder).scan()))


def test_a_coloured_index_mask_is_explained(folder: Path) -> None:
    mask(folder / "masks/a.png", [[[1, 2, 3]]])
    with pytest.raises(DataError, match=r"a\.png holds colours, .* the data source 'segmentation/colour-masks'"):
        index_masks(folder).read_labels(next(index_masks(folder).scan()))


# --- colours ---


def read(source: ColourMasks) -> list[list[int]]:
    values: list[list[int]] = source.read_labels(next(source.scan())).classes_HW.tolist()
    return values


def test_colours_become_classes(folder: Path) -> None:
    mask(folder / "masks/a.png", [[[10, 20, 30], [0, 0, 255]], [[0, 0, 0], [0, 0, 255]]])
    source = colour_masks(folder)
    assert read(source) == [[0, 1], [IGNORE, 1]]
    assert source.read_labels(next(source.scan())).classes_HW.dtype == np.uint8


def test_classes_are_those_of_the_run_and_not_of_the_table(folder: Path) -> None:
    """The order in which colours are listed, and classes that the table lacks, change nothing."""
    mask(folder / "masks/a.png", [[[0, 0, 255], [9, 9, 9]]])
    source = colour_masks(folder, colours={"sky": (0, 0, 255)}, ignore=((9, 9, 9),))
    assert read(source) == [[1, IGNORE]]


def test_a_grey_mask_has_colours_too(folder: Path) -> None:
    mask(folder / "masks/a.png", [[0, 255]])
    assert read(colour_masks(folder, colours={"ground": (0, 0, 0), "sky": (255, 255, 255)}, ignore=())) == [[0, 1]]


def test_every_bit_of_a_colour_counts(folder: Path) -> None:
    """No colour is taken for its neighbour."""
    near = [
        np.array(COLOURS["ground"]) + step for step in np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    ]
    mask(folder / "masks/a.png", [[*near, COLOURS["ground"]]])
    assert read(colour_masks(folder, unknown_colour="ignore")) == [[IGNORE] * 6 + [0]]


def test_an_unknown_colour_is_explained(folder: Path) -> None:
    mask(folder / "masks/a.png", [[[10, 20, 30], [0, 0, 255]], [[0, 0, 0], [0, 1, 254]]])
    message = (
        r"a\.png has the colour \[0, 1, 254\] at column 1, row 1, which is no class's; the closest is 'sky' "
        r"\[0, 0, 255\]\. 25 % of its pixels have such colours\. Add the colour to 'colours' or 'ignore', or set "
        "unknown_colour: ignore"
    )
    with pytest.raises(DataError, match=message):
        read(colour_masks(folder))


def test_a_jpeg_mask_is_refused(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "masks/a.png", format="JPEG")
    with pytest.raises(DataError, match=r"a\.png is a JPEG, which changes pixel values"):
        read(colour_masks(folder))


def test_classes_that_the_run_lacks_are_explained_with_both_lists(folder: Path) -> None:
    with pytest.raises(DataError) as error:
        colour_masks(folder, colours={"Sky": (0, 0, 255), "ground": (1, 1, 1)}, ignore=())
    first, *lists = str(error.value).splitlines()
    assert first.startswith(
        "colours names 'Sky', not among data.classes (did you mean 'sky'?); name them under 'ignore'"
    )
    assert lists == [
        "  colours: Sky, ground",
        "  data.classes: ground, sky",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ignore": ("viod",)}, r"ignore names 'viod', which colours does not hold: ground, sky, void"),
        (
            {"colours": {"ground": (1, 1, 1), "sky": (1, 1, 1)}, "ignore": ()},
            r"'ground' and 'sky' have the same colour",
        ),
        ({"ignore": ((0, 0, 255),)}, r"'sky' and 'ignore' have the same colour \[0, 0, 255\]"),
        ({"colours": {"ground": (1, 1, 256)}}, r"colours\.ground\.2"),
        ({"colours": {}, "ignore": ()}, "at least 1 item"),
    ],
)
def test_unusable_colours_are_explained(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        colour_masks(folder, **settings)


def test_the_look_up_table_does_not_travel(folder: Path) -> None:
    mask(folder / "masks/a.png", [[[10, 20, 30]]])
    source = colour_masks(folder)
    assert read(source) == [[0]]
    assert len(pickle.dumps(source)) < 5000
    assert read(pickle.loads(pickle.dumps(source))) == [[0]]


# --- class tables ---


@pytest.mark.parametrize(
    "text",
    [
        "name,r,g,b\nground,10,20,30\nsky,0,0,255\n",
        'name, r, g, b\n\n"ground", 10, 20, 30\nsky,0,0,255',
        "\ufeff10 20 30 ground\n0 0 255\t\tsky\n",
        "# r g b name\n10\t20\t30\tground\n  0   0 255 sky  \n",
    ],
)
def test_class_tables_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    assert read_class_table(tmp_path / "table.csv") == {"ground": (10, 20, 30), "sky": (0, 0, 255)}


def test_names_in_class_tables_may_hold_spaces_and_commas(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text('"road, wet",1,2,3\ntraffic light,4,5,6\n')
    assert list(read_class_table(tmp_path / "table.csv")) == ["road, wet", "traffic light"]
    (tmp_path / "table.txt").write_text("1 2 3 traffic light\n")
    assert list(read_class_table(tmp_path / "table.txt")) == ["traffic light"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"the class table .*table\.csv cannot be read: .*No such file"),
        ("", r"table\.csv holds no class; a line has the form 'name,r,g,b' or 'r g b name'"),
        ("ground,1,2\n", r"table\.csv, line 1: 'ground,1,2' is neither 'name,r,g,b' nor 'r g b name'"),
        ("name,r,g,b\nground,1,2,256\n", r"line 2: 'ground,1,2,256' is neither .*, r, g, b 0 to 255"),
        ("ground,1,2,-3\n", r"line 1: 'ground,1,2,-3' is neither"),
        ("1 2 3 sky\n4 5 6 sky\n", r"line 2: the class 'sky' stands twice"),
    ],
)
def test_unusable_class_tables_are_explained(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_class_table(tmp_path / "table.csv")


def test_a_class_table_is_found_beside_the_configuration_and_part_of_the_results_identity(folder: Path) -> None:
    def options(text: str) -> Any:
        (folder / "classes.csv").write_text(text)
        source = {"name": "segmentation/colour-masks", "images": "i", "masks": "m", "colours": "classes.csv"}
        data = {"sources": {"all": source}, "classes": list(CLASSES)}
        data |= dict.fromkeys(("labelled", "unlabelled", "validation", "test"), "all")
        raw = {"data": data, "task": "segmentation/semantic", "backbone": "timm/test_resnet"}
        return parse_config(raw, base_dir=folder).data.sources["all"].options

    first = options("ground,10,20,30\nsky,0,0,255\n")
    assert first.colours == {"ground": (10, 20, 30), "sky": (0, 0, 255)}
    assert identity(options("ground,10,20,31\nsky,0,0,255\n")) != identity(first)
    with pytest.raises(ConfigError, match=r"sources\.all.*classes\.csv, line 2: 'x,1' is neither"):
        options("ground\nx,1")


class TestColourMasks(DataSourceContract):
    spec_name = "segmentation/colour-masks"

    def write(self, folder: Path) -> dict[str, Any]:
        ids = ["b", "a", "deep/c"]
        write_images(folder / "images", ids)
        colours = {name: [40 * number, 10, 255 - number] for number, name in enumerate(self.classes)}
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(colours)] = list(colours.values())
        for number, id_ in enumerate(ids):
            labels = mask_labels((20 + number, 30), len(self.classes), number, scored=False)
            path = folder / "masks" / f"{id_}_L.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(palette[labels.classes_HW]).save(path)
        return {
            "images": str(folder / "images"),
            "masks": str(folder / "masks"),
            "mask_name": "{id}_L.png",
            "colours": colours,
            "ignore": [[0, 0, 0]],
        }
