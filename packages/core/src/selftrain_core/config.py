"""The configuration of a run: strict models, YAML on disk, defaults for people with 50 to 5,000 labelled images.

Each component's own settings stand beside its name and belong to its plugin; nothing here knows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from selftrain_core import sets
from selftrain_core.config_model import (
    NOT_IDENTITY,
    AugmentationChoice,
    BackboneChoice,
    PolicyChoice,
    StrictModel,
    TaskChoice,
)
from selftrain_core.config_text import explain_errors, read_yaml
from selftrain_core.data_config import DataConfig, JointConfig, StreamName, multiple_of_32
from selftrain_core.errors import ConfigError, SelftrainError
from selftrain_core.plugins import registry
from selftrain_core.training_config import (
    ObjectiveConfig,
    OptimizerConfig,
    PretrainingConfig,
    StudentConfig,
    TrainingConfig,
)

__all__ = [
    "DataConfig",
    "DeviceConfig",
    "JointConfig",
    "LabellingConfig",
    "LoggingConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PredictionConfig",
    "PretrainingConfig",
    "RunConfig",
    "StudentConfig",
    "TrainingConfig",
    "dump_config",
    "load_config",
    "parse_config",
]


class PredictionConfig(StrictModel):
    """How a model looks at an image when it predicts; the predictions of all views are merged."""

    scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = Field(
        default=(1.0,), description="Of the canvas. The paper's teachers (§3.2) use 0.5, 0.75, 1, 1.25, 1.5, 1.75."
    )
    flip: bool = Field(default=False, description="Look at the mirror image too.")

    @property
    def views(self) -> tuple[tuple[float, bool], ...]:
        """(scale, is mirrored) of each view."""
        return tuple((scale, flip) for scale in self.scales for flip in ((False, True) if self.flip else (False,)))


class LabellingConfig(PredictionConfig):
    """How the teacher labels."""

    top_k: Annotated[int, Field(ge=1, le=16)] = Field(
        default=1, description="Classes that are kept for each pixel with their scores; more than one for soft labels."
    )


class DeviceConfig(StrictModel):
    """Where it runs.

    Nothing here is part of a result's identity. Workers and checkpoints, those of activations too, change nothing,
    `predict_batch` the last bits (and so does, on a processor, the number of torch's threads); with another number of
    devices or micro-batches, batch norm sees other groups of images, and the numbers change a little; so they do with
    another precision, memory order or synchronised batch norm.
    """

    accelerator: str = Field(default="auto", description="A name from `selftrain plugins`, or auto.")
    devices: PositiveInt = Field(default=1, description="How many of them, each a process.")
    workers: NonNegativeInt = Field(default=1, description="Processes that read images, per device.")
    micro_batches: PositiveInt = Field(
        default=1, description="Parts into which each device cuts a step, where the whole does not fit its memory."
    )
    predict_batch: PositiveInt = Field(default=16, description="Images in a forward pass that only predicts.")
    precision: Literal["float32", "bf16"] = Field(
        default="float32",
        description="bf16: models compute in bfloat16 where that suffices (torch.autocast), when they train and when "
        "they predict; weights, losses and scores stay in float32. Made for GPUs; on a processor measure it first.",
    )
    channels_last: bool | None = Field(
        default=None,
        description="Keep images and maps in memory pixel by pixel rather than channel by channel. null: on the "
        "processor, where it is faster, and on CUDA in bf16.",
    )
    sync_batch_norm: bool | None = Field(
        default=None,
        description="Batch norm over the images of all devices, as the paper's; on CUDA alone. null: wherever there "
        "are several CUDA devices.",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Keep no more than the inputs of a model's blocks until the backward pass, and compute their "
        "insides once more: less memory, about a third more work, the same numbers. What it saves: `selftrain plan`.",
    )
    checkpoint_seconds: NonNegativeFloat = Field(default=30.0, description="How often `last.ckpt` is written.")

    @field_validator("accelerator")
    @classmethod
    def _is_offered(cls, accelerator: str) -> str:
        if accelerator != "auto":
            registry().find("accelerators", accelerator)
        return accelerator


class LoggingConfig(StrictModel):
    """What other tools are given of a training, beside ``metrics.jsonl`` and ``metrics.csv``.

    Nothing here is part of a result's identity; a training that is finished is not logged again.
    """

    tensorboard: bool = Field(
        default=False,
        description="Write event files for `tensorboard --logdir RUN/tensorboard`; needs selftrain-core[tensorboard].",
    )


class RunConfig(StrictModel):
    """Everything a run is made of."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=0, description="Of every draw: the order of images, augmentation, dropout, new layers' weights."
    )
    rounds: PositiveInt = Field(default=1, description="teacher → labels → student rounds; the paper has one.")
    canvas: tuple[PositiveInt, PositiveInt] = Field(
        default=(320, 320), description="Height and width in pixels to which every image is fitted."
    )
    data: DataConfig
    task: TaskChoice = Field(description="What is predicted.")
    backbone: BackboneChoice = Field(
        default={"name": "timm/tf_efficientnet_lite0"}, validate_default=True, description="The feature extractor."
    )
    augmentation: AugmentationChoice = Field(
        default={"name": "augment/s1"}, validate_default=True, description="How training images are varied."
    )
    policy: PolicyChoice = Field(
        default={"name": "core/adaptive"},
        validate_default=True,
        description="What the student is taught of the teacher's predictions; the paper's is core/fixed at 0.5.",
    )
    pretraining: PretrainingConfig | None = Field(
        default=None,
        description="Contrastive pre-training of the backbone, from its init; all models that would start from the "
        "init then start from its result. null: none.",
    )
    joint: dict[StreamName, JointConfig] = Field(
        default={},
        description="Further tasks that every model learns through the same backbone, each under a name of your own.",
    )
    teacher: TrainingConfig = TrainingConfig()
    student: StudentConfig = StudentConfig()
    labelling: LabellingConfig = LabellingConfig()
    evaluation: PredictionConfig = Field(
        default=PredictionConfig(),
        description="How models are evaluated once trained; while they train, validation looks at each image once.",
    )
    objective: ObjectiveConfig = ObjectiveConfig()
    baseline: bool = Field(
        default=True, description="Also train the supervised model that sees as many images as teacher and student."
    )
    validate_every_images: PositiveInt = Field(
        default=2000, description="Images seen between two validations of a model in training."
    )
    device: DeviceConfig = Field(default=DeviceConfig(), json_schema_extra=NOT_IDENTITY)
    logging: LoggingConfig = Field(default=LoggingConfig(), json_schema_extra=NOT_IDENTITY)

    @model_validator(mode="before")
    @classmethod
    def _name_default_components(cls, data: Any) -> Any:
        # Settings of a component that is not named are meant for the one that is there by default.
        if not isinstance(data, Mapping):
            return data
        unnamed = {
            key: {**field.default, **data[key]}
            for key, field in cls.model_fields.items()
            if isinstance(field.default, dict) and isinstance(data.get(key), Mapping) and "name" not in data[key]
        }
        return {**data, **unnamed}

    _multiple_of_32 = field_validator("canvas")(multiple_of_32)

    @model_validator(mode="after")
    def _check_pretraining(self) -> Self:
        if self.pretraining is not None:
            try:
                sets.parse(self.pretraining.images, self.data.sources)
            except ConfigError as error:
                raise ConfigError(f"pretraining.images: {error}") from error
        return self


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration in a YAML file.

    Args:
        path: The file; relative paths in it are relative to its folder.
        overrides: ``"a.b=value"`` settings that replace those of the file; values are YAML.

    Raises:
        ConfigError: The file cannot be read, or something in it is wrong. The message names every wrong key.
    """
    try:
        with path.open("rb") as file:
            raw = read_yaml(file)
    except OSError as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error.strerror}") from error
    except ConfigError as error:
        raise ConfigError(f"the configuration {path} is {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(
            f"the configuration {path} holds no settings; it is to hold `key: value` lines, of which 'data' and 'task' "
            "are the least\n  all settings there are: selftrain config schema"
        )
    raw.pop("anchors", None)  # a place for YAML anchors, so that sources can share keys
    for override in overrides:
        _set(raw, override)
    return parse_config(raw, base_dir=path.resolve().parent, name=str(path))


def parse_config(raw: Mapping[str, Any], base_dir: Path, name: str = "the configuration") -> RunConfig:
    """Return the configuration that `raw` describes; relative paths are relative to `base_dir`.

    Raises:
        ConfigError: Something is wrong; the message names every wrong key.
    """
    try:
        return RunConfig.model_validate(raw, context={"base_dir": base_dir})
    except ValidationError as error:
        raise ConfigError("\n".join([f"{name} is wrong:", *explain_errors(error.errors())])) from error
    except SelftrainError as error:
        raise ConfigError(f"{name} is wrong:\n  {error}") from error


def dump_config(config: RunConfig) -> str:
    """Return the resolved configuration as YAML, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _set(raw: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override}: expected the form a.b=value")
    *parents, leaf = path.split(".")
    node = raw
    for parent in parents:
        child = node.get(parent)
        if isinstance(child, str):
            child = {"name": child}  # a component given by its name alone
        node[parent] = child = {} if child is None else child
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: '{parent}' holds {child!r}, not settings")
        node = child
    try:
        node[leaf] = read_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"--set {override}: the value is {error}") from error
