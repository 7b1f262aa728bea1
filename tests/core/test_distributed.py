"""Two ranks, several micro-batches, and one process with one large batch train the same model."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from selftrain_core.distributed import gather_objects, rank, sum_over_ranks, world_size
from selftrain_core.testing import assert_equal
from selftrain_core.testing.drawn import on_ranks, train

SCRIPT = Path(__file__).with_name("train_on_ranks.py")
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the outcome of one process with one batch per step."""
    return in_process(tmp_path_factory.mktemp("reference"), micro_batches=1)


def in_process(folder: Path, micro_batches: int) -> dict[str, Any]:
    return train(runpy.run_path(str(SCRIPT))["make"](), folder, micro_batches=micro_batches).state()


def test_the_reference_trains_and_skips_one_step(reference: dict[str, Any]) -> None:
    assert reference["next_step"] == 20
    assert reference["skipped_steps"] == 1
    # A quarter of the steps has no pseudo image; the non-finite step has some, and updates neither average.
    assert reference["objective"]["updates_2"].tolist() == [19, 14]


def test_micro_batches_equal_one_batch(reference: dict[str, Any], tmp_path: Path) -> None:
    assert_equal(in_process(tmp_path, micro_batches=2), reference, "two micro-batches", atol=TOLERANCE)


@pytest.mark.parametrize("micro_batches", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_two_ranks_equal_one(reference: dict[str, Any], tmp_path: Path, micro_batches: int) -> None:
    for number, state in enumerate(on_ranks(SCRIPT, tmp_path, 2, micro_batches)):
        assert_equal(state, reference, f"rank {number} of 2 with {micro_batches} micro-batches", atol=TOLERANCE)


def test_without_ranks_collectives_are_the_identity() -> None:
    tensor = torch.ones(3)
    assert (rank(), world_size()) == (0, 1)
    assert sum_over_ranks(tensor) is tensor
    assert gather_objects("x") == ["x"]
