"""Settings of the segmentation task."""

from __future__ import annotations

from pydantic import Field

from selftrain_core.config_model import StrictModel
from selftrain_segmentation.decoder_config import DecoderChoice, FpnDecoder


class SegmentationConfig(StrictModel):
    """A decoder of segmentation-models-pytorch over the backbone."""

    decoder: DecoderChoice = Field(default=FpnDecoder(), description="Its name, or a mapping with name and settings.")
