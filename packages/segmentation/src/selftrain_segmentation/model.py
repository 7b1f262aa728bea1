"""A segmentation model: backbone, decoder, one logit per class and pixel."""

from __future__ import annotations

from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from torch import Tensor, nn
from torch.nn import functional

from selftrain_core.interfaces import Backbone
from selftrain_segmentation.config import SegmentationConfig


class SegmentationModel(nn.Module):
    """Maps images, float [B,3,H,W] in 0..1 with sides that are multiples of 32, to logits [B,C,H,W].

    Args:
        backbone: Offers strides 4, 8, 16 and 32.
        config: The decoder's settings.
        num_classes: C.
    """

    def __init__(self, backbone: Backbone, config: SegmentationConfig, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = FPNDecoder(
            encoder_channels=[backbone.channels[stride] for stride in backbone.strides],
            encoder_depth=len(backbone.strides),
            pyramid_channels=config.pyramid_channels,
            segmentation_channels=config.segmentation_channels,
            dropout=config.dropout,
        )
        self.head = nn.Conv2d(self.decoder.out_channels, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits at the images' size."""
        features = self.backbone(images)
        decoded = self.decoder([features[stride] for stride in self.backbone.strides])
        logits: Tensor = self.head(decoded)
        return functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)
