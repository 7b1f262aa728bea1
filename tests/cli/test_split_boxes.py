"""``selftrain split`` of images with boxes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from selftrain.main import main
from selftrain_core.testing.samples import write_images

CONFIG = """
data:
  sources:
    coco: {name: detection/coco, images: images, annotations: instances.json}
    yolo: {name: detection/yolo, images: images, labels: labels, names: [car, rare, never]}
    photos: {name: core/images, images: images}
  labelled: coco
  unlabelled: photos
  validation: coco
  test: coco
  classes: [car, rare, never]
task: detection/retinanet
backbone: {name: timm/test_resnet, init: random}
"""
NUMBER = 40


def shown_by(number: int) -> list[int]:
    """Return the classes of an image's boxes: two cars in every second, the rare class in two."""
    return [0, 0] * (number % 2) + [1] * (number in (3, 30))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    ids = [f"photo-{n:02}" for n in range(NUMBER)]
    write_images(tmp_path / "images", ids, size=(20, 30))
    annotations = []
    (tmp_path / "labels").mkdir()
    for n, id_ in enumerate(ids):
        lines = [f"{c} 0.5 0.5 0.2 0.2\n" for c in shown_by(n)]
        (tmp_path / f"labels/{id_}.txt").write_text("".join(lines))
        annotations += [{"image_id": n, "category_id": c, "bbox": [12, 8, 6, 4]} for c in shown_by(n)]
    annotations.append({"image_id": 8, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 1})
    content = {
        "images": [{"id": n, "file_name": f"{id_}.png"} for n, id_ in enumerate(ids)],
        "annotations": [{"id": n, **each} for n, each in enumerate(annotations)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(("car", "rare", "never"))],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    (tmp_path / "my.yaml").write_text(CONFIG)
    return tmp_path / "my.yaml"


def split(config: Path, source: str, *arguments: str) -> Result:
    output = str(config.parent / source / "splits")
    result = CliRunner().invoke(main, ["split", str(config), "--source", source, "-o", output, *arguments])
    assert result.exit_code == 0, result.output
    return result


def lists(config: Path, source: str) -> dict[str, list[str]]:
    return {path.stem: path.read_text().splitlines() for path in sorted((config.parent / source / "splits").iterdir())}


@pytest.mark.parametrize("source", ["coco", "yolo"])
def test_boxes_are_split_by_what_images_show(config: Path, source: str) -> None:
    result = split(config, source, "--count", "4", "--count", "10", "--validation", "0.2", "--seed", "0", "--seed", "1")
    found = lists(config, source)
    assert len(found["val"]) == 8 and len(found["train"]) == 32
    cars = {name: sum(int(id_[-2:]) % 2 for id_ in ids) for name, ids in found.items()}
    assert cars["val"] == 4 and cars["labelled-10-seed0"] == 5
    for seed in (0, 1):
        assert set(found[f"labelled-4-seed{seed}"]) < set(found[f"labelled-10-seed{seed}"]) < set(found["train"])
        assert {"photo-03", "photo-30"} & set(found[f"labelled-4-seed{seed}"])
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.strip()}
    assert rows["(images)"][0] == "40" and rows["car"][0] == "20"
    assert rows["car"][1] == "95.2%", "40 of 42 boxes"
    assert "warning: no image of the source shows: never" in result.stderr


def test_crowds_are_not_what_an_image_shows(config: Path) -> None:
    shown = split(config, "coco", "--count", "20").stdout
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.strip()}
    assert rows["rare"][0] == "2", "nothing is learnt from a crowd"
