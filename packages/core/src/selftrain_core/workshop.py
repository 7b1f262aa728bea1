"""What each stage of a run depends on, and therefore what counts as a change. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selftrain_core import sets
from selftrain_core.config import RunConfig, TrainingConfig
from selftrain_core.config_model import identity
from selftrain_core.errors import SelftrainError
from selftrain_core.index import Index, Part, build_sources, write_index, write_parts
from selftrain_core.run_folder import Stage

PRETRAINING, TEACHER, BASELINE = "pretraining", "round-0/teacher", "round-0/baseline"
INDEX, PRETRAINING_INDEX, NEW = "index.arrow", "pretraining.arrow", ".new"


def scan(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Return what identifies the images of each part, and write the lists of them, each with a new name's ending.

    Args:
        config: The run's configuration.
        folder: Where the lists are written; `take_over` gives them their own names.

    Raises:
        DataError: A part is empty, an image plays two parts, or two files share an id.
    """
    data = config.data
    sources = build_sources(data, data.class_names())
    path = folder / f"{INDEX}{NEW}"
    write_index(path, data, sources)
    images = Index(path)
    found = {role: {**images.fingerprint(role), "sources": source_identities(config, role)} for role in data.parts()}
    if config.pretraining is not None:
        path = folder / f"{PRETRAINING_INDEX}{NEW}"
        given = Part(config.pretraining.images, "pretraining.images")
        held_out = {role: Part(data.parts()[role], f"data.{role}") for role in ("validation", "test")}
        write_parts(path, {"unlabelled": given, **held_out}, sources)
        # Their labels are not read: who reads them does not matter.
        found["pretraining"] = Index(path).fingerprint("unlabelled")
    for name, joint in config.joint.items():
        path = folder / f"{joint_index(name)}{NEW}"
        part = Part(joint.labelled, f"joint.{name}.labelled")
        with naming_joint(name):
            write_parts(path, {"labelled": part}, build_sources(joint, joint.class_names()))
        read_by = [joint.sources[each].identity() for _, each in sets.parse(joint.labelled, joint.sources)]
        found[f"joint.{name}"] = {**Index(path).fingerprint("labelled"), "sources": read_by}
    return found


def take_over(config: RunConfig, folder: Path) -> None:
    """Give the lists that `scan` wrote their own names."""
    names = [INDEX, *([PRETRAINING_INDEX] if config.pretraining else []), *map(joint_index, config.joint)]
    for name in names:
        (folder / f"{name}{NEW}").replace(folder / name)


@contextmanager
def naming_joint(name: str) -> Iterator[None]:
    """Say of an error in a joint stream's images or labels in which."""
    try:
        yield
    except SelftrainError as error:
        raise type(error)(f"joint.{name}: {error}") from error


def joint_index(name: str) -> str:
    """Return the file that lists the images of a joint stream."""
    return f"joint-{name}.arrow"


def source_identities(config: RunConfig, role: str) -> list[dict[str, Any]]:
    """Return what identifies the readers of the images of one part."""
    data = config.data
    return [data.sources[name].identity() for _, name in sets.parse(data.parts()[role], data.sources)]


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
            "labelled": self.data["labelled"],
            "validation": self.data["validation"],
            "validate_every_images": config.validate_every_images,
        }
        if config.joint:
            self.model_identity["joint"] = {
                name: {**identity(joint), "classes": list(joint.class_names()), "data": self.data[f"joint.{name}"]}
                for name, joint in config.joint.items()
            }
        self.start: dict[str, str] = {}
        """What is read where a model starts from the init: the pre-training, if there is one."""

    def pretrain(self) -> Stage:
        """Train the backbone on images without labels; what starts from the init from then on starts from this."""
        config = self.config
        assert config.pretraining is not None
        depends = {
            "seed": config.seed,
            "canvas": list(config.canvas),
            "task": config.task.identity(),  # says which strides the backbone is built for
            "backbone": config.backbone.identity(),
            "pretraining": identity(config.pretraining),
            "images": self.data["pretraining"],
        }
        settings = {"steps": config.pretraining.steps, "human": 0, "pseudo": config.pretraining.images_per_step}
        stage = self._put_down(Stage("pretrain", PRETRAINING, depends, {}, settings))
        self.model_identity["pretraining"] = stage.digest
        self.start = {"pretraining": stage.name}
        return stage

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
            **self._training_identity(config.student),
            "objective": identity(config.objective),
            "policy": config.policy.identity(),
            "teacher": teacher.digest,
            "labels": labels.digest,
        }
        inputs = {"teacher": teacher.name, "labels": labels.name, "first": TEACHER, **self.start}
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
        identified = self._training_identity(training)
        supervised = {k: v for k, v in identified["training"].items() if k in TrainingConfig.model_fields}
        depends = {**self.model_identity, **identified, "training": {**supervised, "human": images}}
        settings = {"steps": training.steps, "human": images, "pseudo": 0}
        return self._put_down(Stage(kind, name, depends, dict(self.start), settings))

    def _training_identity(self, training: TrainingConfig) -> dict[str, Any]:
        """Return what a training depends on, with its own augmentation where it has one."""
        settings = {key: value for key, value in identity(training).items() if key != "augmentation"}
        augmentation = training.augmentation or self.config.augmentation
        return {"augmentation": augmentation.identity(), "training": settings}

    def _put_down(self, stage: Stage) -> Stage:
        self.stages.append(stage)
        return stage
