"""Contrastive pre-training as a stage: models start from it, an interrupted one goes on with the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from selftrain_core import contrastive
from selftrain_core.comparison import compare
from selftrain_core.config import RunConfig
from selftrain_core.errors import ConfigError, DataError
from selftrain_core.goals import Goal
from selftrain_core.rounds import self_train

MakeConfig = Callable[..., RunConfig]
SETTINGS: dict[str, Any] = {"images": "pool + labelled", "steps": 4, "images_per_step": 6, "projection_channels": 8}
WEIGHTS = "pretraining/backbone.safetensors"
STILL: dict[str, Any] = {"steps": 1, "optimizer": {"lr": 1e-12}, "ema_decay": None}


class InterruptedHereError(Exception):
    """Stands for whatever ends a process in the middle."""


def test_models_start_from_it_and_it_is_an_init(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(pretraining=SETTINGS, teacher=STILL)
    self_train(config, tmp_path / "run", goal=Goal("teach"), in_process=True)
    learnt = load_file(tmp_path / "run" / WEIGHTS)
    checkpoint = {"name": "simclr", "checkpoint": str(tmp_path / "run" / WEIGHTS)}
    elsewhere = make_config(teacher=STILL, backbone={"init": checkpoint})
    self_train(elsewhere, tmp_path / "elsewhere", goal=Goal("teach"), in_process=True)
    plain = make_config(teacher=STILL)
    self_train(plain, tmp_path / "plain", goal=Goal("teach"), in_process=True)
    for run, same in (("run", True), ("elsewhere", True), ("plain", False)):
        teacher = load_file(tmp_path / run / "round-0/teacher/model.safetensors")
        kernels = [name for name, tensor in learnt.items() if tensor.ndim == 4]
        differs = [not torch.allclose(learnt[name], teacher[f"backbone.{name}"], atol=1e-6) for name in kernels]
        assert any(differs) != same, run
    lines = (tmp_path / "run/pretraining/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["images_seen"] for line in lines] == [6, 24]


def test_an_interrupted_one_goes_on_with_the_same_bits(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(pretraining=SETTINGS, device={"checkpoint_seconds": 0})
    self_train(config, tmp_path / "whole", goal=Goal("pretrain"), in_process=True)

    def interrupt(event: Any) -> None:
        if event.kind == "progress" and event.done == 4 * 6:
            raise InterruptedHereError  # after the last step, before it is saved

    with pytest.raises(InterruptedHereError):
        self_train(config, tmp_path / "cut", interrupt, goal=Goal("pretrain"), in_process=True)
    assert json.loads((tmp_path / "cut/pretraining/last.json").read_text()) == {"step": 3, "steps": 4}
    self_train(config, tmp_path / "cut", goal=Goal("pretrain"), in_process=True)
    assert (tmp_path / "cut" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_what_cannot_be_used_is_left_out(configure: MakeConfig, squares: Path, tmp_path: Path) -> None:
    broken, twin = (squares / f"images/pool-{number}.png" for number in (3, 7))
    broken.write_bytes(broken.read_bytes()[:500])
    twin.write_bytes((squares / "images/test-2.png").read_bytes())
    config = configure(squares, pretraining={**SETTINGS, "steps": 1}, device={"micro_batches": 2})
    told: list[Any] = []
    report = self_train(config, tmp_path / "run", told.append, goal=Goal("pretrain"), in_process=True)
    assert report["stages"][0]["result"]["streams"] == {"images": 14}
    notes = [event.text for event in told if event.kind == "note"]
    assert any(note.startswith("pretraining.images: 2 of 16 images are left out, 'pool-3'") for note in notes), notes
    assert any(note.startswith("device.micro_batches: pre-training takes") for note in notes), notes
    assert any(note.startswith("1 steps end within the 50 ") for note in notes), notes
    left_out = json.loads((tmp_path / "run/pretraining/left-out.json").read_text())
    assert [each["id"] for each in left_out] == ["pool-3", "pool-7"]
    assert left_out[1]["reason"] == "its bytes equal those of the held-out image 'test-2'"


def test_what_is_held_out_while_it_is_interrupted(configure: MakeConfig, squares: Path, tmp_path: Path) -> None:
    """Before the first step such an image is left out; later, it has been looked at."""
    config = configure(squares, pretraining=SETTINGS, device={"checkpoint_seconds": 0})
    run, pool, test = tmp_path / "run", squares / "images/pool-7.png", squares / "images/test-2.png"

    def interrupt(after: int) -> Callable[[Any], None]:
        def tell(event: Any) -> None:
            if event.kind == "progress" and event.done >= after and "checking" not in str(event.text):
                raise InterruptedHereError

        return tell

    before = test.read_bytes()
    with pytest.raises(InterruptedHereError):
        self_train(config, run, interrupt(0), goal=Goal("pretrain"), in_process=True)
    (run / "pretraining/last.ckpt").unlink(missing_ok=True)
    test.write_bytes(pool.read_bytes())
    with pytest.raises(InterruptedHereError):
        self_train(config, run, interrupt(24), goal=Goal("pretrain"), in_process=True)
    assert [each["id"] for each in json.loads((run / "pretraining/left-out.json").read_text())] == ["pool-7"]
    assert (run / "pretraining/last.ckpt").exists()
    test.write_bytes((squares / "images/pool-5.png").read_bytes())
    with pytest.raises(DataError, match=r"has looked at 'pool-5' of pretraining\.images, but its bytes equal"):
        self_train(config, run, goal=Goal("pretrain"), in_process=True)
    test.write_bytes(before)
    report = self_train(config, run, goal=Goal("pretrain"), in_process=True)
    assert report["stages"][0]["result"]["streams"] == {"images": 15}


def test_the_loss_knows_of_images_that_come_twice_in_a_step(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 images, 12 a step: every other step may hold some of them twice."""
    seen: list[list[int]] = []

    plain = contrastive.nt_xent

    def nt_xent(first: Tensor, second: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        seen.append(ids.tolist())
        return plain(first, second, ids, temperature)

    monkeypatch.setattr(contrastive, "nt_xent", nt_xent)
    config = make_config(pretraining={**SETTINGS, "images_per_step": 12})
    self_train(config, tmp_path / "run", goal=Goal("pretrain"), in_process=True)
    assert [len(ids) for ids in seen] == [12] * 4
    assert len(set(seen[0])) == 12 and any(len(set(ids)) < 12 for ids in seen)
    assert len({id_ for ids in seen for id_ in ids}) == 16


@pytest.mark.parametrize("when", ["teach", "evaluate"])
def test_what_is_held_out_later_must_not_have_been_looked_at(
    configure: MakeConfig, squares: Path, tmp_path: Path, when: Literal["teach", "evaluate"]
) -> None:
    config, run = configure(squares, pretraining={**SETTINGS, "steps": 1}, teacher=STILL), tmp_path / "run"
    self_train(config, run, goal=Goal("pretrain" if when == "teach" else "teach"), in_process=True)
    pool, test = squares / "images/pool-7.png", squares / "images/test-2.png"
    before = test.read_bytes()
    test.write_bytes(pool.read_bytes())
    with pytest.raises(
        DataError, match=r"has looked at 'pool-7' of .*its bytes equal those of .*'test-2'\n  delete .*pre"
    ):
        self_train(config, run, goal=Goal(when), in_process=True)
    test.write_bytes(before)
    self_train(config, run, goal=Goal(when), in_process=True)


def test_mistakes_are_told(make_config: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(DataError, match=r"in pretraining\.images and in data\.test"):
        self_train(make_config(pretraining={**SETTINGS, "images": "pool + test"}), run, in_process=True)
    with pytest.raises(ConfigError, match=r"17 images in a step, but pretraining\.images holds 16"):
        self_train(make_config(pretraining={**SETTINGS, "images_per_step": 17}), run, in_process=True)
    for images in (5, 2):
        uneven = make_config(pretraining={**SETTINGS, "images_per_step": images}, device={"devices": 2})
        with pytest.raises(ConfigError, match=f"{images} images cannot be shared by 2 devices, evenly and at least 2"):
            self_train(uneven, tmp_path / "uneven", goal=Goal("pretrain"), in_process=True)
    with pytest.raises(ConfigError, match="core/none leaves both views of an image alike"):
        make_config(pretraining={**SETTINGS, "augmentation": "core/none"})
    with pytest.raises(ConfigError, match=r"pretraining\.images: 'piles' names the source 'piles'"):
        make_config(pretraining={**SETTINGS, "images": "piles"})
    with pytest.raises(ConfigError, match="the configuration has no pre-training"):
        self_train(make_config(), tmp_path / "none", goal=Goal("pretrain"), in_process=True)


def test_two_configurations_are_compared(make_config: MakeConfig) -> None:
    first, second = (make_config(pretraining={**SETTINGS, "steps": steps}) for steps in (4, 5))
    assert "pretraining" in compare(first, second)["made_again"]
    assert compare(make_config(), first)["added"] == ["pretraining"]
