"""Joint training, end to end: digits to classify beside scenes of digits to find, with and without self-training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from selftrain.demo_data import write_scenes
from selftrain.scenes import CLASSES, SceneSettings
from selftrain_core.comparison import compare
from selftrain_core.config import RunConfig, parse_config
from selftrain_core.errors import ConfigError, DataError, RunError
from selftrain_core.goals import Goal
from selftrain_core.rounds import self_train

datasets = pytest.importorskip("sklearn.datasets")

DIGITS = CLASSES[1:]  # without the background
SCENES = SceneSettings(0, 64, 64, labelled=4, unlabelled=4, validation=2, test=2, max_digits=3)
PER_CLASS = 3
TRAININGS = ("round-0/teacher", "round-1/student", "round-0/baseline")


class InterruptedHereError(Exception):
    """Stands for whatever ends a process in the middle."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of scenes, and of digits in a folder for each class."""
    folder = tmp_path_factory.mktemp("joint")
    write_scenes(folder / "scenes", SCENES)
    digits = datasets.load_digits()
    for label, name in enumerate(DIGITS):
        (folder / "digits" / name).mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.target == label][:PER_CLASS]):
            pixels = Image.fromarray((image * (255 / 16)).astype(np.uint8)).resize((32, 32))
            pixels.save(folder / "digits" / name / f"{number}.png")
    return folder


def settings(data: Path, **changes: Any) -> RunConfig:
    scenes = data / "scenes"

    def source(part: str) -> dict[str, Any]:
        return {"name": "detection/coco", "images": f"{scenes}/images", "annotations": f"{scenes}/boxes/{part}.json"}

    sources: dict[str, Any] = {part: source(part) for part in ("labelled", "validation", "test")}
    pool = {"name": "core/images", "images": f"{scenes}/images", "list": f"{scenes}/splits/unlabelled.txt"}
    raw: dict[str, Any] = {
        "canvas": [64, 64],
        "data": {
            "classes": list(DIGITS),
            "allow_missing_classes": True,
            "sources": {**sources, "pool": pool},
            "labelled": "labelled",
            "unlabelled": "pool",
            "validation": "validation",
            "test": "test",
        },
        "task": {"name": "detection/retinanet", "head": {"channels": 8, "num_convs": 1}},
        "backbone": {"name": "timm/test_resnet", "init": "random"},
        "policy": {"name": "core/fixed", "threshold": 0.5},
        "joint": {
            "digits": {
                "sources": {"all": {"name": "core/class-folders", "images": str(data / "digits")}},
                "labelled": "all",
                "classes": list(DIGITS),
                "images": 3,
                "canvas": [32, 32],
            }
        },
        "teacher": {"steps": 4, "human": 2},
        "student": {"steps": 2, "human": 2, "pseudo": 2},
        "device": {"accelerator": "core/cpu", "workers": 0},
    }
    for key, value in changes.items():
        raw[key] = {**raw[key], **value} if isinstance(value, dict) else value
    return parse_config(raw, base_dir=data)


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train"] for line in lines if "train" in line]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    folder = tmp_path_factory.mktemp("run") / "run"
    self_train(settings(data), folder, in_process=True)
    return folder


def test_every_model_learns_both(run: Path) -> None:
    for name in TRAININGS:
        for values in losses(run / name):
            assert values["digits_loss"] > 0, name
            human, pseudo = values["human_loss"], values["pseudo_loss"]
            alpha = 1.0 if name == "round-1/student" else 0.0
            own = (human + alpha * values["ratio"] * pseudo) / (1 + alpha)
            assert values["loss"] == pytest.approx(own + 0.2 * values["digits_loss"]), "outside the 1 / (1 + α)"


def test_the_summary_counts_what_was_seen_beside(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    seen = {m["name"]: m["joint_images_seen"]["digits"] for m in summary["models"] if m["checkpoint"] == "last"}
    assert seen == {"teacher": 4 * 3, "student": 2 * 3, "baseline": 4 * 3}
    assert "Joint training: images of other tasks, beside those above: teacher 12, " in (run / "summary.md").read_text()


def test_running_averages_are_of_the_tasks_own_images(run: Path) -> None:
    """Pictures of other kinds would be averaged into what the kept model predicts with."""
    model = load_file(run / "round-0/teacher/model.safetensors")
    batches = {int(tensor) for name, tensor in model.items() if name.endswith("num_batches_tracked")}
    assert batches == {4}, "one for each step"
    assert any(bool((tensor != 1).any()) for name, tensor in model.items() if name.endswith("running_var"))


def test_what_is_kept_predicts_without_the_heads(run: Path) -> None:
    model = load_file(run / "round-1/student/model.safetensors")
    heads = load_file(run / "round-1/student/joint.safetensors")
    assert not any("others" in name for name in model)
    assert {tensor.shape[0] for tensor in heads.values()} == {len(DIGITS)}


def test_a_student_goes_on_from_the_teachers_heads(data: Path, run: Path, tmp_path: Path) -> None:
    """At a learning rate of nearly nothing the student's heads are the teacher's; from the init they are others."""
    still = {"optimizer": {"lr": 1e-12}, "ema_decay": None, "steps": 1}
    for start, same in (("teacher", True), ("init", False)):
        folder = tmp_path / start
        self_train(
            settings(data, student={**still, "start": start}, teacher={"ema_decay": None}), folder,
            goal=Goal("learn"), in_process=True,
        )  # fmt: skip
        teacher, student = (load_file(folder / name / "joint.safetensors") for name in TRAININGS[:2])
        assert all(bool((teacher[name] - student[name]).abs().max() < 1e-6) for name in teacher) == same


def test_without_self_training(data: Path, tmp_path: Path) -> None:
    reports = self_train(settings(data), tmp_path / "run", goal=Goal("teach"), in_process=True)
    assert [stage["kind"] for stage in reports["stages"]] == ["teach"]
    assert reports["stages"][0]["result"]["joint_images_seen"] == {"digits": 12}
    assert reports["stages"][0]["result"]["streams"] == {"human": 4, "joint.digits": 30}


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(data: Path, run: Path, tmp_path: Path) -> None:
    config = settings(data, device={"checkpoint_seconds": 0})

    def interrupt(event: Any) -> None:
        if event.kind == "progress" and event.stage == "round-0/teacher" and event.done == 4 * 2:
            raise InterruptedHereError  # after the last step, before it is saved

    with pytest.raises(InterruptedHereError):
        self_train(config, tmp_path / "run", interrupt, goal=Goal("teach"), in_process=True)
    assert json.loads((tmp_path / "run/round-0/teacher/last.json").read_text()) == {"step": 3, "steps": 4}
    self_train(config, tmp_path / "run", goal=Goal("teach"), in_process=True)
    for name in ("model", "joint"):
        path = f"round-0/teacher/{name}.safetensors"
        assert (tmp_path / "run" / path).read_bytes() == (run / path).read_bytes(), name


def test_other_images_or_weights_are_a_change(data: Path, run: Path) -> None:
    joint = settings(data).joint["digits"].model_dump(mode="json")
    for key, value in (("weight", 0.5), ("images", 2)):
        with pytest.raises(RunError, match=rf"joint\.digits\.{key}"):
            self_train(settings(data, joint={"digits": {**joint, key: value}}), run, in_process=True)


def test_mistakes_name_the_stream(data: Path, tmp_path: Path) -> None:
    joint = settings(data).joint["digits"].model_dump(mode="json")
    wrong = {**joint, "classes": [*DIGITS[:9], "ten"]}
    with pytest.raises(DataError, match=r"^joint\.digits: the folders in(.|\n)*ten"):
        self_train(settings(data, joint={"digits": wrong}), tmp_path / "run", in_process=True)
    for changes, message in (
        ({"task": {"name": "detection/retinanet"}}, "gives classes of whole images, but the task learns from boxes"),
        ({"sources": {"all": {"name": "core/images", "images": str(data / "digits")}}}, "no labels"),
        (
            {"images": 1, "canvas": [32, 32]},
            r"joint\.digits: one image at once on a canvas of 32×32 is a single value at stride 32(.|\n)*raise joint",
        ),
        ({"classes": "nowhere.json"}, r"joint\.digits: classes: .*nowhere\.json cannot be read"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            self_train(settings(data, joint={"digits": {**joint, **changes}}), tmp_path / "run", in_process=True)
    with pytest.raises(ConfigError, match="others"):
        settings(data, joint={"digits": {**joint, "labelled": "others"}})
    for name, message in (("Digits!", "small letters"), ("a.b", "small letters"), ("human", "has a stream 'human'")):
        with pytest.raises(ConfigError, match=rf"joint\.{name}: .*{message}"):
            settings(data, joint={name: joint})


def test_its_images_are_looked_at_before_anything_is_trained(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "digits"
    shutil.copytree(data / "digits", copy)
    joint = settings(data).joint["digits"].model_dump(mode="json")
    config = settings(
        data, joint={"digits": {**joint, "sources": {"all": {**joint["sources"]["all"], "images": copy}}}}
    )
    shutil.rmtree(copy / "seven")
    (copy / "seven").mkdir()
    broken = copy / "two/1.png"
    picture = broken.read_bytes()
    for content, message in (
        (picture[:60], r"'two/1' of joint\.digits\.labelled"),
        (next((data / "scenes/images").glob("*test*")).read_bytes(), "are the same picture"),
    ):
        broken.write_bytes(content)
        with pytest.raises(DataError, match=message):
            self_train(config, tmp_path / "run", goal=Goal("teach"), in_process=True)
        assert not (tmp_path / "run/round-0/teacher/metrics.jsonl").exists()
    broken.write_bytes(picture)
    told: list[Any] = []
    self_train(config, tmp_path / "run", told.append, goal=Goal("teach"), in_process=True)
    assert "joint.digits.labelled shows no seven: no such class is learnt there" in [each.text for each in told]


def test_two_configurations_are_compared(data: Path) -> None:
    joint = settings(data).joint["digits"].model_dump(mode="json")
    found = compare(settings(data), settings(data, joint={"digits": {**joint, "weight": 0.5}}))
    assert "round-0/teacher" in found["made_again"]
