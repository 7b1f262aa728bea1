"""Which images play which part, and where they and their labels lie."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from selftrain_core import sets
from selftrain_core.config_model import (
    NOT_IDENTITY,
    AugmentationChoice,
    DataPath,
    DataSourceChoice,
    StrictModel,
    TaskChoice,
)
from selftrain_core.errors import ConfigError


def _stream_name(name: str) -> str:
    if not re.fullmatch("[a-z0-9][a-z0-9_-]*", name):
        raise ValueError("expected a name of small letters, digits, - and _")
    if name in _STREAMS:
        raise ValueError(f"every training has a stream '{name}'; expected another name")
    return name


_STREAMS = ("human", "pseudo")
StreamName = Annotated[str, AfterValidator(_stream_name)]
"""What a joint stream is called: in files, messages, and in the log, where `human_loss` is that of human labels."""


def names_or_a_file(classes: Any) -> Any:
    """Return a setting of class names as it is.

    Raises:
        ValueError: It is neither a list of texts nor a path; because of a union pydantic would explain each branch.
    """
    if isinstance(classes, (str, Path)):
        return classes
    if not isinstance(classes, Sequence) or not all(isinstance(name, str) for name in classes):
        raise ValueError(
            "expected the class names as a list of texts, such as [ground, tree], or a JSON file that holds them; "
            "a number, or a word such as yes or null, needs quotes to be a text"
        )
    return classes


def class_names(given: tuple[str, ...] | Path, setting: str) -> tuple[str, ...]:
    """Return the ordered class names of a setting, which may be a file that holds them.

    Raises:
        ConfigError: The file is missing or holds no list of distinct names.
    """
    names: Any = given
    if isinstance(names, Path):
        try:
            names = json.loads(names.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{setting}: {given} cannot be read: {error}") from error
        names = names.get("classes") if isinstance(names, dict) else names
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{setting}: {given} holds no list of class names")
    if len(set(names)) != len(names) or not names:
        raise ConfigError(f"{setting}: names must be distinct and at least one, given {list(names)}")
    return tuple(names)


def multiple_of_32(canvas: tuple[int, int]) -> tuple[int, int]:
    """Return a canvas as it is.

    Raises:
        ValueError: Feature maps of stride 32 are doubled up to stride 4, and a level would not divide evenly.
    """
    if any(side % 32 for side in canvas):
        nearest = [max(32, round(side / 32) * 32) for side in canvas]
        raise ValueError(f"height and width must be multiples of 32; the nearest is {nearest}")
    return canvas


class DataConfig(StrictModel):
    """Named sources, and which of their images play which part.

    The parts are set expressions over the names: ``train - labelled + photos``.
    """

    sources: dict[str, DataSourceChoice] = Field(
        description="Where images and labels lie, each under a name of your own.", json_schema_extra=NOT_IDENTITY
    )
    labelled: str = Field(description="The images that teach: an expression.", json_schema_extra=NOT_IDENTITY)
    unlabelled: str | None = Field(
        default=None,
        description="The pool, which the teacher labels. null: none; then there is a teacher alone.",
        json_schema_extra=NOT_IDENTITY,
    )
    validation: str = Field(description="Labelled images to choose settings by.", json_schema_extra=NOT_IDENTITY)
    test: str = Field(description="Labelled images that choose nothing, read once.", json_schema_extra=NOT_IDENTITY)
    classes: tuple[str, ...] | DataPath = Field(
        description="Ordered class names, or a JSON file that holds them as a list or under the key 'classes'."
    )
    allow_missing_classes: bool = Field(
        default=False, description="Train although no labelled image shows some class; otherwise that is an error."
    )

    _names_or_a_file = field_validator("classes", mode="before")(names_or_a_file)

    @model_validator(mode="after")
    def _check_expressions(self) -> Self:
        for role, images in self.parts().items():
            try:
                sets.parse(images, self.sources)
            except ConfigError as error:
                raise ConfigError(f"data.{role}: {error}") from error
        return self

    def parts(self) -> dict[str, str]:
        """Return the expression of each part that there is."""
        every = {
            "labelled": self.labelled,
            "unlabelled": self.unlabelled,
            "validation": self.validation,
            "test": self.test,
        }
        return {role: images for role, images in every.items() if images is not None}

    def class_names(self) -> tuple[str, ...]:
        """Return the ordered class names.

        Raises:
            ConfigError: The file is missing or holds no list of distinct names.
        """
        return class_names(self.classes, "data.classes")


class JointConfig(StrictModel):
    """Another task, learnt from labelled images of its own through the same backbone (paper §5, Appendix H)."""

    task: TaskChoice = Field(
        default={"name": "core/classification"}, validate_default=True, description="What is learnt from them."
    )
    sources: dict[str, DataSourceChoice] = Field(
        description="Where its images and labels lie, each under a name of your own.", json_schema_extra=NOT_IDENTITY
    )
    labelled: str = Field(description="Its images: an expression over its sources.", json_schema_extra=NOT_IDENTITY)
    classes: tuple[str, ...] | DataPath = Field(description="As data.classes.")
    images: PositiveInt = Field(default=8, description="Images it adds to each step.")
    weight: PositiveFloat = Field(default=0.2, description="Of its loss, w; the paper's is 0.2 or 0.5.")
    canvas: tuple[PositiveInt, PositiveInt] = Field(default=(224, 224), description="As canvas, for its images.")
    augmentation: AugmentationChoice = Field(
        default={"name": "augment/s1"}, validate_default=True, description="How its images are varied."
    )

    _names_or_a_file = field_validator("classes", mode="before")(names_or_a_file)
    _multiple_of_32 = field_validator("canvas")(multiple_of_32)

    @model_validator(mode="after")
    def _check_expression(self) -> Self:
        try:
            sets.parse(self.labelled, self.sources)
        except ConfigError as error:
            raise ConfigError(f"labelled: {error}") from error
        return self

    def class_names(self) -> tuple[str, ...]:
        """Return the ordered class names.

        Raises:
            ConfigError: The file is missing or holds no list of distinct names.
        """
        return class_names(self.classes, "classes")
