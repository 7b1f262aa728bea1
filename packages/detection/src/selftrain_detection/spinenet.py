"""SpineNet (Du et al. 2020), as released with Zoph et al. 2020: a backbone whose levels go down and up again.

Beyond a stem of two groups at stride 4, fifteen groups of residual blocks each take two earlier features, brought to
their own stride and width, as their input. Five of them give the levels of strides 8 to 128, which need no pyramid.

Shape letters: B = images, C = channels, H, W = height and width of a map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

from selftrain_core.backbones.inits import Init
from selftrain_core.errors import ConfigError, StridesError, did_you_mean
from selftrain_core.interfaces import Backbone
from selftrain_detection.anchors import STRIDES
from selftrain_detection.spinenet_config import SpineNetConfig

Kind = Literal["bottleneck", "residual"]


class Size(NamedTuple):
    """A member of the family (Zoph et al. 2020, released code).

    Attributes:
        channels: Of every level.
        width: What the channels within are multiplied with.
        resampling: Share of a source's channels that resampling works on.
        repeats: Blocks of each group.
        drop_connect: Of the last group.
    """

    channels: int
    width: float
    resampling: float
    repeats: int
    drop_connect: float


SIZES = {
    "49s": Size(128, 0.65, 0.5, 1, 0.2),
    "49": Size(256, 1.0, 0.5, 1, 0.2),
    "96": Size(256, 1.0, 0.5, 2, 0.2),
    "143": Size(256, 1.0, 1.0, 3, 0.16),
    "143l": Size(256, 1.3, 1.0, 3, 0.16),
    "190": Size(512, 1.3, 1.0, 4, 0.2),
}


class Row(NamedTuple):
    """A group of blocks.

    Attributes:
        level: Its stride is 2 to the power of this.
        kind: What its blocks are.
        inputs: The two features that it resamples; 0 and 1 are the stem's, n + 2 is row n's.
        is_output: Whether it gives a level.
        added: A feature that it takes as it is. A row that gives a level adds every earlier feature of its stride and
            channels that nothing has taken yet and that is no level: there is one.
    """

    level: int
    kind: Kind
    inputs: tuple[int, int]
    is_output: bool = False
    added: int | None = None

    @property
    def sources(self) -> tuple[int, ...]:
        """All features that it takes."""
        return self.inputs if self.added is None else (*self.inputs, self.added)


ROWS = (
    Row(2, "bottleneck", (0, 1)),
    Row(4, "residual", (0, 1)),
    Row(3, "bottleneck", (2, 3)),
    Row(4, "bottleneck", (2, 4)),
    Row(6, "residual", (3, 5)),
    Row(4, "bottleneck", (3, 5)),
    Row(5, "residual", (6, 7)),
    Row(7, "residual", (6, 8)),
    Row(5, "bottleneck", (8, 9)),
    Row(5, "bottleneck", (8, 10)),
    Row(4, "bottleneck", (5, 10), is_output=True),
    Row(3, "bottleneck", (4, 10), is_output=True),
    Row(5, "bottleneck", (7, 12), is_output=True, added=11),
    Row(7, "bottleneck", (5, 14), is_output=True),
    Row(6, "bottleneck", (12, 14), is_output=True),
)

_STEM_WIDTH = 64
_BASE_WIDTHS = {2: 64, 3: 128, 4: 256, 5: 256, 6: 256, 7: 256}
"""Of a block at each level; a bottleneck gives four times as many channels."""


class _Layers(NamedTuple):
    """What all layers of a network have in common."""

    activation: type[nn.Module]
    momentum: float
    epsilon: float

    def conv(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, active: bool = True
    ) -> nn.Sequential:
        """Return a convolution, batch norm and, where `active`, the activation."""
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels, eps=self.epsilon, momentum=self.momentum),
            self.activation() if active else nn.Identity(),
        )


class SpineNet(Backbone):
    """One of `SIZES`. Only what the strides asked for depend on is built.

    It has no pre-trained weights: the published ones are TensorFlow's.
    """

    config: SpineNetConfig

    def __init__(
        self, config: SpineNetConfig, member: str, strides: Sequence[int], output_stride: int | None = None
    ) -> None:
        super().__init__(config, member, strides, output_stride)
        if member not in SIZES:
            raise ConfigError(
                f"there is no SpineNet '{member}'{did_you_mean(member, SIZES)}; there are: {', '.join(SIZES)}"
            )
        if not set(strides) <= set(STRIDES) or output_stride is not None:
            asked = ", ".join(map(str, strides)) + (f" at the output stride {output_stride}" if output_stride else "")
            offered = ", ".join(map(str, STRIDES))
            raise StridesError(f"a SpineNet offers strides {offered}; asked for {asked}", {None: STRIDES})
        size = SIZES[member]
        layers = _Layers(
            nn.SiLU if config.activation == "swish" else nn.ReLU, config.batch_norm_momentum, config.batch_norm_epsilon
        )
        drop_connect = size.drop_connect if config.drop_connect is None else config.drop_connect
        channels = config.channels or size.channels
        self.stem = Stem(size, layers)
        self._row_numbers = needed_rows(self.strides)
        self.rows = nn.ModuleList(
            Merge(ROWS[number], size, layers, drop_connect * (number + 1) / len(ROWS)) for number in self._row_numbers
        )
        self.endpoints = nn.ModuleList(
            layers.conv(_channels(row_of(stride) + 2, size), channels, 1) for stride in self.strides
        )
        self.channels = dict.fromkeys(self.strides, channels)
        _initialise(self)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Return the levels by stride."""
        height, width = images.shape[-2:]
        features = dict(enumerate(self.stem(self.normalise(images))))
        for number, merge in zip(self._row_numbers, self.rows, strict=True):
            row = ROWS[number]
            size = (math.ceil(height / 2**row.level), math.ceil(width / 2**row.level))
            features[number + 2] = merge([features[source] for source in row.sources], size)
        levels = (end(features[row_of(stride) + 2]) for stride, end in zip(self.strides, self.endpoints, strict=True))
        return dict(zip(self.strides, levels, strict=True))

    def inits(self) -> tuple[Init, ...]:
        """Return ``random``, with ImageNet's normalisation."""
        return (Init("random", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, origin="no weights", licence="none"),)

    def load_weights(self, init: Init) -> None:
        """Refuse: no init has weights."""
        raise ConfigError(f"SpineNet has no weights for the init '{init.name}'")


def row_of(stride: int) -> int:
    """Return which row gives the level of a stride."""
    return next(number for number, row in enumerate(ROWS) if row.is_output and 2**row.level == stride)


def needed_rows(strides: Sequence[int]) -> list[int]:
    """Return, ascending, the rows that the levels of some strides depend on."""
    needed: set[int] = set()
    waiting = [row_of(stride) for stride in strides]
    while waiting:
        number = waiting.pop()
        if number not in needed:
            needed.add(number)
            waiting += [source - 2 for source in ROWS[number].sources if source >= 2]
    return sorted(needed)


def _kind_and_width(feature: int, size: Size) -> tuple[Kind, int]:
    """Return what blocks a feature comes from, and their width."""
    level, kind = (2, ROWS[0].kind) if feature < 2 else ROWS[feature - 2][:2]
    return kind, int(_BASE_WIDTHS[level] * size.width)  # cut off, as published: 41 of 0.65 · 64


def _channels(feature: int, size: Size) -> int:
    kind, width = _kind_and_width(feature, size)
    return 4 * width if kind == "bottleneck" else width


class Stem(nn.Module):
    """A convolution, a pool and two groups of bottlenecks at stride 4, without drop-connect."""

    def __init__(self, size: Size, layers: _Layers) -> None:
        super().__init__()
        self.conv = layers.conv(3, _STEM_WIDTH, 7, stride=2)
        width = int(_BASE_WIDTHS[2] * size.width)
        self.groups = nn.ModuleList(
            Group("bottleneck", channels, width, size.repeats, layers) for channels in (_STEM_WIDTH, 4 * width)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return features 0 and 1."""
        found = same_max_pool(self.conv(images), 3, 2)
        features = []
        for group in self.groups:
            found = group(found)
            features.append(found)
        return features


class Merge(nn.Module):
    """A row: its inputs resampled and summed, the activation, its group of blocks."""

    def __init__(self, row: Row, size: Size, layers: _Layers, drop_rate: float) -> None:
        super().__init__()
        width = int(_BASE_WIDTHS[row.level] * size.width)
        channels = 4 * width if row.kind == "bottleneck" else width
        self.resamplings = nn.ModuleList(Resampling(source, row.level, channels, size, layers) for source in row.inputs)
        self.activation = layers.activation()
        self.group = Group(row.kind, channels, width, size.repeats, layers, drop_rate)

    def forward(self, given: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return the row's feature.

        Args:
            given: Its inputs, and behind them what is added as it is.
            size: Height and width of the feature.
        """
        first, second = (resampling(each, size) for resampling, each in zip(self.resamplings, given, strict=False))
        total = sum(given[2:], start=first + second)
        found: Tensor = self.group(self.activation(total))
        return found


class Resampling(nn.Module):
    """A feature brought to another stride and width: 1×1, then down or up, then 1×1 without activation.

    Down is a 3×3 convolution of stride 2, and a max pool for what lies beyond; up is the nearest pixel.
    """

    def __init__(self, source: int, level: int, channels: int, size: Size, layers: _Layers) -> None:
        super().__init__()
        source_level = 2 if source < 2 else ROWS[source - 2].level
        _, width = _kind_and_width(source, size)
        inner = int(width * size.resampling)
        self.down = 2 ** max(0, level - source_level)
        self.squeeze = layers.conv(_channels(source, size), inner, 1)
        self.shrink = layers.conv(inner, inner, 3, stride=2) if self.down > 1 else nn.Identity()
        self.expand = layers.conv(inner, channels, 1, active=False)

    def forward(self, feature: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the feature, with the height and width of `size`."""
        found = self.shrink(self.squeeze(feature))
        if self.down > 2:
            found = same_max_pool(found, 3 if self.down <= 4 else 5, self.down // 2)
        elif self.down == 1 and found.shape[-2:] != size:
            found = functional.interpolate(found, size=size, mode="nearest")
        expanded: Tensor = self.expand(found)
        return expanded


class Group(nn.Module):
    """Residual blocks, the first of which projects where channels change."""

    def __init__(
        self, kind: Kind, in_channels: int, width: int, repeats: int, layers: _Layers, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        out_channels = 4 * width if kind == "bottleneck" else width
        self.blocks = nn.Sequential(
            *(Block(kind, in_channels if n == 0 else out_channels, width, layers, drop_rate) for n in range(repeats))
        )

    def forward(self, feature: Tensor) -> Tensor:
        """Return the feature behind the blocks."""
        found: Tensor = self.blocks(feature)
        return found


class Block(nn.Module):
    """A residual block with its activation behind the sum: 1×1, 3×3, 1×1 of four times the width, or 3×3 twice."""

    def __init__(self, kind: Kind, in_channels: int, width: int, layers: _Layers, drop_rate: float) -> None:
        super().__init__()
        if kind == "bottleneck":
            out_channels = 4 * width
            convs = [
                layers.conv(in_channels, width, 1),
                layers.conv(width, width, 3),
                layers.conv(width, out_channels, 1, active=False),
            ]
        else:
            out_channels = width
            convs = [layers.conv(in_channels, width, 3), layers.conv(width, width, 3, active=False)]
        self.convs = nn.Sequential(*convs)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else layers.conv(in_channels, out_channels, 1, active=False)
        self.drop = StochasticDepth(drop_rate, "row")
        self.activation = layers.activation()

    def forward(self, feature: Tensor) -> Tensor:
        """Return the feature behind the block."""
        found: Tensor = self.activation(self.shortcut(feature) + self.drop(self.convs(feature)))
        return found


def same_max_pool(feature_BCHW: Tensor, window: int, stride: int) -> Tensor:
    """Return the largest of each window, ⌈side/stride⌉ of them, padded as TensorFlow's SAME: the odd pixel behind."""
    pads = []
    for side in reversed(feature_BCHW.shape[-2:]):
        needed = max(0, (math.ceil(side / stride) - 1) * stride + window - side)
        pads += [needed // 2, needed - needed // 2]
    padded = functional.pad(feature_BCHW, pads, value=-math.inf)
    return functional.max_pool2d(padded, window, stride)


def _initialise(network: nn.Module) -> None:
    """Start every convolution as TensorFlow's variance scaling does: variance 1 / fan-in, cut off at two deviations."""
    kept = 0.87962566103423978
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = math.prod(module.weight.shape[1:])
            deviation = math.sqrt(1 / fan_in) / kept
            nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
