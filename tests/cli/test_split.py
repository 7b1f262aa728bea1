"""``selftrain split``."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from selftrain.main import main
from selftrain_core.config import load_config
from selftrain_core.index import build_source
from selftrain_core.testing.samples import write_images

CONFIG = """
data:
  sources:
    all: {name: segmentation/index-masks, images: images, masks: masks}
    photos: {name: core/images, images: images}
  labelled: all
  unlabelled: photos
  validation: all
  test: all
  classes: [ground, sky, rare, never]
task: segmentation/semantic
backbone: {name: timm/test_resnet, init: random}
"""
NUMBER = 40


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a configuration over forty masks: ground everywhere, sky in every second, the rare class in two."""
    ids = [f"{'ab'[n % 2]}/photo {n}" for n in range(NUMBER)]
    write_images(tmp_path / "images", ids, size=(4, 8))
    for n, id_ in enumerate(ids):
        classes_HW = np.zeros((4 + n, 8), np.uint8)
        classes_HW[0] = 1 if n % 4 < 2 else 0
        classes_HW[1, 0] = 2 if n in (3, 30) else 255
        path = tmp_path / "masks" / f"{id_}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(classes_HW).save(path)
    (tmp_path / "my.yaml").write_text(CONFIG)
    return tmp_path / "my.yaml"


def split(config: Path, *arguments: str, source: str = "all") -> Result:
    output = str(config.parent / "splits")
    return CliRunner().invoke(main, ["split", str(config), "--source", source, "-o", output, *arguments])


def lists(config: Path) -> dict[str, list[str]]:
    return {path.stem: path.read_text().splitlines() for path in sorted((config.parent / "splits").iterdir())}


def test_lists_are_nested_disjoint_and_of_their_size(config: Path) -> None:
    sizes = ["--count", "4", "--count", "10", "--fraction", "0.75", "--validation", "0.15", "--test", "0.25"]
    result = split(config, *sizes, "--seed", "0", "--seed", "1")
    assert result.exit_code == 0, result.output
    found = {name: set(ids) for name, ids in lists(config).items()}
    seeds = {f"labelled-{size}-seed{seed}" for size in (4, 10, 18) for seed in (0, 1)}
    assert set(found) == seeds | {"train", "val", "test"}
    assert [len(found[name]) for name in ("train", "val", "test")] == [24, 6, 10]
    assert len(found["train"] | found["val"] | found["test"]) == NUMBER
    for seed in (0, 1):
        few, more, most = (found[f"labelled-{size}-seed{seed}"] for size in (4, 10, 18))
        assert (len(few), len(more), len(most)) == (4, 10, 18)
        assert few < more < most < found["train"]
    assert found["labelled-10-seed0"] != found["labelled-10-seed1"]
    assert sum(int(id_.split()[1]) % 4 < 2 for id_ in found["labelled-10-seed0"]) == 5


def test_a_rare_class_is_in_every_list(config: Path) -> None:
    result = split(config, "--count", "2", "--count", "3", *(f"--seed={seed}" for seed in range(5)))
    assert result.exit_code == 0, result.output
    for name, ids in lists(config).items():
        assert {"b/photo 3", "a/photo 30"} & set(ids), name


def test_lists_are_the_same_again_and_usable(config: Path) -> None:
    assert split(config, "--count", "5").exit_code == 0
    before = lists(config)
    assert split(config, "--count", "5", "--force").exit_code == 0
    assert lists(config) == before
    assert split(config, "--count", "5", "--validation", "0.2", "--force").exit_code == 0
    data = load_config(config, ["data.sources.all.list=splits/labelled-5-seed0.txt"]).data
    entries = build_source(data.sources["all"], data.class_names()).scan()
    assert sorted(entry.id for entry in entries) == lists(config)["labelled-5-seed0"]


def test_the_table_shows_images_and_shares(config: Path) -> None:
    result = split(config, "--count", "10")
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.strip()}
    assert rows["class"] == ["all", "10-seed0"]
    assert rows["(images)"] == ["40", "10"]
    assert (rows["ground"][0], rows["ground"][2]) == ("40", "10")
    assert (rows["sky"][0], rows["sky"][2]) == ("20", "5")
    assert rows["never"] == ["0", "0.0%", "0", "0.0%"]
    assert "warning: no image of the source shows: never" in result.stderr
    assert result.stdout.splitlines()[-1] == f"written to {config.parent / 'splits'}: labelled-10-seed0.txt"


def test_a_class_that_no_list_can_hold_is_told(config: Path) -> None:
    result = split(config, "--count", "1", "--set", "data.sources.all.list=few.txt")
    assert result.exit_code == 2
    (config.parent / "few.txt").write_text("b/photo 1\nb/photo 3\n")
    result = split(config, "--count", "1", "--set", "data.sources.all.list=few.txt")
    assert result.exit_code == 0, result.output
    assert "warning: no image of labelled-1-seed0.txt shows: rare" in result.stderr


def test_existing_lists_are_kept(config: Path) -> None:
    assert split(config, "--count", "5").exit_code == 0
    before = lists(config)
    result = split(config, "--count", "5", "--count", "6")
    assert result.exit_code == 3
    assert "already holds labelled-5-seed0.txt; results that were made with these lists" in result.stderr
    assert "Give another folder, or --force" in result.stderr
    assert lists(config) == before


@pytest.mark.parametrize(
    ("arguments", "source", "message"),
    [
        ([], "all", "nothing to write: give --count, --fraction, --validation or --test"),
        (["--count", "41"], "all", "--count 41: there are 40 images to draw from"),
        (
            ["--count", "5"],
            "al",
            "--source al: data.sources has no such name (did you mean 'all'?); sources: all, photos",
        ),
        (["--count", "5"], "photos", "comes from a 'core/images' source, which has no labels"),
        (["--validation", "0.6", "--test", "0.4"], "all", "--validation 0.6 and --test 0.4 leave none of 40 images"),
        (["--fraction", "1.5"], "all", "1.5 is not in the range"),
    ],
)
def test_what_cannot_be_split_is_explained(config: Path, arguments: list[str], source: str, message: str) -> None:
    result = split(config, *arguments, source=source)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (config.parent / "splits").exists()


def test_a_name_that_fits_in_no_line_is_explained(config: Path) -> None:
    write_images(config.parent / "images", ["new\nline"])
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(config.parent / "masks/new\nline.png")
    result = split(config, "--count", "5")
    assert result.exit_code == 2
    assert r"'new\nline' cannot stand in a list, which has one id per line; rename" in result.stderr


def test_an_unwritable_folder_is_explained(config: Path) -> None:
    (config.parent / "splits").write_text("a file")
    result = split(config, "--count", "5")
    assert result.exit_code == 3
    assert "splits cannot be written: " in result.stderr


def test_lists_hold_one_id_per_line(config: Path) -> None:
    assert split(config, "--fraction", "1").exit_code == 0
    text = (config.parent / "splits/labelled-40-seed0.txt").read_text()
    assert text.endswith("\n")
    assert text.splitlines() == sorted(text.splitlines())
    assert json.dumps(text).count("photo") == NUMBER
