"""What every pseudo-label policy must do (`selftrain_core.interfaces.PseudoLabelPolicy`)."""

from __future__ import annotations

import pickle
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from selftrain_core.interfaces import Policy, PseudoLabelPolicy
from selftrain_core.labels import DROP, IGNORED, KEEP, Decisions, ScoreStatistics
from selftrain_core.testing.component import ComponentContract, assert_equal
from selftrain_core.testing.samples import draws, score_statistics


class PolicyContract(ComponentContract):
    """Inherit and name the policy."""

    kind = "policies"
    interface = PseudoLabelPolicy
    classes: ClassVar[tuple[str, ...]] = ("a", "b", "c", "d", "e")

    def fitted(self) -> Policy:
        """Return the policy, fitted to drawn statistics."""
        policy: PseudoLabelPolicy = self.load()(self.settings(), self.classes)
        return policy.fit(
            score_statistics(len(self.classes), 1), score_statistics(len(self.classes), 2, scored=False)
        )  # fmt: skip

    def scores(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return scores and labels of a shape; the scores 0 and 1 are among them where there is room."""
        scores = draws(shape, 11).numpy().copy()
        scores.reshape(-1)[:2] = (0, 1)[: scores.size]
        labels = (draws(shape, 12).numpy() * len(self.classes)).astype(np.uint8)
        return scores, labels

    def test_any_shape(self) -> None:
        """Decisions have the shape of the scores, whatever it is, and the declared types."""
        policy = self.fitted()
        for shape in ((7,), (0,), (5, 6), (2, 3, 4)):
            decided = policy(*self.scores(shape))
            assert decided.actions.shape == decided.weights.shape == shape, (
                f"scores of shape {shape} give decisions of shape {decided.actions.shape}, {decided.weights.shape}"
            )
            assert decided.actions.dtype == np.int8, f"actions are {decided.actions.dtype}, not int8"
            assert decided.weights.dtype == np.float32, f"weights are {decided.weights.dtype}, not float32"

    def test_values(self) -> None:
        """Actions are KEEP, IGNORED or DROP; weights are finite and not negative."""
        decided = self.fitted()(*self.scores((400,)))
        assert np.isin(decided.actions, (KEEP, IGNORED, DROP)).all(), f"actions are {np.unique(decided.actions)}"
        assert np.isfinite(decided.weights).all() and (decided.weights >= 0).all(), f"weights are {decided.weights}"

    def test_least(self) -> None:
        """What scores below `least` is dropped: as if it had not been predicted, which it then need not be."""
        policy: PseudoLabelPolicy = self.load()(self.settings(), self.classes)
        least = policy.least()
        assert 0 <= least <= 1, f"least() is {least}; scores lie in 0..1"
        scores, labels = self.scores((400,))
        below = self.fitted()(scores, labels).actions[scores < least]
        assert (below == DROP).all(), f"below least(), {least}, actions are {np.unique(below)}"

    def test_elementwise(self) -> None:
        """What is decided of one prediction depends on its score and label alone."""
        policy = self.fitted()
        scores, labels = self.scores((60,))
        whole = policy(scores, labels)
        order = np.argsort(draws((60,), 13).numpy())
        permuted = policy(scores[order], labels[order])
        assert_equal(permuted, Decisions(whole.actions[order], whole.weights[order]), "decisions in another order")
        square = policy(scores.reshape(6, 10), labels.reshape(6, 10))
        assert_equal(square.actions.reshape(-1), whole.actions, "actions in another shape")
        for place in range(0, 60, 7):
            alone = policy(scores[place : place + 1], labels[place : place + 1])
            expected = Decisions(whole.actions[place : place + 1], whole.weights[place : place + 1])
            assert_equal(alone, expected, f"the decision on element {place} alone")

    def test_inputs_are_not_changed(self) -> None:
        """Scores and labels are as they were."""
        (scores, labels), before = self.scores((50,)), self.scores((50,))
        self.fitted()(scores, labels)
        assert_equal((scores, labels), before, "scores and labels after a decision")

    def test_is_sent_to_worker_processes(self) -> None:
        """The fitted policy pickles, and decides the same afterwards."""
        policy = self.fitted()
        again = pickle.loads(pickle.dumps(policy))  # noqa: S301  # pickled on this line
        assert_equal(again(*self.scores((50,))), policy(*self.scores((50,))), "decisions after pickling")

    def test_fit_is_a_function_of_the_statistics(self) -> None:
        """Fitting twice to the same statistics decides the same."""
        assert_equal(self.fitted()(*self.scores((50,))), self.fitted()(*self.scores((50,))), "a second fit's decisions")

    def test_no_predictions(self) -> None:
        """A store that holds nothing gives a policy all the same."""
        empty = ScoreStatistics.empty(len(self.classes))
        policy: PseudoLabelPolicy = self.load()(self.settings(), self.classes)
        decided = policy.fit(empty, empty)(*self.scores((20,)))
        assert np.isin(decided.actions, (KEEP, IGNORED, DROP)).all(), f"actions are {np.unique(decided.actions)}"
        assert np.isfinite(decided.weights).all(), f"weights are {decided.weights}"
