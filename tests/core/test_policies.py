"""The fixed threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain_core.labels import DROP, IGNORED, KEEP, ScoreStatistics
from selftrain_core.policies import FixedDecision, FixedPolicy
from selftrain_core.policy_config import FixedPolicyConfig

SCORES = np.array([0.0, 0.24, 0.25, 0.49, 0.5, 0.51, 1.0], np.float32)
LABELS = np.zeros(7, np.int64)


@pytest.mark.parametrize(
    ("settings", "actions"),
    [
        ({}, [DROP, DROP, DROP, DROP, KEEP, KEEP, KEEP]),
        ({"ignore_above": 0.25}, [DROP, DROP, IGNORED, IGNORED, KEEP, KEEP, KEEP]),
        ({"ignore_above": 0.5}, [DROP, DROP, DROP, DROP, KEEP, KEEP, KEEP]),
        ({"ignore_above": 0.0}, [IGNORED, IGNORED, IGNORED, IGNORED, KEEP, KEEP, KEEP]),
        ({"threshold": 0.0}, [KEEP] * 7),
        ({"threshold": 1.0}, [DROP] * 6 + [KEEP]),
    ],
)
def test_thresholds_are_the_lowest_score_that_passes(settings: dict[str, float], actions: list[int]) -> None:
    empty = ScoreStatistics.empty(1)
    decided = FixedPolicy(FixedPolicyConfig.model_validate(settings)).fit(empty, empty)(SCORES, LABELS)
    assert decided.actions.tolist() == actions
    assert decided.weights.tolist() == [1] * 7


@given(st.integers(0, 64), st.integers(0, 64))
def test_a_stored_score_is_judged_as_the_exact_one(score: int, threshold: int) -> None:
    """Pixel scores are multiples of 1/64: so are sensible thresholds, and float32 holds both exactly."""
    decided = FixedDecision(threshold / 64, None)(np.array([score / 64], np.float32), LABELS[:1])
    assert decided.actions[0] == (KEEP if score >= threshold else DROP)
