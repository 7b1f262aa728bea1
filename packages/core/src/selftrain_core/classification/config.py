"""Settings of the classification task."""

from __future__ import annotations

from pydantic import Field

from selftrain_core.config_model import StrictModel


class ClassificationConfig(StrictModel):
    """One linear layer over the mean of the backbone's coarsest map."""

    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the mean features that are set to 0 while training."
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of each label that is spread evenly over all classes; ImageNet recipes have 0.1.",
    )
