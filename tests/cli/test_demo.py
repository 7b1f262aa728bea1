from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("sklearn", reason="the demo's extra is not installed")

from selftrain import demo
from selftrain.demo_config import RECIPES
from selftrain.demo_data import write_scenes
from selftrain.main import main
from selftrain.scenes import CLASSES, SPLITS, SceneSettings, make_scene
from selftrain_core.config import RunConfig, load_config
from selftrain_core.errors import RunError
from selftrain_core.index import Index, build_sources, write_index
from selftrain_core.labels import BoxLabels
from selftrain_core.progress import Observer

SMALL = SceneSettings(labelled=3, unlabelled=4, validation=2, test=2)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_what_is_written(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    assert write_scenes(tmp_path / "data", SMALL, lambda done, total: told.append((done, total)))
    data = tmp_path / "data"
    assert told == [(number, 11) for number in range(1, 12)]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    for split in SPLITS:
        assert len(lines(data / "splits" / f"{split}.txt")) == SMALL.count(split)
    train = lines(data / "splits" / "train.txt")
    assert train == lines(data / "splits" / "labelled.txt") + lines(data / "splits" / "unlabelled.txt")
    assert json.loads((data / "classes.json").read_text()) == {"classes": list(CLASSES)}
    scene = make_scene(SMALL, "validation", 1)
    np.testing.assert_array_equal(np.array(Image.open(data / "images" / "validation-0001.png")), scene.image_HW3)
    np.testing.assert_array_equal(np.array(Image.open(data / "masks" / "validation-0001.png")), scene.classes_HW)


def test_unlabelled_scenes_have_no_mask(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", SMALL)
    masked = {path.stem for path in (tmp_path / "data" / "masks").iterdir()}
    pictured = {path.stem for path in (tmp_path / "data" / "images").iterdir()}
    assert pictured - masked == set(lines(tmp_path / "data" / "splits" / "unlabelled.txt"))
    assert masked < pictured


def test_scenes_that_are_there_are_used_again(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", SMALL)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert not write_scenes(tmp_path / "data", SMALL)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_scenes_of_other_settings_are_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", SMALL)
    with pytest.raises(RunError, match=r"holds scenes of other settings(.|\n)*\"seed\": 0(.|\n)*\"seed\": 1"):
        write_scenes(tmp_path / "data", SceneSettings(seed=1))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="is not the demo's"):
        write_scenes(tmp_path / "data", SMALL)
    assert (tmp_path / "data" / "mine.txt").read_text() == "mine"


def test_an_interrupted_write_leaves_no_folder_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "data", SMALL, interrupted)
    assert not (tmp_path / "data").exists()
    (tmp_path / ".data.tmp" / "images" / "left-over.png").write_bytes(b"")
    assert write_scenes(tmp_path / "data", SMALL)
    assert not (tmp_path / "data" / "images" / "left-over.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_scenes(tmp_path / "file" / "data", SMALL)


@pytest.mark.parametrize("task", list(RECIPES))
def test_the_configuration_finds_the_scenes(tmp_path: Path, task: str) -> None:
    write_scenes(tmp_path / "data", SMALL)
    config = load_config(demo.write_config(tmp_path, SMALL, task))
    assert config.canvas == (SMALL.height, SMALL.width)
    assert config.task.name.startswith(f"{task}/")
    write_index(tmp_path / "index.arrow", config.data, build_sources(config.data, config.data.class_names()))
    assert Index(tmp_path / "index.arrow").counts() == {split: SMALL.count(split) for split in SPLITS}


def test_the_boxes_are_those_of_the_scenes(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", SMALL)
    config = load_config(demo.write_config(tmp_path, SMALL, "detection"))
    source = build_sources(config.data, config.data.class_names())["validation"]
    labels = [source.read_labels(entry) for entry in source.scan()]
    scenes = [make_scene(SMALL, "validation", number) for number in range(SMALL.validation)]
    for found, scene in zip(labels, scenes, strict=True):
        assert isinstance(found, BoxLabels)
        np.testing.assert_array_equal(found.boxes_N4, scene.boxes_N4)
        np.testing.assert_array_equal(found.labels_N, scene.labels_N - 1)  # detection has no background


def test_an_edited_configuration_is_kept(tmp_path: Path) -> None:
    path = demo.write_config(tmp_path, SMALL)
    assert demo.write_config(tmp_path, SMALL) == path
    path.write_text(path.read_text() + "# mine\n")
    with pytest.raises(RunError, match=r"is not what the demo writes(.|\n)*selftrain run .*demo.yaml -o"):
        demo.write_config(tmp_path, SMALL)
    assert path.read_text().endswith("# mine\n")


@pytest.mark.parametrize(("option", "run"), [((), "run"), (("--task", "detection"), "run-detection")])
def test_demo_runs_its_configuration_and_prints_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...], run: str
) -> None:
    given: list[Any] = []

    def measured(config: RunConfig, folder: Path, observer: Observer) -> dict[str, Any]:
        given.append((config, folder))
        (folder / "pictures").mkdir(parents=True)
        (folder / "pictures" / "curves.png").write_bytes(b"")
        return SUMMARY

    monkeypatch.setattr(demo, "self_train", measured)
    monkeypatch.setattr(demo, "SceneSettings", lambda seed: SceneSettings(seed, labelled=2, unlabelled=2))
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path / "d"), "--seed", "5", *option])
    assert result.exit_code == 0, result.output
    ((config, folder),) = given
    assert (config.seed, folder) == (5, tmp_path / "d" / run)
    rows = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "model weights validation test gain images seen time" in rows
    assert "teacher last 40.00 41.00 – 1,280 1:05" in rows
    assert "student last 39.00 38.50 -2.50 3,200 1:01:01" in rows
    assert any("Teacher not converged" in row for row in rows)
    assert f"{folder / 'pictures' / 'curves.png'}" in rows
    assert "demo/scenes: started" in result.stderr


def test_demo_without_scikit_learn_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path / "d")])
    assert result.exit_code == 2
    assert "pip install 'selftrain[demo]'" in result.stderr
    assert not (tmp_path / "d").exists()


SUMMARY: dict[str, Any] = {
    "schema": 1,
    "task": "segmentation/semantic",
    "metric": "miou",
    "unit": "% mIoU",
    "seed": 5,
    "models": [
        {"name": "teacher", "round": 0, "checkpoint": "last", "val": 40.0, "test": 41.0, "images_seen": 1280,
         "images_to_reach": 1000, "seconds": 65.0, "gain": None, "joint_images_seen": {}},
        {"name": "student", "round": 1, "checkpoint": "last", "val": 39.0, "test": 38.5, "images_seen": 3200,
         "images_to_reach": None, "seconds": 3661.0, "gain": -2.5, "joint_images_seen": {}},
    ],
    "teacher_converged": False,
    "teacher_late_rise": 2.0,
    "images_to_reach_score": 39.5,
    "images_to_reach_model": "teacher",
    "labelling": {"images": 400, "seconds": 9.0, "states": {"labelled": 400}, "nothing_kept": [], "views": 1},
    "pretraining": None,
}  # fmt: skip
