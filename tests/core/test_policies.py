"""The policies, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import PseudoLabelPolicy
from selftrain_core.labels import DROP, IGNORE, IGNORED, KEEP, ScoreStatistics
from selftrain_core.policies import AdaptivePolicy, FixedDecision, FixedPolicy, PerClassPolicy, SoftPolicy
from selftrain_core.policy_config import (
    AdaptivePolicyConfig,
    FixedPolicyConfig,
    PerClassPolicyConfig,
    SoftPolicyConfig,
)

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
    decided = FixedPolicy(FixedPolicyConfig.model_validate(settings), ["thing"]).fit(empty, empty)(SCORES, LABELS)
    assert decided.actions.tolist() == actions
    assert decided.weights.tolist() == [1] * 7


@given(st.integers(0, 64), st.integers(0, 64))
def test_a_stored_score_is_judged_as_the_exact_one(score: int, threshold: int) -> None:
    """Pixel scores are multiples of 1/64: so are sensible thresholds, and float32 holds both exactly."""
    decided = FixedDecision(threshold / 64, None)(np.array([score / 64], np.float32), LABELS[:1])
    assert decided.actions[0] == (KEEP if score >= threshold else DROP)


def test_each_class_has_the_threshold_it_was_given() -> None:
    config = PerClassPolicyConfig(thresholds={"cat": 0.9, "dog": 0.25})
    empty = ScoreStatistics.empty(3)
    policy = PerClassPolicy(config, ["ground", "cat", "dog"]).fit(empty, empty)
    scores = np.array([[0.5, 0.6, 0.3], [0.49, 0.9, 0.2]], np.float32)
    labels = np.array([[0, 1, 2], [0, 1, 2]], np.uint8)
    decided = policy(scores, labels)
    assert decided.actions.tolist() == [[KEEP, DROP, KEEP], [DROP, KEEP, DROP]]
    assert decided.weights.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_threshold_of_an_unknown_class_is_explained() -> None:
    empty = ScoreStatistics.empty(2)
    policy = PerClassPolicy(PerClassPolicyConfig(thresholds={"catt": 0.9}), ["cat", "dog"])
    with pytest.raises(
        ConfigError, match=r"names 'catt', which is no class \(did you mean 'cat'\?\); classes: cat, dog"
    ):
        policy.fit(empty, empty)


def statistics(classes: dict[int, list[float]]) -> ScoreStatistics:
    labels = np.array([index for index, scores in classes.items() for _ in scores])
    return ScoreStatistics.of(labels, np.array([s for scores in classes.values() for s in scores], np.float32), 3)


@pytest.mark.parametrize(
    ("share", "thresholds"),
    [
        # Half of what people labelled, 0.25 and 0.05 of all pixels: the surest 5 and 1 of 20.
        (0.5, (0.75, 0.3125, 0.3)),
        (1.0, (0.5, 0.3, 0.3)),
    ],
)
def test_as_much_of_each_class_is_kept_as_people_labelled(share: float, thresholds: tuple[float, ...]) -> None:
    labelled = statistics({0: [1] * 5, 1: [1], 2: [1] * 4})
    store = statistics({0: [0.95] * 4 + [0.75] * 2 + [0.5] * 10, 1: [0.3125] * 1 + [0.1] * 2, 2: [0.2]})
    policy = AdaptivePolicy(AdaptivePolicyConfig(share=share), ["a", "b", "c"]).fit(store, labelled)
    assert vars_of(policy) == thresholds


def test_adaptive_thresholds_stay_in_their_range() -> None:
    labelled = statistics({0: [1], 1: [1], 2: [1] * 98})
    store = statistics({0: [0.99] * 50, 1: [0.01] * 50})
    config = AdaptivePolicyConfig(lowest=0.4, highest=0.8)
    assert vars_of(AdaptivePolicy(config, ["a", "b", "c"]).fit(store, labelled)) == (0.8, 0.4, 0.4)


def vars_of(policy: object) -> tuple[float, ...]:
    thresholds: tuple[float, ...] = policy.thresholds  # type: ignore[attr-defined]
    return thresholds


def test_a_label_that_is_no_class_is_dropped() -> None:
    empty = ScoreStatistics.empty(2)
    policy = AdaptivePolicy(AdaptivePolicyConfig(), ["a", "b"]).fit(empty, empty)
    assert policy(np.ones(3, np.float32), np.array([1, IGNORE, 2], np.uint8)).actions.tolist() == [KEEP, DROP, DROP]


def test_lowest_above_highest_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lowest \(0.6\) lies above highest \(0.5\)"):
        AdaptivePolicyConfig(lowest=0.6, highest=0.5)


@pytest.mark.parametrize(
    ("share", "actions"),
    [
        (None, [[KEEP, DROP, DROP, DROP], [KEEP, DROP, DROP, DROP]]),
        (0.5, [[KEEP, IGNORED, IGNORED, DROP], [KEEP, IGNORED, IGNORED, DROP]]),
        (1.0, [[KEEP, DROP, DROP, DROP], [KEEP, DROP, DROP, DROP]]),
        (0.0, [[KEEP, IGNORED, IGNORED, IGNORED], [KEEP, IGNORED, IGNORED, IGNORED]]),
    ],
)
def test_a_share_of_each_classs_threshold_is_ignored(share: float | None, actions: list[list[int]]) -> None:
    config = PerClassPolicyConfig(thresholds={"cat": 0.75, "dog": 0.25}, ignore_above=share)
    empty = ScoreStatistics.empty(2)
    decided = PerClassPolicy(config, ["cat", "dog"]).fit(empty, empty)(
        np.array([[0.75, 0.74, 0.375, 0.374], [0.25, 0.24, 0.125, 0.124]], np.float32),
        np.array([[0] * 4, [1] * 4]),
    )
    assert decided.actions.tolist() == actions
    assert (decided.weights == 1).all()


def test_the_band_of_an_adaptive_policy_follows_its_thresholds() -> None:
    labelled = statistics({0: [1], 1: [1], 2: [1] * 98})
    store = statistics({0: [0.99] * 50, 1: [0.01] * 50})
    config = AdaptivePolicyConfig(lowest=0.4, highest=0.8, ignore_above=0.5)
    policy = AdaptivePolicy(config, ["a", "b", "c"]).fit(store, labelled)  # thresholds 0.8, 0.4, 0.4
    scores = np.array([0.8, 0.79, 0.41, 0.39, 0.41, 0.39, 0.21, 0.19, 0.9], np.float32)
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, IGNORE], np.uint8)
    expected = [KEEP, IGNORED, IGNORED, DROP, KEEP, IGNORED, IGNORED, DROP, DROP]
    assert policy(scores, labels).actions.tolist() == expected


@pytest.mark.parametrize(
    ("policy", "least"),
    [
        (FixedPolicy(FixedPolicyConfig(threshold=0.4), ["a"]), 0.4),
        (FixedPolicy(FixedPolicyConfig(threshold=0.4, ignore_above=0.25), ["a"]), 0.25),
        (FixedPolicy(FixedPolicyConfig(threshold=0.4, ignore_above=0), ["a"]), 0),
        (PerClassPolicy(PerClassPolicyConfig(thresholds={"a": 0.25}), ["a", "b"]), 0.25),
        (PerClassPolicy(PerClassPolicyConfig(thresholds={"a": 0.75}), ["a"]), 0.75),  # no class takes the other 0.5
        (PerClassPolicy(PerClassPolicyConfig(thresholds={"a": 0.75}, ignore_above=0.5), ["a", "b"]), 0.25),
        (AdaptivePolicy(AdaptivePolicyConfig(lowest=0.5, highest=0.5), ["a"]), 0.5),
        (AdaptivePolicy(AdaptivePolicyConfig(lowest=0.5, highest=0.5, ignore_above=0.5), ["a"]), 0.25),
        (SoftPolicy(SoftPolicyConfig(), ["a"]), 0),
        (SoftPolicy(SoftPolicyConfig(threshold=0.125), ["a"]), 0.125),
    ],
)
def test_below_the_least_score_nothing_is_decided(policy: PseudoLabelPolicy, least: float) -> None:
    assert policy.least() == least
    empty = ScoreStatistics.empty(len(policy.classes))
    fitted, labels = policy.fit(empty, empty), np.arange(len(policy.classes))
    assert (fitted(np.full(labels.shape, least, np.float32), labels).actions != DROP).any()
    if least:
        below = np.full(labels.shape, np.nextafter(np.float32(least), np.float32(0)), np.float32)
        assert (fitted(below, labels).actions == DROP).all()


def test_a_soft_label_weighs_as_its_score() -> None:
    empty = ScoreStatistics.empty(1)
    decided = SoftPolicy(SoftPolicyConfig(threshold=0.25), ["thing"]).fit(empty, empty)(SCORES, LABELS)
    assert decided.actions.tolist() == [DROP, DROP, KEEP, KEEP, KEEP, KEEP, KEEP]
    assert decided.weights.tolist() == SCORES.tolist()
