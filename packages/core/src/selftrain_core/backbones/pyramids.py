"""Feature pyramids: backbones that wrap one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from selftrain_core.backbones.config import FpnConfig, SimplePyramidConfig
from selftrain_core.backbones.inits import CheckpointInit
from selftrain_core.backbones.necks import FpnLayers
from selftrain_core.components import build_backbone
from selftrain_core.errors import ConfigError, StridesError
from selftrain_core.interfaces import Backbone, Init


class Pyramid(Backbone):
    """A backbone over another one, its body. It starts as its body does; its own layers start at random."""

    body: Backbone

    def inits(self) -> tuple[Init, ...]:
        """Return the body's inits."""
        return self.body.inits()

    def initialise(self, name: str) -> Init:
        """Start the body from its init; normalisation is the body's too."""
        return self.body.initialise(name)

    def load_checkpoint(self, checkpoint: CheckpointInit) -> Init:
        """Start the body from a file; normalisation is the body's too."""
        return self.body.load_checkpoint(checkpoint)

    def load_weights(self, init: Init) -> None:
        """Load the body's weights."""
        self.body.load_weights(init)


class FeaturePyramid(Pyramid, FpnLayers):
    """FPN (Lin et al. 2017): lateral 1×1, nearest upsampling and sum, 3×3 at each level.

    Levels coarser than the body offers come from stride-2 3×3 convolutions of the coarsest level behind a ReLU.
    """

    config: FpnConfig

    def __init__(
        self, config: FpnConfig, member: str, strides: Sequence[int], output_stride: int | None = None
    ) -> None:
        super().__init__(config, member, strides, output_stride)
        self.body_strides = [stride for stride in self.strides if stride <= 32]
        if not self.body_strides or any(b != 2 * a for a, b in zip(self.strides, self.strides[1:], strict=False)):
            raise StridesError(
                f"an FPN needs strides that double, from 32 or finer; asked for {list(self.strides)}",
                {None: (4, 8, 16, 32)},
            )
        self.body = build_backbone(config.body, self.body_strides, output_stride)
        width = config.channels
        given = [self.body.channels[stride] for stride in self.body_strides]
        self._add_layers(given, width, len(self.strides) - len(given))
        self.channels = dict.fromkeys(self.strides, width)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Return pyramid features by stride."""
        features = self.body(images)
        levels = self._levels([features[stride] for stride in self.body_strides], first_relu=True)
        return dict(zip(self.strides, levels, strict=True))


class SimplePyramid(Pyramid):
    """The pyramid of a plain vision transformer (ViTDet, Li et al. 2022): every stride from the one map of stride 16.

    Transposed convolutions refine the map, pooling coarsens it; then 1×1 and 3×3 with layer normalisation at each
    level. That map is the deepest one: whatever is offered at a stride is as deep as the body.
    """

    config: SimplePyramidConfig
    offered = (4, 8, 16, 32)

    def __init__(
        self, config: SimplePyramidConfig, member: str, strides: Sequence[int], output_stride: int | None = None
    ) -> None:
        super().__init__(config, member, strides, output_stride)
        missing = [stride for stride in strides if stride not in self.offered]
        if missing or output_stride not in (None, *self.offered) or max(strides) > (output_stride or 32):
            asked = ", ".join(map(str, strides)) + (f" at the output stride {output_stride}" if output_stride else "")
            raise StridesError(
                f"a simple pyramid offers strides 4, 8, 16, 32; asked for {asked}",
                {None: self.offered, 4: (4,), 8: (4, 8), 16: (4, 8, 16), 32: self.offered},
            )
        try:
            self.body = build_backbone(config.body, (16,), 16)
        except StridesError as error:
            raise ConfigError(f"a simple pyramid stands on a map of stride 16 that is the deepest; {error}") from error
        self.levels = nn.ModuleList(self._level(stride) for stride in self.strides)
        self.channels = dict.fromkeys(self.strides, config.channels)

    def _level(self, stride: int) -> nn.Sequential:
        depth, width = self.body.channels[16], self.config.channels
        half, quarter = depth // 2, depth // 4
        resized: dict[int, list[nn.Module]] = {
            4: [
                nn.ConvTranspose2d(depth, half, 2, 2),
                ChannelNorm(half),
                nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, 2),
            ],
            8: [nn.ConvTranspose2d(depth, half, 2, 2)],
            16: [],
            32: [nn.MaxPool2d(2, ceil_mode=True)],
        }
        return nn.Sequential(
            *resized[stride],
            nn.Conv2d({4: quarter, 8: half}.get(stride, depth), width, 1, bias=False),
            ChannelNorm(width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            ChannelNorm(width),
        )

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Return pyramid features by stride."""
        deepest = self.body(images)[16]
        return {stride: level(deepest) for stride, level in zip(self.strides, self.levels, strict=True)}


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel of [B,C,H,W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return the features, normalised."""
        normalised: Tensor = self.norm(features.movedim(1, -1)).movedim(-1, 1)
        return normalised
