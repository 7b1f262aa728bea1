"""Settings of the segmentation task and its data source."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from selftrain_core.config_model import DataPath, StrictModel
from selftrain_core.sources import ImageFolderConfig

GroupNormChannels = Annotated[PositiveInt, Field(multiple_of=32)]
"""Channels of a decoder layer that ends in a 32-group normalisation."""


class SegmentationConfig(StrictModel):
    """A decoder of segmentation-models-pytorch over the backbone."""

    decoder: Literal["fpn"] = "fpn"
    pyramid_channels: PositiveInt = Field(default=128, description="Channels of the pyramid's levels.")
    segmentation_channels: GroupNormChannels = Field(default=64, description="Channels of each level's branch.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Share of channels dropped before the last layer.")


class IndexMasksConfig(ImageFolderConfig):
    """Images, and for each a PNG of the same path below `masks` whose pixel values are class indices, 255 = ignore."""

    masks: DataPath = Field(description="The folder of masks.")
