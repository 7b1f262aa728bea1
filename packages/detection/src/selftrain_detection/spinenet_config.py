"""Settings of SpineNet. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from selftrain_core.backbones.config import BatchNormEpsilon, BatchNormMomentum
from selftrain_core.backbones.inits import InitChoice
from selftrain_core.config_model import StrictModel


class SpineNetConfig(StrictModel):
    """A SpineNet, which needs no neck: neck.kind none."""

    init: InitChoice = Field(default="random", description="How it starts: random, or a checkpoint file.")
    channels: PositiveInt | None = Field(
        default=None, description="Channels of every level; null: the size's own, 128 for 49s, 512 for 190, else 256."
    )
    drop_connect: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None,
        description="Rate at which the last blocks are left out of a training step, image by image; it rises evenly "
        "up to there. null: the published one, 0.16 for 143 and 143l, else 0.2.",
    )
    activation: Literal["relu", "swish"] = Field(
        default="swish", description="Behind every normalisation (paper: swish)."
    )
    batch_norm_momentum: BatchNormMomentum = 0.1
    batch_norm_epsilon: BatchNormEpsilon = 1e-5
