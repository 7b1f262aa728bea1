"""The data sources do what every data source must, and none imports torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from selftrain_core.testing import DataSourceContract
from selftrain_core.testing.samples import box_labels, write_images

IDS = ["b", "a", "deep/c"]
SIZE = (20, 30)


def boxes(number: int, classes: int) -> list[tuple[int, list[float]]]:
    """Return class and corners of the boxes of an image that `write_images` writes; the last sticks out a little."""
    labels = box_labels((SIZE[0] + number, SIZE[1]), classes, number, scored=False)
    found = list(zip(labels.labels_N.tolist(), labels.boxes_N4.tolist(), strict=True))
    return [*found, (0, [20.0, 10.0, 30.5, 15.0]), (1, [-9.0, 1.0, 5.0, 5.0])]


class TestCoco(DataSourceContract):
    spec_name = "detection/coco"

    def write(self, folder: Path) -> dict[str, Any]:
        write_images(folder / "images", IDS, size=SIZE)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, id_ in enumerate(IDS):
            images.append({"id": number + 9, "file_name": f"{id_}.png", "ignore_regions": [[1, 1, 5, 5]]})
            for label, (x0, y0, x1, y1) in boxes(number, 3):
                box, id_here = [x0, y0, x1 - x0, y1 - y0], len(annotations)
                annotations.append({"id": id_here, "image_id": number + 9, "category_id": 3 - label, "bbox": box})
                annotations[-1] |= {"area": 9, "iscrowd": 1} if id_here % 2 else {}
        categories = [{"id": 3 - place, "name": name} for place, name in enumerate(self.classes)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "instances.json").write_text(json.dumps(content))
        return {"images": str(folder / "images"), "annotations": str(folder / "instances.json")}


class TestVoc(DataSourceContract):
    spec_name = "detection/voc"

    def write(self, folder: Path) -> dict[str, Any]:
        write_images(folder / "images", IDS, size=SIZE)
        for number, id_ in enumerate(IDS):
            objects = ""
            for label, (x0, y0, x1, y1) in boxes(number, 3):
                corners = f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
                difficult = f"<difficult>{label % 2}</difficult>"
                objects += f"<object><name>{self.classes[label]}</name>{difficult}<bndbox>{corners}</bndbox></object>"
            path = folder / "xml" / f"{id_}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"<annotation>{objects}</annotation>")
        return {"images": str(folder / "images"), "annotations": str(folder / "xml")}


class TestYolo(DataSourceContract):
    spec_name = "detection/yolo"

    def write(self, folder: Path) -> dict[str, Any]:
        write_images(folder / "images/train", IDS, size=SIZE)
        for number, id_ in enumerate(IDS):
            height, width = SIZE[0] + number, SIZE[1]
            lines = [
                f"{label} {(x0 + x1) / 2 / width} {(y0 + y1) / 2 / height} {(x1 - x0) / width} {(y1 - y0) / height}"
                for label, (x0, y0, x1, y1) in boxes(number, 3)
            ]
            path = folder / "labels/train" / f"{id_}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines))
        (folder / "data.yaml").write_text(yaml.safe_dump({"train": "images/train", "names": list(self.classes)}))
        return {"data": str(folder / "data.yaml")}


class TestYoloFolders(TestYolo):
    def write(self, folder: Path) -> dict[str, Any]:
        super().write(folder)
        return {"images": str(folder / "images/train"), "names": list(self.classes)}


@pytest.mark.parametrize("name", ["coco", "voc", "yolo", "source_config"])
def test_sources_import_no_torch(name: str) -> None:
    code = f"import sys, selftrain_detection.{name}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"selftrain_detection.{name}" in done.stdout.split()
    assert "torch" not in done.stdout.split()
