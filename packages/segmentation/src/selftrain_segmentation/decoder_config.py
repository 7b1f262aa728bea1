"""Settings of the decoders, and what each reads of a backbone. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from selftrain_core.backbones.config import BatchNormEpsilon, BatchNormMomentum
from selftrain_core.config_model import StrictModel
from selftrain_core.errors import did_you_mean

GroupNormChannels = Annotated[PositiveInt, Field(multiple_of=32)]
"""Channels of a decoder layer that ends in a 32-group normalisation."""
Dropout = Annotated[float, Field(ge=0, lt=1, description="Share of channels dropped before the last layer.")]
OutputStride = Annotated[
    Literal[8, 16, 32],
    Field(
        description="Stride of the backbone's deepest map. For 8 (PSPNet's paper) and 16 (DeepLabV3+'s) convolutional "
        "backbones dilate instead of striding: finer and slower. 32 is what most backbones do by themselves."
    ),
]


class _Pyramidal(StrictModel):
    """A decoder that reads every stride from 4 to 32."""

    output_stride: ClassVar[int | None] = None

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides read."""
        return 4, 8, 16, 32


class FpnDecoder(_Pyramidal):
    """Panoptic FPN's semantic branch (Kirillov et al. 2019)."""

    name: Literal["fpn"] = "fpn"
    pyramid_channels: PositiveInt = Field(default=128, description="Channels of the pyramid's levels.")
    segmentation_channels: GroupNormChannels = Field(default=64, description="Channels of each level's branch.")
    dropout: Dropout = 0.1


class DeepLabV3PlusDecoder(StrictModel):
    """DeepLabV3+ (Chen et al. 2018): parallel dilated convolutions of the deepest map, joined with stride 4."""

    name: Literal["deeplabv3plus"] = "deeplabv3plus"
    output_stride: OutputStride = 16
    channels: PositiveInt = Field(default=128, description="Channels of every layer (paper: 256).")
    dilations: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        default=(6, 12, 18),
        description="Of the parallel convolutions (paper: 6, 12, 18 at output stride 16; twice that at 8).",
    )
    dropout: Annotated[float, Field(ge=0, lt=1, description="Share of values dropped behind them.")] = 0.1

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides read."""
        return 4, self.output_stride


class UnetDecoder(_Pyramidal):
    """U-Net (Ronneberger et al. 2015): doubled up level by level to the image's size, with a skip from each stride."""

    name: Literal["unet"] = "unet"
    channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt] = Field(
        default=(256, 128, 64, 32, 16), description="Channels at strides 16, 8, 4, 2 and 1."
    )
    finest_stride: Literal[2, 4] = Field(
        default=4,
        description="Stride of the finest skip. Most convolutional backbones offer 2; ConvNeXt, Swin and pyramids do "
        "not. Above the finest skip, levels are doubled up without one.",
    )

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides read."""
        return (2, 4, 8, 16, 32) if self.finest_stride == 2 else (4, 8, 16, 32)


class UperNetDecoder(_Pyramidal):
    """UPerNet (Xiao et al. 2018): pyramid pooling of the deepest map, then a feature pyramid."""

    name: Literal["upernet"] = "upernet"
    channels: PositiveInt = Field(default=128, description="Channels of every layer (common: 256 or 512).")


class PspNetDecoder(StrictModel):
    """PSPNet (Zhao et al. 2017): pyramid pooling of the deepest map."""

    name: Literal["pspnet"] = "pspnet"
    output_stride: OutputStride = 16
    channels: PositiveInt = Field(default=256, description="Channels of the last layer (paper: 512).")
    dropout: Dropout = 0.1

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides read."""
        return (self.output_stride,)


class SegformerDecoder(_Pyramidal):
    """SegFormer's head (Xie et al. 2021): a linear layer for each stride, joined at stride 4."""

    name: Literal["segformer"] = "segformer"
    channels: PositiveInt = Field(default=128, description="Channels of every layer (paper: 256 or 768).")


class FusionDecoder(StrictModel):
    """The head of Zoph et al. 2020: the levels of a pyramid summed at stride 4, then convolutions."""

    name: Literal["fusion"] = "fusion"
    output_stride: ClassVar[int | None] = None
    num_convs: Annotated[int, Field(ge=0, le=16)] = Field(default=3, description="3×3 convolutions (paper: 3).")
    channels: PositiveInt = Field(default=256, description="Channels of each of them (paper: 256).")
    batch_norm_momentum: BatchNormMomentum = 0.1
    batch_norm_epsilon: BatchNormEpsilon = 1e-5

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides read."""
        return 8, 16, 32, 64, 128


AnyDecoder = (
    FpnDecoder | DeepLabV3PlusDecoder | UnetDecoder | UperNetDecoder | PspNetDecoder | SegformerDecoder | FusionDecoder
)
DECODERS: dict[str, type[AnyDecoder]] = {
    "fpn": FpnDecoder,
    "deeplabv3plus": DeepLabV3PlusDecoder,
    "unet": UnetDecoder,
    "upernet": UperNetDecoder,
    "pspnet": PspNetDecoder,
    "segformer": SegformerDecoder,
    "fusion": FusionDecoder,
}
Name = Literal["fpn", "deeplabv3plus", "unet", "upernet", "pspnet", "segformer", "fusion"]


def _chosen(data: Any) -> Any:
    """Return the settings of a decoder given by its name alone, as a mapping, or, without a name, as the default's."""
    if isinstance(data, StrictModel):
        return data
    if isinstance(data, str):
        data = {"name": data}
    name = data.get("name", "fpn") if isinstance(data, Mapping) else None
    if not isinstance(name, str):
        raise ValueError("give the decoder's name, or a mapping with the key 'name'")
    if name not in DECODERS:
        raise ValueError(
            f"there is no decoder '{name}'{did_you_mean(name, DECODERS)}; there are: {', '.join(DECODERS)}"
        )
    return DECODERS[name].model_validate(data)


_Tagged = Annotated[AnyDecoder, Field(discriminator="name")]
DecoderChoice = Annotated[_Tagged, BeforeValidator(_chosen, json_schema_input_type=_Tagged | Name)]
"""A decoder with its settings: ``{name: unet, …}``, or its name alone."""


def decoder_advice(asked: AnyDecoder, offers: Mapping[int | None, tuple[int, ...]]) -> str:
    """Return what a decoder reads, and the decoders that a backbone can feed, as they stand in a configuration.

    Args:
        asked: The decoder that it cannot feed.
        offers: The strides the backbone offers at each output stride it can keep; None is its own.
    """
    fitting = [text for decoder in DECODERS.values() for text in _fitting(decoder, offers)[:1]]
    if isinstance(asked, FusionDecoder):
        return "the decoder fusion stands on a pyramid of strides 8 to 128: backbone: {name: core/nas-fpn, body: …}"
    reads = ", ".join(map(str, asked.strides))
    kept = f" at the output stride {asked.output_stride}" if asked.output_stride else ""
    return (
        f"the decoder {asked.name} reads strides {reads}{kept}; decoders for this backbone: "
        f"{', '.join(fitting) or 'none; choose another backbone'}"
    )


def _fitting(decoder: type[AnyDecoder], offers: Mapping[int | None, tuple[int, ...]]) -> list[str]:
    default = decoder()
    variants: dict[str, AnyDecoder] = {default.name: default}
    for setting, values in (("output_stride", (16, 8, 32)), ("finest_stride", (4, 2))):
        if setting in decoder.model_fields:
            for value in values:
                variant = decoder.model_validate({setting: value})
                variants[f"{{name: {default.name}, {setting}: {value}}}"] = variant
    return [
        text for text, variant in variants.items() if set(variant.strides) <= set(offers.get(variant.output_stride, ()))
    ]
