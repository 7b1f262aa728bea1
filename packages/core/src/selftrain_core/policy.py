"""The contract of policies: what a student is taught of what a teacher predicted. NumPy only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from selftrain_core.labels import Decisions, ScoreStatistics


class Policy(Protocol):
    """A fitted policy: elementwise, on arrays of any shape. It is sent to worker processes, so it must pickle."""

    def __call__(self, scores: NDArray[np.float32], labels: NDArray[Any]) -> Decisions:
        """Return what to do with each prediction.

        Args:
            scores: In 0..1.
            labels: Class indices, same shape.
        """


class PseudoLabelPolicy(ABC):
    """Decides what a student is taught of what a teacher predicted.

    Args:
        config: The policy's own settings.
        classes: The ordered class names.
    """

    def __init__(self, config: Any, classes: Sequence[str]) -> None:
        self.config = config
        self.classes = tuple(classes)

    @abstractmethod
    def fit(self, store: ScoreStatistics, labelled: ScoreStatistics) -> Policy:
        """Return the policy for one stage.

        Args:
            store: What the teacher predicted on the unlabelled images.
            labelled: What people labelled.
        """

    def least(self) -> float:
        """Return the lowest score that a fitted policy may treat otherwise than a prediction that is not there.

        0, where it may be any. A task that forgets such scores leaves a policy less to decide than its settings say,
        which is refused.
        """
        return 0.0
