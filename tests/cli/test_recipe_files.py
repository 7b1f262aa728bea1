"""A recipe with sets in the places that it names: the commands at its top make the rest, and it can be run."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from selftrain.main import main
from selftrain.recipes import datasets
from selftrain.recipes.cells import all_cells
from selftrain.recipes.datasets import CLASSES

IMAGES = 50


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(len(str(folder)))
    for name in names:
        Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{name}.jpg")


def write_coco(name: str, count: int) -> None:
    names = [f"{name}-{number}" for number in range(count)]
    write_images(Path("coco") / name, names)
    boxes = [
        {"id": number + 1, "image_id": number, "category_id": number % 80 + 1, "bbox": [2, 3, 8, 9], "area": 72,
         "iscrowd": 0}
        for number in range(count)
    ]  # fmt: skip
    images = [
        {"id": number, "file_name": f"{each}.jpg", "height": 16, "width": 16} for number, each in enumerate(names)
    ]
    categories = [{"id": number + 1, "name": each} for number, each in enumerate(CLASSES["coco"])]
    Path("coco/annotations").mkdir(exist_ok=True)
    path = Path("coco/annotations") / f"instances_{name}.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}), encoding="utf-8")


def write_voc() -> None:
    names = {"train": [f"t{number}" for number in range(IMAGES)], "val": ["v0", "v1"]}
    names["trainval"] = [*names["train"], *names["val"]]
    names["trainaug"] = [*names["train"], *(f"a{number}" for number in range(IMAGES))]
    every = [*names["trainaug"], *names["val"]]
    write_images(Path("voc2012/JPEGImages"), every)
    Path("voc2012/ImageSets/Segmentation").mkdir(parents=True)
    for folder, those in (("SegmentationClass", names["trainval"]), ("SegmentationClassAug", every)):
        Path(f"voc2012/{folder}").mkdir()
        for number, name in enumerate(those):
            Image.fromarray(np.full((16, 16), number % 21, np.uint8)).save(f"voc2012/{folder}/{name}.png")
    for part, listed in names.items():
        Path(f"voc2012/ImageSets/Segmentation/{part}.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a folder with few images in the places of the paper's sets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "COCO_IMAGES", IMAGES)
    write_coco("train2017", IMAGES)
    write_coco("val2017", 3)
    write_voc()
    for name in ("n01", "n02"):
        write_images(Path("imagenet/train") / name, [f"{name}-{number}" for number in range(3)])
    write_images(Path("open-images/train"), ["o1", "o2"])


@pytest.mark.usefixtures("sets")
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        (
            "table7-b7-retinanet-imagenet-s4-coco20-self-imagenet-joint",
            {"labelled": 10, "unlabelled": 6, "validation": 1, "test": 3, "joint.imagenet": 6},
        ),
        (
            "table7-b7-retinanet-random-s4-coco20-joint",
            {"labelled": 10, "unlabelled": 0, "validation": 1, "test": 3, "joint.imagenet": 6},
        ),
        ("table5-spinenet-143-random-s3-coco-self-oid", {"labelled": 49, "unlabelled": 2, "validation": 1, "test": 3}),
        (
            "table6-b7-nas-fpn-imagenetpp-s4-voc-self-vocaug",
            {"labelled": 49, "unlabelled": 50, "validation": 1, "test": 2},
        ),
        (
            "table6-l2-nas-fpn-imagenetpp-s4-voctrainval-self-vocaug",
            {"labelled": 50, "unlabelled": 50, "validation": 1, "test": 1},
        ),
        ("table8-b7-nas-fpn-imagenetpp-s4-vocaug", {"labelled": 98, "unlabelled": 0, "validation": 2, "test": 2}),
    ],
)
def test_its_commands_make_what_it_needs(name: str, counts: dict[str, int]) -> None:
    prepare([name])
    found: dict[str, Any] = json.loads(invoke("run", f"{name}.yaml", "-o", "run", "--dry-run", "--json"))
    assert found["images"] == counts
    kinds = {stage["kind"] for stage in found["stages"]}
    assert ("learn" in kinds) == (counts["unlabelled"] > 0)


@pytest.mark.usefixtures("sets")
def test_recipes_share_what_is_made() -> None:
    """Every command is given once, whatever the number of recipes; all hold out the same images of a set."""
    names = [name for name, cell in all_cells().items() if cell.table in (3, 8) and "simclr" not in name]
    prepare(names)
    labelled = {}
    for name in names:
        found = json.loads(invoke("run", f"{name}.yaml", "-o", f"runs/{name}", "--dry-run", "--json"))
        labelled[all_cells()[name].labelled] = found["images"]["labelled"]
    assert labelled == {"coco-20": 10, "coco-50": 25, "coco": 49, "voc": 49, "voc-aug": 98}


def prepare(names: list[str]) -> None:
    """Write recipes, and run each command at their tops once."""
    done = set()
    for name in names:
        recipe = invoke("recipes", "show", name)
        Path(f"{name}.yaml").write_text(recipe, encoding="utf-8")
        top = recipe.partition("# To be made first")[2].partition("# What the paper")[0]
        for command in (line.removeprefix("#   ") for line in top.splitlines() if line.startswith("#   ")):
            if command in done:
                continue
            done.add(command)
            needed, colon, _ = command.partition(": ")
            if colon and " " not in needed:
                assert Path(needed).exists(), "what is said to be needed is what is read"
                continue
            program, *arguments = shlex.split(command.replace("RECIPE", name))
            if program == "python":
                subprocess.run([sys.executable, *arguments], check=True)
            else:
                assert program == "selftrain"
                invoke(*arguments)
