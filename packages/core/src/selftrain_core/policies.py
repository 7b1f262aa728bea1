"""The policies that come with core, the same for boxes and pixels.

A dropped box is background; a dropped pixel is ignored, since every pixel has some class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftrain_core.errors import ConfigError, did_you_mean
from selftrain_core.interfaces import Policy, PseudoLabelPolicy
from selftrain_core.labels import DROP, HISTOGRAM_BINS, IGNORED, KEEP, Decisions, ScoreStatistics
from selftrain_core.policy_config import (
    AdaptivePolicyConfig,
    FixedPolicyConfig,
    PerClassPolicyConfig,
    SoftPolicyConfig,
)


class FixedPolicy(PseudoLabelPolicy):
    """Keep what scores at least `threshold`, ignore what scores at least `ignore_above`, drop the rest (paper §3.2)."""

    config: FixedPolicyConfig

    def fit(self, store: ScoreStatistics, labelled: ScoreStatistics) -> Policy:
        """Return the rule; it is the same whatever the statistics."""
        return FixedDecision(self.config.threshold, self.config.ignore_above)

    def least(self) -> float:
        """Return the lower of the thresholds."""
        return self.config.threshold if self.config.ignore_above is None else self.config.ignore_above


@dataclass(frozen=True, slots=True)
class FixedDecision:
    """The fitted rule of `FixedPolicy`."""

    threshold: float
    ignore_above: float | None

    def __call__(self, scores: NDArray[np.float32], labels: NDArray[Any]) -> Decisions:
        """Return the decisions on `scores`, each at weight 1."""
        refused = DROP if self.ignore_above is None else np.where(scores >= self.ignore_above, IGNORED, DROP)
        actions = np.where(scores >= self.threshold, KEEP, refused).astype(np.int8)
        return Decisions(actions, np.ones(scores.shape, np.float32))


class PerClassPolicy(PseudoLabelPolicy):
    """Keep what scores at least its class's threshold; ignore what scores `ignore_above` of it, drop the rest."""

    config: PerClassPolicyConfig

    def fit(self, store: ScoreStatistics, labelled: ScoreStatistics) -> Policy:
        """Return the rule; it is the same whatever the statistics.

        Raises:
            ConfigError: A threshold is given for a class that there is not.
        """
        for name in self.config.thresholds:
            if name not in self.classes:
                raise ConfigError(
                    f"policy.thresholds names '{name}', which is no class{did_you_mean(name, self.classes)}; "
                    f"classes: {', '.join(self.classes)}"
                )
        return ClassDecision(self._thresholds(), self.config.ignore_above)

    def least(self) -> float:
        """Return the lowest threshold of a class, or `ignore_above` of it."""
        return _lower(min(self._thresholds()), self.config.ignore_above)

    def _thresholds(self) -> tuple[float, ...]:
        return tuple(self.config.thresholds.get(name, self.config.threshold) for name in self.classes)


class AdaptivePolicy(PseudoLabelPolicy):
    """Keep of each class, the surest first, a fixed share of what the labelled images hold of it.

    A class of which the teacher is never sure gets a lower threshold, one that it sees everywhere a higher one. What is
    compared is the share of pixels, or boxes per image, so the two sets may be of any size. The idea is that of
    class-balanced self-training (Zou et al. 2018), with the labelled images as the prior instead of the predictions.
    """

    config: AdaptivePolicyConfig

    def fit(self, store: ScoreStatistics, labelled: ScoreStatistics) -> Policy:
        """Return the rule: for each class the highest threshold, in 64ths, at which enough of it is kept."""
        wanted_C = self.config.share * labelled.density_CS.sum(1)
        kept_CS = store.density_CS[:, ::-1].cumsum(1)[:, ::-1]  # what is kept at the threshold of each bin's lower edge
        enough_CS = kept_CS >= wanted_C[:, None]
        edges_S = np.arange(HISTOGRAM_BINS) / HISTOGRAM_BINS
        threshold_C = np.where(enough_CS, edges_S, 0.0).max(1)
        thresholds = tuple(np.clip(threshold_C, self.config.lowest, self.config.highest).tolist())
        return ClassDecision(thresholds, self.config.ignore_above)

    def least(self) -> float:
        """Return `lowest`, or `ignore_above` of it."""
        return _lower(self.config.lowest, self.config.ignore_above)


@dataclass(frozen=True, slots=True)
class ClassDecision:
    """The fitted rule of `PerClassPolicy` and `AdaptivePolicy`: a threshold per class index.

    What scores less, but at least `ignore_above` of its class's threshold, is ignored; None ignores nothing.
    """

    thresholds: tuple[float, ...]
    ignore_above: float | None = None

    def __call__(self, scores: NDArray[np.float32], labels: NDArray[Any]) -> Decisions:
        """Return the decisions on `scores`, each at weight 1; a label that is no class is dropped."""
        is_class = (labels >= 0) & (labels < len(self.thresholds))
        place = np.where(is_class, labels, 0).astype(np.int64)
        threshold = np.array(self.thresholds, np.float32)[place]
        actions = np.where(is_class & (scores >= threshold), KEEP, DROP).astype(np.int8)
        if self.ignore_above is not None:
            lower = np.array([_lower(each, self.ignore_above) for each in self.thresholds], np.float32)
            actions[is_class & (scores < threshold) & (scores >= lower[place])] = IGNORED
        return Decisions(actions, np.ones(scores.shape, np.float32))


class SoftPolicy(PseudoLabelPolicy):
    """Keep what scores at least `threshold`, and let it weigh as much as its score.

    With ``labelling.top_k`` of more than one, pixels are taught the probabilities of their most probable classes.
    """

    config: SoftPolicyConfig

    def fit(self, store: ScoreStatistics, labelled: ScoreStatistics) -> Policy:
        """Return the rule; it is the same whatever the statistics."""
        return SoftDecision(self.config.threshold)

    def least(self) -> float:
        """Return the threshold."""
        return self.config.threshold


@dataclass(frozen=True, slots=True)
class SoftDecision:
    """The fitted rule of `SoftPolicy`."""

    threshold: float

    def __call__(self, scores: NDArray[np.float32], labels: NDArray[Any]) -> Decisions:
        """Return the decisions on `scores`, each at the weight of its score."""
        actions = np.where(scores >= self.threshold, KEEP, DROP).astype(np.int8)
        return Decisions(actions, scores.astype(np.float32))


def _lower(threshold: float, share: float | None) -> float:
    return threshold if share is None else threshold * share
