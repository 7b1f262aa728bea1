"""The decoders of segmentation-models-pytorch over the backbone contract.

They expect a list of maps of stride 1, 2, 4, … down to the deepest, the image itself first. A stride that is not read
is a map without channels, as that library's own encoders give where they have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.decoders.deeplabv3 import decoder as deeplab
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.pspnet import decoder as psp
from segmentation_models_pytorch.decoders.segformer import decoder as segformer
from segmentation_models_pytorch.decoders.unet import decoder as unet
from segmentation_models_pytorch.decoders.upernet import decoder as upernet
from torch import Tensor, nn

from selftrain_core.errors import ConfigError
from selftrain_segmentation.decoder_config import (
    AnyDecoder,
    DeepLabV3PlusDecoder,
    FpnDecoder,
    FusionDecoder,
    PspNetDecoder,
    SegformerDecoder,
    UnetDecoder,
    UperNetDecoder,
)
from selftrain_segmentation.fusion import PyramidFusion


def build_decoder(config: AnyDecoder, channels: Mapping[int, int]) -> tuple[nn.Module, int]:
    """Return the decoder and the channels of its output, whose stride is at most the deepest map's.

    Args:
        config: Which decoder, and its settings.
        channels: Of the backbone's map of each stride in `config.strides`.

    Raises:
        ConfigError: The decoder cannot use maps of so many channels.
    """
    widths = [3, *(channels.get(stride, 0) for stride in _down_to(max(channels)))]
    match config:
        case FpnDecoder():
            decoder = FPNDecoder(
                widths,
                encoder_depth=len(widths) - 1,
                pyramid_channels=config.pyramid_channels,
                segmentation_channels=config.segmentation_channels,
                dropout=config.dropout,
            )
            return decoder, config.segmentation_channels
        case DeepLabV3PlusDecoder():
            return _deeplab(config, widths), config.channels
        case UnetDecoder():
            return unet.UnetDecoder(widths, config.channels, n_blocks=len(widths) - 1), config.channels[-1]
        case UperNetDecoder():
            decoder = upernet.UPerNetDecoder(widths, len(widths) - 1, config.channels)
            # As in `_deeplab`: no batch norm of one value per image.
            decoder.psp.blocks[0][1] = Conv2dReLU(widths[-1], config.channels, kernel_size=1, use_norm="identity")
            return decoder, config.channels
        case PspNetDecoder():
            if widths[-1] % 4:
                raise ConfigError(
                    "the decoder pspnet needs a multiple of 4 channels in the backbone's deepest map, which has "
                    f"{widths[-1]}; choose another decoder or backbone"
                )
            return psp.PSPDecoder(widths, out_channels=config.channels, dropout=config.dropout), config.channels
        case SegformerDecoder():
            return segformer.SegformerDecoder(widths, len(widths) - 1, config.channels), config.channels
        case FusionDecoder():
            return _fusion(config, channels)


def _fusion(config: FusionDecoder, channels: Mapping[int, int]) -> tuple[nn.Module, int]:
    if len(set(channels.values())) > 1:
        offered = ", ".join(f"{stride} ({count})" for stride, count in channels.items())
        raise ConfigError(
            "the decoder fusion sums the levels of a pyramid, which have the same number of channels; the backbone's "
            f"have, by stride: {offered}; choose a backbone such as {{name: core/nas-fpn, body: …}}"
        )
    in_channels = next(iter(channels.values()))
    return PyramidFusion(in_channels, config), config.channels if config.num_convs else in_channels


def arrange(images: Tensor, features: Mapping[int, Tensor]) -> list[Tensor]:
    """Return the maps as the decoders expect them.

    Args:
        images: [B,3,H,W], sides multiples of 32; read for their size alone.
        features: Maps by stride.
    """
    height, width = images.shape[-2:]
    deepest = max(features)
    absent = features[deepest].new_empty  # of the maps' dtype, so that joining them does not widen it
    return [
        images,
        *(
            features[stride] if stride in features else absent((len(images), 0, height // stride, width // stride))
            for stride in _down_to(deepest)
        ),
    ]


def _down_to(stride: int) -> list[int]:
    return [2**level for level in range(1, stride.bit_length())]


def _deeplab(config: DeepLabV3PlusDecoder, widths: list[int]) -> Any:
    decoder: Any = deeplab.DeepLabV3PlusDecoder(
        encoder_channels=widths,
        encoder_depth=5,
        out_channels=config.channels,
        atrous_rates=config.dilations,
        output_stride=config.output_stride,
        aspp_separable=True,
        aspp_dropout=config.dropout,
    )
    decoder.up = nn.Upsample(scale_factor=config.output_stride // 4, mode="bilinear", align_corners=True)
    # Pooled to one value per image and channel, batch norm fails on one image and is noise on a few. PSPNet's decoder
    # in segmentation-models-pytorch has none there either.
    pooling = decoder.aspp[0].convs[-1]
    pooling[1], pooling[2] = nn.Conv2d(widths[-1], config.channels, 1), nn.Identity()
    return decoder
