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


class SimClrConfig(StrictModel):
    """Views for contrastive pre-training; the defaults are SimCLR's for ImageNet (Chen et al. 2020, appendix A)."""

    area_min: float = Field(default=0.08, ge=0.01, le=1, description="Smallest share of the picture that is shown.")
    area_max: float = Field(
        default=1.0, gt=0, le=1, description="Largest share of the picture; shares are uniform between the two."
    )
    aspect_min: float = Field(
        default=3 / 4, ge=0.1, description="Smallest width by height of what is shown, in units of the canvas' own."
    )
    aspect_max: float = Field(
        default=4 / 3, gt=0, le=10, description="Largest; their logarithms are uniform between the two."
    )
    flip_probability: float = Field(default=0.5, ge=0, le=1, description="Share of the images that are mirrored.")
    jitter_probability: float = Field(
        default=0.8, ge=0, le=1, description="Share of the images whose colours are jittered."
    )
    strength: float = Field(
        default=1.0, ge=0, description="Times the four numbers that follow. SimCLR: 1 for ImageNet, 0.5 for CIFAR-10."
    )
    brightness: float = Field(
        default=0.8, ge=0, description="Factors are uniform from 1 less this, or from 0, to 1 and this."
    )
    contrast: float = Field(default=0.8, ge=0, description="Likewise, of the distance from the view's mean grey.")
    saturation: float = Field(default=0.8, ge=0, description="Likewise, of the distance from each pixel's grey.")
    hue: float = Field(default=0.2, ge=0, le=0.5, description="Largest shift of the hue, either way, in full turns.")
    grey_probability: float = Field(default=0.2, ge=0, le=1, description="Share of the images that lose their colours.")
    blur_probability: float = Field(default=0.5, ge=0, le=1, description="Share of the images that are blurred.")
    sigma_min: float = Field(default=0.1, ge=0.01, description="Smallest standard deviation of the blur, in pixels.")
    sigma_max: float = Field(default=2.0, gt=0, description="Largest; they are uniform between the two.")
    blur_side: float = Field(
        default=0.1, gt=0, le=1, description="Side of the blur's kernel, as a share of the canvas' shorter side."
    )
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
        "small crops stay sharp, at the cost of reading more pixels.",
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for what in ("area", "aspect", "sigma"):
            low, high = getattr(self, f"{what}_min"), getattr(self, f"{what}_max")
            if low > high:
                raise ValueError(f"{what}_min {low:g} is larger than {what}_max {high:g}")
        if self.strength * self.hue > 0.5:
            raise ValueError(
                f"strength {self.strength:g} times hue {self.hue:g} is more than half a turn, 0.5, beyond which hues "
                f"come again; wanted is hue {0.5 / self.strength:g} or less"
            )
        return self

    def factors(self, name: Literal["brightness", "contrast", "saturation"]) -> tuple[float, float]:
        """Return the smallest and the largest factor."""
        most = self.strength * float(getattr(self, name))
        return max(0.0, 1 - most), 1 + most
