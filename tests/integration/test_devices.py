"""A run on two ranks: Lightning starts the stage's own command again, and one rank alone writes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from selftrain_core.config import RunConfig
from selftrain_core.goals import Goal
from selftrain_core.rounds import self_train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_run_on_two_ranks(
    configure: Callable[..., RunConfig], shared_squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    config = configure(
        shared_squares,
        teacher={"steps": 4, "human": 4},
        student={"steps": 4, "human": 4, "pseudo": 3},
        device={"devices": 2, "micro_batches": 2},
    )
    summary = self_train(config, tmp_path / "run")
    # The student's steps are four parts, of which the last holds no pseudo image.
    assert [model["images_seen"] for model in summary["models"] if model["checkpoint"] == "last"] == [16, 28, 49]
    for name in ("round-0/teacher", "round-1/student", "round-0/baseline"):
        lines = (tmp_path / "run" / name / "metrics.jsonl").read_text().splitlines()
        validations = [json.loads(line)["step"] for line in lines if "validation" in json.loads(line)]
        assert validations == sorted(set(validations)), "one rank alone writes the log"


def test_joint_training_on_two_ranks_is_that_on_one(
    configure: Callable[..., RunConfig], squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without batch norm and dropout, which look at one rank's images, both learn the same; a pre-training runs too."""
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    for number in range(6):
        folder = squares / "kinds" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(squares / f"images/pool-{number}.png", folder / f"{number}.png")
    joint = {
        "sources": {"all": {"name": "core/class-folders", "images": str(squares / "kinds")}},
        "labelled": "all", "classes": ["a", "b"], "images": 4, "canvas": [64, 64],
    }  # fmt: skip
    rounds, told = {}, list[str]()
    for devices in (1, 2):
        config = configure(
            squares,
            backbone={"name": "timm/test_convnext", "init": "random"},
            task={"decoder": {"name": "fpn", "pyramid_channels": 32, "segmentation_channels": 32, "dropout": 0}},
            joint={"kinds": joint},
            pretraining={"images": "pool", "steps": 2, "images_per_step": 4, "projection_channels": 8},
            teacher={"steps": 4, "human": 4, "ema_decay": None, "optimizer": {"name": "sgd", "lr": 0.05}},
            device={"devices": devices},
        )
        run = tmp_path / f"run-{devices}"
        if devices == 2:  # what two ranks pre-train is another backbone, as their heads have batch norm
            pretrained = tmp_path / "pretrained"
            report = self_train(config, pretrained, lambda event: told.append(event.text), goal=Goal("pretrain"))
            assert report["stages"][0]["result"]["images_seen"] == 8
            assert any(text.startswith("batch norm sees the 2 images of one device at a time") for text in told)
        plain = config.model_copy(update={"pretraining": None})
        self_train(plain, run, goal=Goal("teach"))
        teacher = run / "round-0/teacher"
        lines = [json.loads(line) for line in (teacher / "metrics.jsonl").read_text().splitlines()]
        losses = [line["train"][key] for line in lines if "train" in line for key in ("human_loss", "kinds_loss")]
        rounds[devices] = losses, load_file(teacher / "model.safetensors"), load_file(teacher / "joint.safetensors")
    assert rounds[2][0] == pytest.approx(rounds[1][0], rel=1e-4)
    for one, two in zip(rounds[1][1:], rounds[2][1:], strict=True):
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
