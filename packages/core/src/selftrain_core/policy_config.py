"""Settings of core's policies."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from selftrain_core.config_model import StrictModel

Score = Annotated[float, Field(ge=0, le=1)]


class FixedPolicyConfig(StrictModel):
    """One threshold for every class."""

    threshold: Score = Field(default=0.5, description="Lowest score that is kept (paper §3.2: 0.5).")
    ignore_above: Score | None = Field(
        default=None, description="Lowest score that is taken out of the loss instead of dropped; null: none is."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.ignore_above is not None and self.ignore_above > self.threshold:
            raise ValueError(f"ignore_above ({self.ignore_above}) lies above threshold ({self.threshold})")
        return self
