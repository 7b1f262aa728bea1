from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from selftrain import init_command
from selftrain.data_folder import look_at
from selftrain.data_parts import share_out
from selftrain.measuring import Stopwatch
from selftrain_core.config import load_config
from selftrain_core.errors import DataError
from selftrain_core.progress import Event
from selftrain_core.rounds import self_train

Write = Callable[..., None]
Init = Callable[..., Result]
Counts = Callable[[Path], dict[str, int]]


@pytest.fixture
def data(tmp_path: Path, photo: Write, mask: Write) -> Path:
    """Return a folder of 14 images of which 9 have masks."""
    folder = tmp_path / "data"
    for number in range(14):
        photo(folder / f"images/p{number:02}.png", number)
        if number < 9:
            mask(folder / f"masks/p{number:02}.png")
    (folder / "classes.txt").write_text("ground\nthing\n")
    return folder


def test_what_is_found_is_shown_and_written(data: Path, tmp_path: Path, fast: None, init: Init, counts: Counts) -> None:
    path = tmp_path / "my.yaml"
    shown = init(data, "-o", path, "--minutes", 10).stdout
    assert f"images  {data / 'images'}: 14, 40×48 pixels (height × width)" in shown
    assert f"masks   {data / 'masks'}: 9, segmentation/index-masks, called {{id}}.png" in shown
    assert "parts   6 labelled, 5 unlabelled, 1 validation, 2 test" in shown
    assert "validation: 1 images with masks chosen by a hash of their names, for want of a list" in shown
    assert "thing 9 13.33 %" in [" ".join(line.split()) for line in shown.splitlines()]
    assert f"next: selftrain run {path} -o runs/first" in shown
    config = load_config(path)
    assert config.canvas == (64, 96)
    assert config.data.class_names() == ("ground", "thing")
    assert counts(path) == {"labelled": 6, "unlabelled": 5, "validation": 1, "test": 2}
    assert "# labelled images in each step" in path.read_text()
    said = init(data, "-o", path, code=3).stderr
    assert f"{path} is there already; nothing was written" in said and "--force" in said
    found = json.loads(init(data, "-o", path, "--force", "--json").stdout)
    assert found["images"]["unlabelled"] == 5 and found["steps"] == load_config(path).teacher.steps


@pytest.mark.parametrize("suffix", ["_mask", "_L", "-seg", "_gt_final"])
def test_masks_may_have_a_suffix(
    data: Path, suffix: str, tmp_path: Path, fast: None, init: Init, counts: Counts
) -> None:
    (data / "masks").rename(data / "SegmentationClass")
    for path in sorted((data / "SegmentationClass").iterdir()):
        path.rename(path.with_name(f"{path.stem}{suffix}.png"))
    assert f"called {{id}}{suffix}.png" in init(data, "-o", tmp_path / "my.yaml").stdout
    assert counts(tmp_path / "my.yaml")["labelled"] == 6


def test_lists_that_are_there_are_taken(data: Path, tmp_path: Path, fast: None, init: Init, counts: Counts) -> None:
    (data / "splits").mkdir()
    for name, numbers in (("train", range(5)), ("val", (5, 6)), ("test", (7, 8))):
        (data / f"splits/{name}.txt").write_text("".join(f"p{number:02}.png\n" for number in numbers))
    shown = init(data, "-o", tmp_path / "my.yaml").stdout
    assert "parts   5 labelled, 5 unlabelled, 2 validation, 2 test" in shown
    assert "by a hash" not in shown
    assert sorted(path.name for path in tmp_path.rglob("my-lists/*")) == ["unlabelled.txt"]
    assert counts(tmp_path / "my.yaml")["labelled"] == 5
    (data / "splits/val.txt").write_text("p05\ngone\n")
    said = init(data, "-o", tmp_path / "other.yaml", code=2).stderr
    assert "val.txt names 'gone', but" in said and "move the list away: images are then shared out anew" in said
    (data / "splits/val.txt").write_text("p12\n")
    said = init(data, "-o", tmp_path / "other.yaml", code=2).stderr
    assert "val.txt: 'p12' of the validation images has no mask" in said


def test_the_same_images_are_chosen_each_time(data: Path) -> None:
    assert share_out(look_at(data)).ids == share_out(look_at(data)).ids
    before = share_out(look_at(data)).ids
    Image.new("RGB", (48, 40)).save(data / "images/zzz.png")
    after = share_out(look_at(data)).ids
    assert after["test"] == before["test"] and after["unlabelled"] == [*before["unlabelled"], "zzz"]


def test_masks_of_colours_need_a_table(data: Path, tmp_path: Path, fast: None, init: Init, counts: Counts) -> None:
    colours = np.array([[0, 0, 0], [250, 10, 10]] + [[255, 255, 255]] * 254, np.uint8)
    for path in (data / "masks").iterdir():
        Image.fromarray(colours[np.array(Image.open(path))]).save(path)
    (data / "classes.txt").unlink()
    said = init(data, "-o", tmp_path / "my.yaml", code=2).stderr
    assert "holds colours, but" in said and "classes.csv, with a line name,r,g,b for each class" in said
    assert "colours in this mask: 0,0,0; 250,10,10; 255,255,255" in said
    (data / "class_dict.csv").write_text("name,r,g,b\nground,0,0,0\nVoid,255,255,255\nthing,250,10,10\n")
    shown = init(data, "-o", tmp_path / "my.yaml").stdout
    assert "segmentation/colour-masks" in shown and "classes 2, from class_dict.csv" in shown
    config = load_config(tmp_path / "my.yaml")
    assert config.data.class_names() == ("ground", "thing")
    assert counts(tmp_path / "my.yaml")["labelled"] == 6


def test_class_names_may_be_missing(data: Path, tmp_path: Path, fast: None, init: Init) -> None:
    (data / "classes.txt").unlink()
    assert "from the values in the masks: give them names" in init(data, "-o", tmp_path / "my.yaml").stdout
    assert load_config(tmp_path / "my.yaml").data.class_names() == ("class 0", "class 1")


def test_class_names_may_stand_in_json(data: Path, tmp_path: Path, fast: None, init: Init) -> None:
    (data / "classes.json").write_text(json.dumps({"classes": ["a", "b", "c"]}))
    shown = init(data, "-o", tmp_path / "my.yaml").stdout
    assert "warning: the class 'c' is in 0 of 9 masks: too few to learn it, or to measure it" in shown
    assert "classes: data/classes.json" in (tmp_path / "my.yaml").read_text()
    assert load_config(tmp_path / "my.yaml").data.allow_missing_classes
    for text, message in (("{", "is no JSON"), ('["a", "a"]', "holds no list of distinct class names")):
        (data / "classes.json").write_text(text)
        assert message in init(data, "-o", tmp_path / "other.yaml", code=2).stderr
    (data / "classes.json").write_text('["a"]')
    assert "holds the value 1; with 1 classes" in init(data, "-o", tmp_path / "other.yaml", code=2).stderr


def test_without_a_pool_labels_are_hidden(data: Path, tmp_path: Path, fast: None, init: Init, counts: Counts) -> None:
    for number in range(9, 14):
        (data / f"images/p{number:02}.png").unlink()
    shown = init(data, "-o", tmp_path / "my.yaml").stdout
    assert "warning: there is no image without a mask, so half of the labelled images play" in shown
    assert counts(tmp_path / "my.yaml") == {"labelled": 3, "unlabelled": 3, "validation": 1, "test": 2}


def test_a_small_pool_is_told(data: Path) -> None:
    found = look_at(data)
    share_out(found)
    assert any("fewer unlabelled images (5) than labelled ones (6)" in warning for warning in found.warnings)


def test_several_folders_are_told(data: Path, photo: Write) -> None:
    photo(data / "photos/x.png", 0)
    (data / "labels").mkdir()
    warnings = look_at(data).warnings
    assert "images was taken for the images; there is also photos: --images takes another" in warnings
    assert "masks was taken for the masks; there is also labels: --masks takes another" in warnings


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (
            "masks",
            {},
            r"holds no folder of masks under a usual name \(masks, .*it holds: classes\.txt, images/, other/",
        ),
        ("images", {}, r"holds no folder of images under a usual name(.|\n)*name it: --images FOLDER"),
        (None, {"masks": "gone"}, r"--masks gone: .* holds no such folder; it holds: classes\.txt, images/, masks/"),
    ],
)
def test_missing_folders_are_explained(change: str | None, arguments: dict[str, str], message: str, data: Path) -> None:
    if change:
        (data / change).rename(data / "other")
    with pytest.raises(DataError, match=message):
        look_at(data, **arguments)
    if change:
        assert len(look_at(data, **{change: "other"}).labelled) == 9


def test_masks_of_other_names_are_explained(data: Path) -> None:
    for path in sorted((data / "masks").iterdir()):
        path.rename(path.with_name(f"seg{path.stem}.png"))
    with pytest.raises(
        DataError, match=r"no image in .* has a mask(.|\n)*called: p00, p01, p02(.|\n)*called: segp00\.png"
    ):
        look_at(data)
    with pytest.raises(DataError, match="is no folder; give one that holds a folder of images"):
        look_at(data / "gone")


def test_too_few_masks_are_explained(data: Path) -> None:
    for number in range(2, 9):
        (data / f"masks/p{number:02}.png").unlink()
    with pytest.raises(DataError, match="holds 2 images with masks: too few to train on, to validate and to test"):
        share_out(look_at(data))


def test_too_little_time_is_told(data: Path, tmp_path: Path, fast: None, init: Init) -> None:
    said = init(data, "-o", tmp_path / "my.yaml", "--minutes", 0.1, code=2).stderr
    assert "0.1 minutes are too short: even at 64×96 pixels this machine has time for 0 steps of each model" in said
    assert "it needs about 1.0 minutes: --minutes 2; or fewer unlabelled images" in said
    assert not (tmp_path / "my.yaml").exists()


@pytest.mark.slow
def test_what_is_written_runs(
    data: Path, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, init: Init
) -> None:
    """The machine is really measured; the run is cut down to two steps."""
    monkeypatch.setattr(init_command, "SETTINGS", {"backbone": settings["backbone"]})
    monkeypatch.setattr(init_command, "task_of", lambda found: settings["task"])
    init(data, "-o", tmp_path / "my.yaml", "--minutes", 5)
    decoder = "{name: fpn, pyramid_channels: 32, segmentation_channels: 32}"
    overrides = ["backbone.name=timm/test_resnet", "backbone.init=random", f"task.decoder={decoder}"]
    overrides += ["teacher.steps=2", "student.steps=2", "device.workers=0"]
    summary = self_train(load_config(tmp_path / "my.yaml", overrides), tmp_path / "run", in_process=True)
    assert {model["name"] for model in summary["models"]} == {"teacher", "student", "baseline"}


def test_the_stopwatch_reads_what_a_run_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    told = (
        (0, Event("started", "teacher")),
        (5, Event("progress", "teacher", 8)),
        (7, Event("progress", "teacher", 48)),
        (10, Event("score", "teacher", 48)),
        (20, Event("started", "labels")),
        (22, Event("progress", "labels", 5)),
    )
    clock = iter(seconds for seconds, _ in told)
    monkeypatch.setattr("selftrain.measuring.time.monotonic", lambda: next(clock))
    watch = Stopwatch()
    for _, event in told:
        watch(event)
    assert watch.per_image("teacher") == pytest.approx(2 / 40)
    assert watch.validating("teacher") == 3
    assert watch.per_image("labels") == pytest.approx(2 / 5), "one batch: since the stage began"
    assert watch.starting("labels") == 2
