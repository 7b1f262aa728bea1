"""What each stage of a run depends on, and having it done. No torch here."""

from __future__ import annotations

from typing import Any

from selftrain_core import sets
from selftrain_core.config import RunConfig, TrainingConfig, dump_config
from selftrain_core.config_model import identity
from selftrain_core.files import write_text
from selftrain_core.index import ROLES, Index, build_sources, write_index
from selftrain_core.launch import launch
from selftrain_core.progress import Event, Observer
from selftrain_core.run_folder import RunFolder, Stage

TEACHER, BASELINE = "round-0/teacher", "round-0/baseline"


class Workshop:
    """Says what each stage depends on, and has it done.

    Args:
        config: The run's configuration.
        run: The run's folder.
        observer: Told what happens.
        in_process: Run the stages in this process.
    """

    def __init__(self, config: RunConfig, run: RunFolder, observer: Observer, *, in_process: bool) -> None:
        self.config, self.run, self.observer, self.in_process = config, run, observer, in_process
        self.is_rehearsal = True
        classes = config.data.class_names()
        self.new_index = run.path / "index.arrow.new"
        write_index(self.new_index, config.data, build_sources(config.data, classes))
        self.data = {role: self._data_identity(role) for role in ROLES}
        self.model_identity = {
            "seed": config.seed,
            "classes": list(classes),
            "allow_missing_classes": config.data.allow_missing_classes,
            "canvas": list(config.canvas),
            "task": config.task.identity(),
            "backbone": config.backbone.identity(),
            "augmentation": config.augmentation.identity(),
            "labelled": self.data["labelled"],
            "validation": self.data["validation"],
            "validate_every_images": config.validate_every_images,
        }

    def begin(self) -> None:
        """Make the folder this configuration's: from here on stages are done."""
        self.new_index.replace(self.run.path / "index.arrow")
        write_text(self.run.path / "config.yaml", dump_config(self.config))
        self.is_rehearsal = False

    def teach(self) -> Stage:
        """Train the teacher on the human labels alone."""
        return self._supervised("teach", TEACHER, self.config.teacher, self.config.teacher.human)

    def label(self, teacher: Stage, number: int) -> Stage:
        """Let the teacher predict on the unlabelled images, and keep the scores."""
        held_out = {role: self.data[role] for role in ("unlabelled", "validation", "test")}
        return self._do(
            Stage("label", f"round-{number}/pseudo-labels", {"teacher": teacher.digest, **held_out},
                  {"teacher": teacher.name}, {})
        )  # fmt: skip

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
        return self._do(Stage("learn", f"round-{number}/student", depends, inputs, settings))

    def learn_supervised(self, models: list[Stage]) -> Stage:
        """Train the baseline: supervised, from the same start, on as many images as all of `models` saw together."""
        student = self.config.student
        per_step = student.human + student.pseudo
        seen = sum(model.settings["steps"] * (model.settings["human"] + model.settings["pseudo"]) for model in models)
        training = student.model_copy(update={"steps": -(-seen // per_step)})
        return self._supervised("baseline", BASELINE, training, per_step)

    def evaluate(self, model: Stage) -> Stage:
        """Read the test set, once, with the last and the selected weights."""
        depends = {"model": model.digest, "test": self.data["test"], "validation": self.data["validation"]}
        return self._do(Stage("evaluate", f"{model.name}/evaluation", depends, {"model": model.name}, {}))

    def draw(self, models: list[Stage], labels: Stage) -> Stage:
        """Draw a few validation images with what each model sees, and the curves."""
        depends = {"policy": self.config.policy.identity(), **{model.name: model.digest for model in models}}
        inputs = {"labels": labels.name, "first": TEACHER}
        return self._do(Stage("draw", "pictures", depends, inputs, {"models": [model.name for model in models]}))

    def _supervised(self, kind: str, name: str, training: TrainingConfig, images: int) -> Stage:
        supervised = {k: v for k, v in identity(training).items() if k in TrainingConfig.model_fields}
        depends = {**self.model_identity, "training": {**supervised, "human": images}}
        return self._do(Stage(kind, name, depends, {}, {"steps": training.steps, "human": images, "pseudo": 0}))

    def _data_identity(self, role: str) -> dict[str, Any]:
        data = self.config.data
        sources = [data.sources[name].identity() for _, name in sets.parse(getattr(data, role), data.sources)]
        return {**Index(self.new_index).fingerprint(role), "sources": sources}

    def _do(self, stage: Stage) -> Stage:
        is_finished = self.run.is_finished(stage)
        if self.is_rehearsal:
            return stage
        if is_finished:
            self.observer(Event("skipped", stage.name, text=self.run.other_versions(stage.name)))
            return stage
        launch(self.run, stage, self.observer, in_process=self.in_process)
        return stage
