"""Settings of core's backbones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from selftrain_core.backbones.inits import CheckpointInit, InitChoice
from selftrain_core.config_model import BackboneChoice, StrictModel

BatchNormMomentum = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="How much of a batch's statistics the running ones take over (paper: 0.003, there written as "
        "0.997).",
    ),
]
BatchNormEpsilon = Annotated[
    PositiveFloat,
    Field(description="Added to the variance (paper: 0.001, or 0.0001 where its settings do not say)."),
]


class TimmConfig(StrictModel):
    """A timm model."""

    init: InitChoice = Field(
        default="imagenet",
        description="How it starts: random, imagenet, imagenet++, one of timm's tags, or a checkpoint file; "
        "`selftrain plugins timm/MODEL` lists what a model has.",
    )
    drop_path: NonNegativeFloat = Field(default=0.0, lt=1, description="Largest stochastic-depth rate.")
    batch_norm_momentum: BatchNormMomentum | None = Field(
        default=None,
        description="How much of a batch's statistics the running ones take over (EfficientNet's authors: 0.01). null: "
        "timm's, mostly 0.1.",
    )
    batch_norm_epsilon: BatchNormEpsilon | None = Field(
        default=None, description="Added to the variance. null: timm's, which pre-trained weights were made with."
    )


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


class NasFpnConfig(_PyramidConfig):
    """A NAS-FPN; it starts as its body does. Detection takes it with neck.kind none."""

    repeats: Annotated[int, Field(ge=1, le=16)] = Field(
        default=5, description="Cells, one over the other (paper: 5 for detection, 7 for segmentation)."
    )
    separable: bool = Field(
        default=False,
        description="Whether each convolution works on every channel by itself and then on all in every pixel (paper: "
        "for segmentation).",
    )
    activation: Literal["relu", "swish"] = Field(
        default="relu", description="Before every convolution of the cells (paper: relu for segmentation)."
    )
    batch_norm_momentum: BatchNormMomentum = 0.1
    batch_norm_epsilon: BatchNormEpsilon = 1e-5


class SimplePyramidConfig(_PyramidConfig):
    """A pyramid over the map of stride 16 alone; it starts as its body does."""
