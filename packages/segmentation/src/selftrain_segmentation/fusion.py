"""The segmentation head of Zoph et al. 2020 (§3.2): a pyramid's levels summed at stride 4, then convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from selftrain_segmentation.decoder_config import FusionDecoder

STRIDE = 4


class PyramidFusion(nn.Module):
    """Maps the levels of a pyramid to one map of stride 4.

    Args:
        in_channels: Of every level.
        config: Its settings.
    """

    def __init__(self, in_channels: int, config: FusionDecoder) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(config.num_convs):
            conv = nn.Conv2d(config.channels if number else in_channels, config.channels, 3, padding=1)
            start(conv)
            norm = nn.BatchNorm2d(config.channels, eps=config.batch_norm_epsilon, momentum=config.batch_norm_momentum)
            layers += [conv, norm, nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the map, [B, channels, ⌈H/4⌉, ⌈W/4⌉].

        Args:
            maps: The images, and behind them maps of stride 2, 4, … down to the deepest, without channels where there
                is no level.
        """
        images, *levels = maps
        size = [-(-side // STRIDE) for side in images.shape[-2:]]
        resized = [
            functional.interpolate(level, size=size, mode="bilinear", align_corners=False)
            for level in levels
            if level.shape[1]
        ]
        fused: Tensor = self.layers(torch.stack(resized).sum(0))
        return fused


def start(conv: nn.Conv2d) -> None:
    """Start a convolution as the released code does."""
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
