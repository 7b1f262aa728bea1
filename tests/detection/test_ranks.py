"""Two ranks with two micro-batches each, and one process with one large batch, train the same detector."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from selftrain_core.batch import HUMAN, PSEUDO
from selftrain_core.testing import assert_equal
from selftrain_core.testing.drawn import DrawnSteps, on_ranks, train

SCRIPT = Path(__file__).with_name("detect_on_ranks.py")
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def reference(script: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the outcome of one process with one batch per step."""
    return train(script["make"](), tmp_path_factory.mktemp("reference")).state()


def test_the_steps_are_as_uneven_as_they_are_to_be(script: dict[str, Any]) -> None:
    drawn = script["make"]()
    steps = DrawnSteps(drawn, micro_batches=4)
    positive = torch.zeros(len(steps), 2)
    parts_with_pseudo = set()
    for step in range(len(steps)):
        batches = steps[step]
        parts_with_pseudo.add(sum(bool((batch.source_B == PSEUDO).any()) for batch in batches))
        for batch in batches:
            counts = drawn.task.counts(batch.targets)["class"]
            positive[step] += torch.stack([counts[batch.source_B == source].sum() for source in (HUMAN, PSEUDO)])
    assert parts_with_pseudo == {0, 1, 3, 4}
    for source, step in script["WITHOUT_BOXES"]:
        assert positive[step, source] == 0
    assert (positive[:, HUMAN] > 0).sum() == 18
    assert (positive[:, PSEUDO] > 0).sum() > 5


def test_the_reference_trains_and_skips_one_step(script: dict[str, Any], reference: dict[str, Any]) -> None:
    assert reference["next_step"] == 20
    assert reference["skipped_steps"] == 1
    # Halves without boxes are halves: all that their images show is background. Those without images are none.
    assert reference["objective"]["updates_2"].tolist() == [19, 14]
    for name, start in script["make"]().model.named_parameters():
        moved = float((reference["model"][name] - start.detach()).abs().max())
        assert moved > 10 * TOLERANCE, f"{name} moved by {moved:g}: that it is equal says little"


def test_micro_batches_equal_one_batch(script: dict[str, Any], reference: dict[str, Any], tmp_path: Path) -> None:
    found = train(script["make"](), tmp_path, micro_batches=4).state()
    assert_equal(found, reference, "four micro-batches", atol=TOLERANCE)


@pytest.mark.slow
def test_two_ranks_equal_one(reference: dict[str, Any], tmp_path: Path) -> None:
    for number, state in enumerate(on_ranks(SCRIPT, tmp_path, 2, 2)):
        assert_equal(state, reference, f"rank {number} of 2 with 2 micro-batches", atol=TOLERANCE)
