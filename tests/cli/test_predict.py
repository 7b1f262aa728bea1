from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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


@pytest.fixture
def model(finished_run: Path, tmp_path: Path) -> Path:
    for name in ("model.json", "model.safetensors"):
        (tmp_path / "model").mkdir(exist_ok=True)
        shutil.copy(finished_run / "round-1/student" / name, tmp_path / "model" / name)
    return tmp_path / "model"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_s_newest_student_predicts(finished_run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = predict(photos, "-o", out, "--model", finished_run, "--scales", "1,1.5", "--flip", "--batch", 2)
    assert f"model: {finished_run / 'round-1/student'}, last weights" in result.stderr
    assert "predict: finished" in result.stderr
    assert result.stdout.split() == ["3", "images:", *(str(out / n) for n in ("masks", "overlays", "predictions.json"))]
    names = ["a", "deep/b", "deep/c"]
    assert files(out) == [*(f"masks/{n}.png" for n in names), *(f"overlays/{n}.jpg" for n in names), "predictions.json"]
    found = json.loads((out / "predictions.json").read_text())
    assert found["model"] == str(finished_run / "round-1/student")
    assert found["classes"] == ["ground", "thing"] and found["quantity"] == "share of pixels"
    assert [view["scale"] for view in found["views"]] == [1.0, 1.0, 1.5, 1.5]
    for number, image in enumerate(found["images"]):
        assert (image["id"], image["height"], image["width"]) == (names[number], 30 + number, 50)
        with Image.open(out / image["labels"]) as mask:
            assert mask.mode == "P" and mask.size == (50, 30 + number)
            share = (np.array(mask) == 1).mean()
        assert image["classes"].get("thing", 0.0) == pytest.approx(share, rel=1e-5)
        with Image.open(out / f"overlays/{image['id']}.jpg") as overlay:
            assert overlay.height > 30 + number, "there is a legend below"


def test_a_folder_with_two_files_is_a_model(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "list.txt").write_text("photos/a.png\nphotos/deep/b.png\nphotos/gone.png\n")
    result = predict(tmp_path / "list.txt", "-o", out, "--model", model, "--no-overlays", "--json")
    summary = json.loads(result.stdout)
    assert summary["predicted"] == 2 and "images" not in summary
    assert summary["failures"] == [
        {"id": "gone", "file": str(photos / "gone.png"), "reason": f"{photos / 'gone.png'} does not exist"}
    ]
    assert "warning: 1 of 3 images could not be read:" in result.stderr
    assert files(out) == ["masks/a.png", "masks/deep/b.png", "predictions.json"]
    assert json.loads((out / "predictions.json").read_text())["failures"] == summary["failures"]


def test_only_unreadable_images_are_an_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    result = predict(tmp_path / "x.png", "-o", tmp_path / "out", "--model", model, code=2)
    assert f"none of the 1 images could be read:\n  {tmp_path / 'x.png'} cannot be read: it is empty" in result.stderr


def test_predictions_are_not_mixed(model: Path, photos: Path, tmp_path: Path) -> None:
    out = photos / "out"  # within the images: what was written is no input
    predict(photos, "-o", out, "--model", model)
    result = predict(photos / "a.png", "-o", out, "--model", model, code=3)
    assert f"holds predictions already, of {model}; nothing was written there" in result.stderr
    assert "to remove them and predict again: --overwrite" in result.stderr
    assert "3 images:" in predict(photos, "-o", out, "--model", model, "--overwrite", "--no-overlays").stdout
    assert files(out) == ["masks/a.png", "masks/deep/b.png", "masks/deep/c.png", "predictions.json"]
    (out / "predictions.json").rename(out / ".predictions.jsonl")  # as if it had been interrupted
    predict(photos / "a.png", "-o", out, "--model", model)
    assert files(out) == ["masks/a.png", "overlays/a.jpg", "predictions.json"]


@pytest.mark.parametrize("content", ["[1", "[]"])
def test_damaged_predictions_are_refused_like_others(model: Path, photos: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions.json").write_text(content)
    result = predict(photos, "-o", tmp_path / "out", "--model", model, code=3)
    assert "holds predictions already, of a model that it does not name" in result.stderr


def test_other_files_are_left_alone(model: Path, photos: Path) -> None:
    result = predict(photos, "-o", photos.parent, "--model", model, "--overwrite", code=3)
    assert f"the folder {photos.parent} holds no predictions, but model, photos; nothing was written" in result.stderr


def test_what_is_no_model_is_explained(photos: Path, tmp_path: Path) -> None:
    def said(where: Path) -> str:
        return predict(photos, "-o", tmp_path / "out", "--model", where, code=3).stderr

    assert "holds no model: neither model.safetensors nor, as a run does, round-0/teacher/model.safetensors" in said(
        photos
    )
    assert "no such folder" in said(tmp_path / "gone")
    assert "is a file; give the folder it lies in" in said(photos / "a.png")
    assert not (tmp_path / "out").exists()


def test_a_damaged_or_hostile_model_is_explained(model: Path, photos: Path, tmp_path: Path) -> None:
    def said(code: int = 3) -> str:
        return predict(photos, "-o", tmp_path / "out", "--model", model, code=code).stderr

    weights, text = model / "model.safetensors", (model / "model.json").read_text()
    whole = weights.read_bytes()
    weights.write_bytes(b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR.")  # a pickle
    assert f"the weights {weights} cannot be loaded" in said()
    weights.write_bytes(whole[: len(whole) // 2])
    assert f"the weights {weights} cannot be loaded" in said()
    weights.write_bytes(whole)
    description = json.loads(text)
    for changes, message in (
        ({"schema": 7}, "has schema 7, this version of selftrain reads 1"),
        ({"classes": "abc"}, "does not describe a model of selftrain: 'classes' is no list of names"),
        ({"canvas": None}, "does not describe a model of selftrain"),
    ):
        (model / "model.json").write_text(json.dumps({**description, **changes}))
        assert message in said()
    del description["task"]
    (model / "model.json").write_text(json.dumps(description))
    assert "does not describe a model of selftrain: 'task' is missing" in said()
    (model / "model.json").write_text(text.replace("segmentation/semantic", "segmentation/panoptic"))
    assert "no task is called 'segmentation/panoptic'" in said(2)
    (model / "model.json").write_text(text[:20])
    assert "model.json cannot be read" in said()


@pytest.mark.parametrize("scales", ["0", "1,,2", "big", "-1", "nan"])
def test_wrong_scales_are_explained(scales: str, photos: Path, tmp_path: Path) -> None:
    result = predict(photos, "-o", tmp_path / "out", "--model", tmp_path, "--scales", scales, code=2)
    assert f"--scales {scales}: expected numbers above 0 with commas between them, such as 0.5,1,1.5" in result.stderr
