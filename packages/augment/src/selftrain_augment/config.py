"""Settings of the augmentations."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from selftrain_augment.operations import OPERATIONS, ColourOptions, OperationName, Step
from selftrain_augment.policies import (
    RAND_AUGMENT,
    AutoAugmentName,
    Policy,
    RandAugmentName,
    auto_augment,
    rand_augment,
)
from selftrain_core.config_model import StrictModel
from selftrain_core.errors import did_you_mean


class S1Config(StrictModel):
    """Horizontal flip and scale jitter; the defaults are the paper's Augment-S1 (§3.1)."""

    flip_probability: float = Field(default=0.5, ge=0, le=1, description="Share of the images that are mirrored.")
    scale_min: float = Field(default=0.8, ge=0.1, description="Smallest scale.")
    scale_max: float = Field(default=1.2, gt=0, description="Largest scale; scales are uniform between the two.")
    min_visibility: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="An object of whose box a smaller share can be seen becomes a region to ignore.",
    )
    oversample: int = Field(
        default=1,
        ge=1,
        le=4,
        description="Images are read onto a canvas so many times as high and wide as that on which they are trained: "
        "what is enlarged stays sharp, at the cost of reading and resampling more pixels.",
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min:g} is larger than scale_max {self.scale_max:g}")
        return self

    def policy_to_apply(self) -> Policy:
        """Return what is done beside flip, jitter and crop."""
        return Policy()

    def reference_side(self) -> float | None:
        """Return the long side of the pictures that magnitudes in pixels are meant for; None: of any."""
        return None

    def colour_options(self) -> ColourOptions:
        """Return in which way operations on colours are done."""
        return ColourOptions()


class _PolicyConfig(S1Config):
    """Flip, jitter and a policy of operations."""

    pixel_reference: float | None = Field(
        default=640,
        gt=0,
        description="Magnitudes in pixels were tuned on pictures of this long side, and grow and shrink with the "
        "picture's; null: taken literally.",
    )
    contrast: Literal["grey", "white"] = Field(
        default="grey",
        description="Contrast blends with the picture's mean grey, as everywhere else; white: as in the code of "
        "AutoAugment, whose mean overflows on pictures of more than 65,280 pixels.",
    )
    solarize: Literal["falling", "rising"] = Field(
        default="falling",
        description="With the magnitude, Solarize gets weaker, as in the code of AutoAugment, and does nothing at 10; "
        "rising: the more pixels inverted the larger it is.",
    )

    def reference_side(self) -> float | None:
        """Return the long side of the pictures that magnitudes in pixels are meant for; None: of any."""
        return self.pixel_reference

    def colour_options(self) -> ColourOptions:
        """Return in which way operations on colours are done."""
        return ColourOptions(self.contrast == "white", self.solarize == "rising")


class S2Config(_PolicyConfig):
    """AutoAugment, flip and scale jitter; the defaults are the paper's Augment-S2 (§3.1)."""

    policy: AutoAugmentName = Field(
        default="v0",
        description="AutoAugment's policy for detection. v0 is the one that its paper reports; this paper names none.",
    )

    def policy_to_apply(self) -> Policy:
        """Return AutoAugment's policy."""
        return auto_augment(self.policy)


class S3Config(S2Config):
    """AutoAugment, flip and large scale jitter; the defaults are the paper's Augment-S3 (§3.1)."""

    scale_min: float = Field(default=0.5, ge=0.1, description="Smallest scale.")
    scale_max: float = Field(default=2.0, gt=0, description="Largest scale; scales are uniform between the two.")


class S4Config(_PolicyConfig):
    """RandAugment, flip and large scale jitter; the defaults are the paper's Augment-S4 (§3.1)."""

    scale_min: float = Field(default=0.5, ge=0.1, description="Smallest scale.")
    scale_max: float = Field(default=2.0, gt=0, description="Largest scale; scales are uniform between the two.")
    operations: RandAugmentName = Field(
        default="randaugment",
        description="The list of operations to draw from. The paper gives none; randaugment is that of the experiment "
        "on detection in RandAugment's own paper.",
    )
    num_operations: int = Field(
        default=1,
        ge=1,
        le=8,
        description="Operations per image, drawn independently. The paper gives none; RandAugment's experiment on "
        "detection takes 1.",
    )
    magnitude: float = Field(
        default=10.0, ge=0, le=30, description="Of every operation (paper §3.1: 10, and 15 for ResNet-101)."
    )

    def policy_to_apply(self) -> Policy:
        """Return RandAugment."""
        return rand_augment(RAND_AUGMENT[self.operations], self.num_operations, self.magnitude)


_ItemT = TypeVar("_ItemT")


def _not_empty(items: tuple[_ItemT, ...]) -> tuple[_ItemT, ...]:
    if not items:
        raise ValueError("is empty; wanted is at least one")
    return items


# Not Field(min_length=1): pydantic leaves items that are wrong out of the count, and says of them that there are none.
_NotEmpty = Annotated[tuple[_ItemT, ...], AfterValidator(_not_empty)]


class StepConfig(StrictModel):
    """One operation of a sub-policy."""

    operation: OperationName = Field(description="Its name, as in AutoAugment's tables.")
    probability: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Of being done at all; those on boxes alone are done to each box with a third of it.",
    )
    magnitude: float = Field(default=10.0, ge=0, le=30, description="0 to 10, and beyond it linearly.")

    @model_validator(mode="before")
    @classmethod
    def _check_operation(cls, data: object) -> object:
        name = data.get("operation") if isinstance(data, dict) else None
        if isinstance(name, str) and name not in OPERATIONS:
            raise ValueError(
                f"there is no operation '{name}'{did_you_mean(name, OPERATIONS)}; there are: {', '.join(OPERATIONS)}"
            )
        return data


class CustomConfig(_PolicyConfig):
    """A policy of one's own, flip and scale jitter."""

    sub_policies: _NotEmpty[_NotEmpty[StepConfig]] = Field(
        description="Lists of steps; one list is drawn for each image, and its steps are done in their order.",
    )

    def policy_to_apply(self) -> Policy:
        """Return the policy of one's own."""
        return Policy(
            tuple(
                tuple(Step(step.operation, step.probability, step.magnitude) for step in steps)
                for steps in self.sub_policies
            )
        )
