"""The fixed-threshold policy: the paper's rule (§3.2), the same for boxes and pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftrain_core.interfaces import Policy, PseudoLabelPolicy
from selftrain_core.labels import DROP, IGNORED, KEEP, Decisions, ScoreStatistics
from selftrain_core.policy_config import FixedPolicyConfig


class FixedPolicy(PseudoLabelPolicy):
    """Keep what scores at least `threshold`, ignore what scores at least `ignore_above`, drop the rest.

    A dropped box is background; a dropped pixel is ignored, since every pixel has some class.
    """

    config: FixedPolicyConfig

    def fit(self, store: ScoreStatistics, labelled: ScoreStatistics) -> Policy:
        """Return the rule; it is the same whatever the statistics."""
        return FixedDecision(self.config.threshold, self.config.ignore_above)


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
