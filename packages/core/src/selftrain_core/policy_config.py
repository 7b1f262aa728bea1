"""Settings of core's policies."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from selftrain_core.config_model import StrictModel

Score = Annotated[float, Field(ge=0, le=1)]
_IGNORED_SHARE: float | None = Field(
    default=None,
    description="Share of a class's threshold from which a score is taken out of the loss instead of dropped. 0.5: "
    "what scores at least half of its class's threshold is ignored; null: none is.",
)


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


class PerClassPolicyConfig(StrictModel):
    """A threshold for each class, written down by hand."""

    thresholds: dict[str, Score] = Field(description="Lowest score that is kept, by class name.")
    threshold: Score = Field(default=0.5, description="Of the classes that are not named.")
    ignore_above: Score | None = _IGNORED_SHARE


class AdaptivePolicyConfig(StrictModel):
    """A threshold for each class, chosen so that as much of it is kept as people labelled."""

    share: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="How much of each class to keep, as a part of what the labelled images hold of it.",
    )
    lowest: Score = Field(default=0.3, description="No threshold is lower: what is kept is at least as certain.")
    highest: Score = Field(default=0.9, description="No threshold is higher.")
    ignore_above: Score | None = _IGNORED_SHARE

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lowest > self.highest:
            raise ValueError(f"lowest ({self.lowest}) lies above highest ({self.highest})")
        return self


class SoftPolicyConfig(StrictModel):
    """Everything is kept and weighs as much as its score."""

    threshold: Score = Field(default=0.0, description="Lowest score that is kept.")
