"""What each stage of a run depends on, and therefore what counts as a change. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftrain_core import sets
from selftrain_core.config import RunConfig, TrainingConfig
from selftrain_core.config_model import identity
from selftrain_core.index import ROLES, Index, build_sources, write_index
from selftrain_core.run_folder import Stage

TEACHER, BASELINE = "round-0/teacher", "round-0/baseline"


def scan(config: RunConfig, index: Path) -> dict[str, Any]:
    """Return what identifies the images of each part, and write the list of them.

    Args:
        config: The run's configuration.
        index: Where the list is written.

    Raises:
        DataError: A part is empty, an image plays two parts, or two files share an id.
    """
    write_index(index, config.data, build_sources(config.data, config.data.class_names()))
    images = Index(index)
    return {role: {**images.fingerprint(role), "sources": source_identities(config, role)} for role in ROLES}


def source_identities(config: RunConfig, role: str) -> list[dict[str, Any]]:
    """Return what identifies the readers of the images of one part."""
    data = config.data
    return [data.sources[name].identity() for _, name in sets.parse(getattr(data, role), data.sources)]


class Workshop:
    """Puts down the stages of a run: what each depends on, which others it reads, how much it has to do.

    Args:
        config: The run's configuration.
        data: What identifies the images of each part: what `scan` returned.

    Attributes:
        stages: What was put down, in the order in which it is done.
    """

    def __init__(self, config: RunConfig, data: Mapping[str, Any]) -> None:
        self.config, self.data = config, data
        self.stages: list[Stage] = []
        self.model_identity = {
            "seed": config.seed,
            "classes": list(config.data.class_names()),
            "allow_missing_classes": config.data.allow_missing_classes,
            "canvas": list(config.canvas),
            "task": config.task.identity(),
            "backbone": config.backbone.identity(),
            "augmentation": config.augmentation.identity(),
            "labelled": self.data["labelled"],
            "validation": self.data["validation"],
            "validate_every_images": config.validate_every_images,
        }

    def teach(self) -> Stage:
        """Train the teacher on the human labels alone."""
        return self._supervised("teach", TEACHER, self.config.teacher, self.config.teacher.human)

    def label(self, teacher: Stage, number: int) -> Stage:
        """Let the teacher predict on the unlabelled images, and keep the scores."""
        depends = {
            "teacher": teacher.digest,
            "labelling": identity(self.config.labelling),
            **{role: self.data[role] for role in ("unlabelled", "validation", "test")},
        }
        return self._put_down(Stage("label", f"round-{number}/pseudo-labels", depends, {"teacher": teacher.name}, {}))

    def learn(self, teacher: Stage, labels: Stage, number: int) -> Stage:
        """Train the student on human and pseudo labels jointly, with the normalised loss."""
        config = self.config
        depends = {
            **self.model_identity,
            "training": identity(config.student),
            "objective": identity(config.objective),
            "policy": config.policy.identity(),
            "teacher": teacher.digest,
            "labels": labels.digest,
        }
        inputs = {"teacher": teacher.name, "labels": labels.name, "first": TEACHER}
        settings = {"steps": config.student.steps, "human": config.student.human, "pseudo": config.student.pseudo}
        return self._put_down(Stage("learn", f"round-{number}/student", depends, inputs, settings))

    def learn_supervised(self, models: list[Stage]) -> Stage:
        """Train the baseline: supervised, from the same start, on as many images as all of `models` saw together."""
        student = self.config.student
        per_step = student.human + student.pseudo
        seen = sum(model.settings["steps"] * (model.settings["human"] + model.settings["pseudo"]) for model in models)
        training = student.model_copy(update={"steps": -(-seen // per_step)})
        return self._supervised("baseline", BASELINE, training, per_step)

    def evaluate(self, model: Stage) -> Stage:
        """Read the test set, once, with the last and the selected weights."""
        depends = {
            "model": model.digest,
            "evaluation": identity(self.config.evaluation),
            **{role: self.data[role] for role in ("test", "validation")},
        }
        return self._put_down(Stage("evaluate", f"{model.name}/evaluation", depends, {"model": model.name}, {}))

    def draw(self, models: list[Stage], labels: Stage) -> Stage:
        """Draw a few validation images with what each model sees, and the curves."""
        depends = {"policy": self.config.policy.identity(), **{model.name: model.digest for model in models}}
        inputs = {"labels": labels.name, "first": TEACHER}
        names = [model.name for model in models]
        return self._put_down(Stage("draw", "pictures", depends, inputs, {"models": names}))

    def _supervised(self, kind: str, name: str, training: TrainingConfig, images: int) -> Stage:
        supervised = {k: v for k, v in identity(training).items() if k in TrainingConfig.model_fields}
        depends = {**self.model_identity, "training": {**supervised, "human": images}}
        settings = {"steps": training.steps, "human": images, "pseudo": 0}
        return self._put_down(Stage(kind, name, depends, {}, settings))

    def _put_down(self, stage: Stage) -> Stage:
        self.stages.append(stage)
        return stage
