"""Settings of the segmentation task."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from selftrain_core.config_model import StrictModel
from selftrain_segmentation.decoder_config import DecoderChoice, FpnDecoder


class SegmentationConfig(StrictModel):
    """A decoder of segmentation-models-pytorch over the backbone."""

    decoder: DecoderChoice = Field(default=FpnDecoder(), description="Its name, or a mapping with name and settings.")
    loss_stride: Literal[1, 2, 4, 8] = Field(
        default=1,
        description="The loss is of every n-th pixel of the canvas each way: 4, at which most decoders end, takes less "
        "time and memory where there are dozens of classes (the paper's released settings: 4).",
    )
