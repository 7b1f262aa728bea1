"""How far a command goes: like ``make``, to its own stage and through whatever is missing before it. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from selftrain_core.errors import ConfigError, RunError
from selftrain_core.run_folder import RunFolder, Stage


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be there in the end.

    Attributes:
        kind: ``run`` is everything; ``pretrain``, ``teach``, ``label`` and ``learn`` end with their own stage;
            ``evaluate`` scores the models that are finished and trains none.
        round: Whose labels or student: 1 is the first round.
    """

    kind: Literal["run", "pretrain", "teach", "label", "learn", "evaluate"] = "run"
    round: int = 1

    @property
    def has_summary(self) -> bool:
        """Whether models are compared in the end."""
        return self.kind in ("run", "evaluate")

    def choose(self, stages: Sequence[Stage], run: RunFolder) -> list[Stage]:
        """Return those of a run's stages that lead to this goal, in the order in which they are done.

        Args:
            stages: All stages of a run, in order.
            run: The run's folder: what can be evaluated depends on what is there.

        Raises:
            ConfigError: The run has no such round.
            RunError: There is no finished model to evaluate, or one was made with other settings or data.
        """
        if self.kind == "run":
            return list(stages)
        if self.kind == "evaluate":
            return _evaluations(stages, run)
        last = [stage for stage in stages if stage.kind == self.kind]
        if self.kind == "pretrain" and not last:
            raise ConfigError(
                "the configuration has no pre-training\n  give it the images to learn from, one or several of "
                "data.sources, for example: --set pretraining.images='train + pool'"
            )
        if not last:
            raise ConfigError(
                "the configuration has no data.unlabelled: there is nothing for a teacher to label\n  give it the "
                "images to label, one or several of data.sources, for example: --set data.unlabelled='pool'"
            )
        if self.round > len(last):
            raise ConfigError(
                f"there is no round {self.round}: the configuration has rounds: {len(last)}\n"
                f"  give --round 1{f' to {len(last)}' if len(last) > 1 else ''}, or more rounds: "
                f"--set rounds={self.round}"
            )
        return _with_what_it_needs(last[self.round - 1], stages)


EVERYTHING = Goal()


def _with_what_it_needs(last: Stage, stages: Sequence[Stage]) -> list[Stage]:
    by_name = {stage.name: stage for stage in stages}
    needed, waiting = set[str](), [last.name]
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting.extend(by_name[name].inputs.values())
    return [stage for stage in stages if stage.name in needed]


def _evaluations(stages: Sequence[Stage], run: RunFolder) -> list[Stage]:
    by_name = {stage.name: stage for stage in stages}
    evaluations = [stage for stage in stages if stage.kind == "evaluate"]
    models = [by_name[stage.inputs["model"]] for stage in evaluations]
    run.refuse_changes(models, remedy="to make it again: selftrain run with --start-over, which removes it")
    finished = {model.name for model in models if run.standing(model).state == "finished"}
    if not finished:
        raise RunError(
            f"{run.path} holds no finished model to evaluate; it may hold: "
            f"{', '.join(model.name for model in models)}\n"
            "  to train them: selftrain teach, selftrain learn, or selftrain run for everything"
        )
    return [stage for stage in evaluations if stage.inputs["model"] in finished]
