from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from selftrain.main import main

Write = Callable[..., None]


def predict(*arguments: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["predict", "--device", "core/cpu", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def photos(tmp_path: Path, photo: Write) -> Path:
    for seed, name in enumerate(("a.png", "deep/b.png", "deep/c.jpg")):
        photo(tmp_path / "photos" / name, seed, (30 + seed, 50))
    return tmp_path / "photos"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_boxes_are_written_drawn_and_listed(finished_box_run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shown = predict(photos, "-o", out, "--model", finished_box_run, "--flip", "--batch", 2).stdout
    assert shown.split() == ["3", "images:", *(str(out / name) for name in ("boxes", "overlays", "predictions.json"))]
    names = ["a.png", "deep/b.png", "deep/c.jpg"]
    overlays = [f"overlays/{name.rpartition('.')[0]}.jpg" for name in names]
    assert files(out) == ["boxes/instances.json", "boxes/results.json", *overlays, "predictions.json"]
    found = json.loads((out / "predictions.json").read_text())
    assert found["classes"] == ["square", "circle"] and found["quantity"] == "boxes per image"
    assert found["threshold"] is None
    content = json.loads((out / "boxes/instances.json").read_text())
    assert [each["file_name"] for each in content["images"]] == names
    results = json.loads((out / "boxes/results.json").read_text())
    categories = {each["id"]: each["name"] for each in content["categories"]}
    for number, (image, written) in enumerate(zip(found["images"], content["images"], strict=True)):
        assert (image["height"], image["width"]) == (written["height"], written["width"]) == (30 + number, 50)
        assert image["labels"] is None, "the boxes of all images are in one file"
        mine = [each for each in results if each["image_id"] == written["id"]]
        assert image["classes"] == Counter(categories[each["category_id"]] for each in mine)
        assert all(each["bbox"][0] >= 0 and each["bbox"][0] + each["bbox"][2] <= 50.01 for each in mine)
    with Image.open(out / "overlays/deep/b.jpg") as overlay:
        assert overlay.width >= 50


def test_a_threshold_leaves_boxes_out(finished_box_run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(photos, "-o", out, "--model", finished_box_run)
    scores = [each["score"] for each in json.loads((out / "boxes/results.json").read_text())]
    limit = sorted(scores)[len(scores) // 2]
    predict(photos, "-o", out, "--model", finished_box_run, "--threshold", limit, "--overwrite")
    kept = [each["score"] for each in json.loads((out / "boxes/results.json").read_text())]
    assert 0 < len(kept) < len(scores) and min(kept) >= limit - 1e-6
    found = json.loads((out / "predictions.json").read_text())
    assert found["threshold"] == limit
    assert sum(sum(image["classes"].values()) for image in found["images"]) == len(kept)
    assert "is not in the range" in predict(photos, "-o", out, "--model", photos, "--threshold", 2, code=2).stderr
