"""A run on two ranks: Lightning starts the stage's own command again, and one rank alone writes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from selftrain_core.config import RunConfig
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
