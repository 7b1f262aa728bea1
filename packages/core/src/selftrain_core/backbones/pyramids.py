"""Feature pyramids: backbones that wrap one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from selftrain_core.backbones.config import FpnConfig
from selftrain_core.components import build_backbone
from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Backbone, Init


class FeaturePyramid(Backbone):
    """FPN (Lin et al. 2017): lateral 1×1, nearest upsampling and sum, 3×3 at each level.

    Levels coarser than the body offers come from stride-2 3×3 convolutions of the coarsest level, as in RetinaNet.
    """

    config: FpnConfig

    def __init__(self, config: FpnConfig, member: str, strides: Sequence[int]) -> None:
        super().__init__(config, member, strides)
        self.body_strides = [stride for stride in self.strides if stride <= 32]
        if not self.body_strides or any(b != 2 * a for a, b in zip(self.strides, self.strides[1:], strict=False)):
            raise ConfigError(f"an FPN needs strides that double, from 32 or finer; asked for {list(self.strides)}")
        self.body = build_backbone(config.body, self.body_strides)
        width = config.channels
        self.lateral = nn.ModuleList(nn.Conv2d(self.body.channels[s], width, 1) for s in self.body_strides)
        self.output = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in self.body_strides)
        self.extra = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=2, padding=1) for s in self.strides if s not in self.body_strides
        )
        self.channels = dict.fromkeys(self.strides, width)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Return pyramid features by stride."""
        features = self.body(images)
        merged: list[Tensor] = []
        for stride, lateral in zip(reversed(self.body_strides), reversed(self.lateral), strict=True):
            level = lateral(features[stride])
            if merged:
                level = level + functional.interpolate(merged[-1], size=level.shape[-2:], mode="nearest")
            merged.append(level)
        levels = [conv(level) for conv, level in zip(self.output, reversed(merged), strict=True)]
        for conv in self.extra:
            levels.append(conv(functional.relu(levels[-1])))
        return dict(zip(self.strides, levels, strict=True))

    def inits(self) -> tuple[Init, ...]:
        """Return the body's inits; the pyramid's own layers start at random."""
        return self.body.inits()

    def initialise(self, name: str) -> Init:
        """Start the body from its init; normalisation is the body's too."""
        return self.body.initialise(name)

    def load_weights(self, init: Init) -> None:
        """Load the body's weights."""
        self.body.load_weights(init)
