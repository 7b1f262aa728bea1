"""The main loop: teacher → pseudo labels → student, as in Zoph et al. 2020, section 3.

Each stage is a process of its own (`selftrain_core.stage`); this one never imports torch. A finished stage is skipped,
an interrupted one goes on where it stopped, a changed one is refused: the same command can always be given again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selftrain_core.config import RunConfig, TrainingConfig, dump_config
from selftrain_core.config_model import identity
from selftrain_core.files import write_text
from selftrain_core.index import ROLES, Index, build_sources, write_index
from selftrain_core.launch import launch
from selftrain_core.progress import Event, Observer, quiet
from selftrain_core.report import write_summary
from selftrain_core.run_folder import RunFolder, Stage

TEACHER, BASELINE = "round-0/teacher", "round-0/baseline"


def self_train(
    config: RunConfig,
    folder: Path,
    observer: Observer = quiet,
    *,
    in_process: bool = False,
    start_over: bool = False,
) -> dict[str, Any]:
    """Return the summary of a whole run: teach, then (label, learn, evaluate) for each round, and the baseline.

    Args:
        config: What to do.
        folder: Where everything is left; see the README for what lies where.
        observer: Told what happens.
        in_process: Run the stages in this process, for tests and debuggers.
        start_over: Make stages whose settings or data have changed again, instead of refusing.

    Raises:
        SelftrainError: Something is wrong with the configuration, the data or the folder; the message says what.
    """
    with RunFolder(folder, start_over=start_over) as run:
        work = Workshop(config, run, observer, in_process=in_process)
        teacher = work.teach()
        work.evaluate(teacher)
        models = [teacher]
        for number in range(1, config.rounds + 1):
            labels = work.label(teacher, number)
            student = work.learn(teacher, labels, number)
            work.evaluate(student)
            models.append(student)
            teacher = student
        if config.baseline:
            baseline = work.learn_supervised(models)
            work.evaluate(baseline)
            models.append(baseline)
        work.draw(models)
        return write_summary(run, config, [model.name for model in models])


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
        classes = config.data.class_names()
        self.new_index = run.path / "index.arrow.new"
        write_index(self.new_index, config.data, build_sources(config.data, classes))
        self.data = {role: Index(self.new_index).fingerprint(role) for role in ROLES}
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

    def draw(self, models: list[Stage]) -> Stage:
        """Draw a few validation images with what each model sees, and the curves."""
        depends = {"policy": self.config.policy.identity(), **{model.name: model.digest for model in models}}
        return self._do(Stage("draw", "pictures", depends, {model.name: model.name for model in models}, {}))

    def _supervised(self, kind: str, name: str, training: TrainingConfig, images: int) -> Stage:
        supervised = {k: v for k, v in identity(training).items() if k in TrainingConfig.model_fields}
        depends = {**self.model_identity, "training": {**supervised, "human": images}}
        return self._do(Stage(kind, name, depends, {}, {"steps": training.steps, "human": images, "pseudo": 0}))

    def _do(self, stage: Stage) -> Stage:
        if self.run.is_finished(stage):
            self.observer(Event("skipped", stage.name, text=self.run.other_versions(stage.name)))
            return stage
        if self.new_index.exists():  # the first stage to run: from here on the folder is this configuration's
            self.new_index.replace(self.run.path / "index.arrow")
            write_text(self.run.path / "config.yaml", dump_config(self.config))
        launch(self.run, stage, self.observer, in_process=self.in_process)
        return stage
