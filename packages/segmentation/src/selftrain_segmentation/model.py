"""A segmentation model: backbone, decoder, one logit per class and pixel."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Backbone
from selftrain_segmentation import fusion
from selftrain_segmentation.config import SegmentationConfig
from selftrain_segmentation.decoder_config import FusionDecoder
from selftrain_segmentation.decoders import arrange, build_decoder


class SegmentationModel(nn.Module):
    """Maps images, float [B,3,H,W] in 0..1 with sides that are multiples of 32, to logits [B,C,H/s,W/s].

    s is ``loss_stride`` of the settings, 1 by default.

    Args:
        backbone: Offers the strides that the decoder reads.
        config: Which decoder, and its settings.
        num_classes: C.

    Raises:
        ConfigError: The decoder cannot use the backbone's maps.
    """

    def __init__(self, backbone: Backbone, config: SegmentationConfig, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self._stride = config.loss_stride
        self.decoder, width = build_decoder(config.decoder, backbone.channels)
        self.head = nn.Conv2d(width, num_classes, kernel_size=1)
        if isinstance(config.decoder, FusionDecoder):
            fusion.start(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits at the size at which the loss is taken.

        Raises:
            ConfigError: One image on the smallest canvas leaves a normalisation layer a single value.
        """
        num_images, _, height, width = images.shape
        coarsest = self.backbone.strides[-1]
        if num_images * math.ceil(height / coarsest) * math.ceil(width / coarsest) == 1 and any(
            map(_refuses_one_value, self.modules())
        ):
            raise ConfigError(
                f"one image on a canvas of {height}×{width} is a single value at stride {coarsest}, of which "
                "normalisation layers can make no statistics; it needs a larger canvas, or more images at once: raise "
                "teacher.human, student.human and student.pseudo, or lower device.micro_batches and device.devices"
            )
        decoded = self.decoder(arrange(images, self.backbone(images)))
        logits: Tensor = self.head(decoded)
        return resized(logits, (height // self._stride, width // self._stride))


def resized(logits_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Return logits at another height and width."""
    if logits_BCHW.shape[-2:] == size:
        return logits_BCHW
    return functional.interpolate(logits_BCHW, size=size, mode="bilinear", align_corners=False)


def _refuses_one_value(part: nn.Module) -> bool:
    if isinstance(part, nn.GroupNorm):
        return part.num_groups == part.num_channels  # also in evaluation
    return isinstance(part, _BatchNorm) and part.training
