"""Settings of core's backbones."""

from __future__ import annotations

from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveInt

from selftrain_core.backbones.inits import CheckpointInit, InitChoice
from selftrain_core.config_model import BackboneChoice, StrictModel


class TimmConfig(StrictModel):
    """A timm model."""

    init: InitChoice = Field(
        default="imagenet",
        description="How it starts: random, imagenet, imagenet++, one of timm's tags, or a checkpoint file; "
        "`selftrain plugins timm/MODEL` lists what a model has.",
    )
    drop_path: NonNegativeFloat = Field(default=0.0, lt=1, description="Largest stochastic-depth rate.")


class _PyramidConfig(StrictModel):
    """A feature pyramid; it starts as its body does."""

    body: BackboneChoice = Field(description="The backbone below the pyramid.")
    channels: PositiveInt = Field(default=256, description="Channels of every level.")

    @property
    def init(self) -> str | CheckpointInit:
        """The body's init."""
        options: Any = self.body.options  # every backbone's settings have an init
        init: str | CheckpointInit = options.init
        return init


class FpnConfig(_PyramidConfig):
    """A feature pyramid; it starts as its body does."""


class SimplePyramidConfig(_PyramidConfig):
    """A pyramid over the map of stride 16 alone; it starts as its body does."""
