"""Settings of the augmentation."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from selftrain_core.config_model import StrictModel


class S1Config(StrictModel):
    """Horizontal flip and scale jitter; the defaults are the paper's Augment-S1 (§3.1)."""

    flip_probability: float = Field(default=0.5, ge=0, le=1, description="Share of the images that are mirrored.")
    scale_min: float = Field(
        default=0.8,
        ge=0.5,
        description="Smallest scale. Below 0.5 a bilinear sample would step over pixels of the picture.",
    )
    scale_max: float = Field(default=1.2, gt=0, description="Largest scale; scales are uniform between the two.")
    min_visibility: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="An object of whose box the crop leaves a smaller share becomes a region to ignore.",
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min:g} is larger than scale_max {self.scale_max:g}")
        return self
