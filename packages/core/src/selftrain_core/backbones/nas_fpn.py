"""NAS-FPN (Ghiasi et al. 2019), as released with Zoph et al. 2020: a pyramid of searched cells, each over the last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from selftrain_core.backbones.config import NasFpnConfig
from selftrain_core.backbones.pyramids import Pyramid
from selftrain_core.components import build_backbone
from selftrain_core.errors import StridesError

STRIDES = (8, 16, 32, 64, 128)
BODY_STRIDES = (8, 16, 32)


class Node(NamedTuple):
    """A merge of features into one of another level.

    Attributes:
        stride: Of the feature it gives.
        combine: Their sum, or the coarser one and as much of the other as the coarser lets through.
        inputs: The two features; 0 to 4 are the cell's inputs by stride, n + 5 is node n's. Of an attention the coarser
            one is first.
        is_output: Whether the feature is one of the cell's outputs.
        added: A feature that is added as it is. A node that gives an output adds every earlier feature of its stride
            that nothing has taken yet.
    """

    stride: int
    combine: Literal["sum", "attention"]
    inputs: tuple[int, int]
    is_output: bool = False
    added: int | None = None

    @property
    def sources(self) -> tuple[int, ...]:
        """All features that it takes."""
        return self.inputs if self.added is None else (*self.inputs, self.added)


NODES = (
    Node(16, "attention", (3, 1)),
    Node(16, "sum", (1, 5)),
    Node(8, "sum", (0, 6), is_output=True),
    Node(16, "sum", (6, 7), is_output=True),
    Node(32, "attention", (8, 7), is_output=True, added=2),
    Node(128, "attention", (9, 6), is_output=True, added=4),
    Node(64, "attention", (10, 9), is_output=True),
)


class NasFpn(Pyramid):
    """The pyramid of strides 8 to 128 over a body's strides 8, 16 and 32; cells have weights of their own."""

    config: NasFpnConfig

    def __init__(
        self, config: NasFpnConfig, member: str, strides: Sequence[int], output_stride: int | None = None
    ) -> None:
        super().__init__(config, member, strides, output_stride)
        if not set(strides) <= set(STRIDES) or output_stride is not None:
            asked = ", ".join(map(str, strides)) + (f" at the output stride {output_stride}" if output_stride else "")
            offered = ", ".join(map(str, STRIDES))
            raise StridesError(f"a NAS-FPN offers strides {offered}; asked for {asked}", {None: STRIDES})
        self.body = build_backbone(config.body, BODY_STRIDES)
        width = config.channels
        self.lateral = nn.ModuleList(
            nn.Sequential(_conv(self.body.channels[stride], width, 1, config), _norm(config)) for stride in BODY_STRIDES
        )
        self.cells = nn.ModuleList(
            Cell(config, STRIDES if number < config.repeats - 1 else self.strides) for number in range(config.repeats)
        )
        self.channels = dict.fromkeys(self.strides, width)
        for module in [*self.lateral.modules(), *self.cells.modules()]:
            if isinstance(module, nn.Conv2d):  # as Keras starts a layer for which nothing else is said
                nn.init.xavier_uniform_(module.weight)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Return pyramid features by stride."""
        found = self.body(images)
        features = {stride: lateral(found[stride]) for stride, lateral in zip(BODY_STRIDES, self.lateral, strict=True)}
        for stride in STRIDES[len(BODY_STRIDES) :]:
            features[stride] = functional.max_pool2d(features[stride // 2], 2, ceil_mode=True)
        for cell in self.cells:
            features = cell(features)
        return {stride: features[stride] for stride in self.strides}


class Cell(nn.Module):
    """The nodes, as far as the outputs of some strides depend on them."""

    def __init__(self, config: NasFpnConfig, strides: Iterable[int]) -> None:
        super().__init__()
        self.numbers = _needed(strides)
        self.layers = nn.ModuleList(
            # No activation behind the normalisation.
            nn.Sequential(_activation(config), _conv(config.channels, config.channels, 3, config), _norm(config))
            for _ in self.numbers
        )

    def forward(self, given: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Return the outputs by stride.

        Args:
            given: Features by stride, of all `STRIDES`.
        """
        features = {place: given[stride] for place, stride in enumerate(STRIDES)}
        outputs = {}
        for number, layers in zip(self.numbers, self.layers, strict=True):
            node = NODES[number]
            size = given[node.stride].shape[-2:]
            first, second = (_resized(features[n], _stride(n), node.stride, size) for n in node.inputs)
            merged = first + (second if node.combine == "sum" else second * torch.sigmoid(_peak(first)))
            if node.added is not None:
                merged = merged + features[node.added]
            features[number + len(STRIDES)] = layers(merged)
            if node.is_output:
                outputs[node.stride] = features[number + len(STRIDES)]
        return outputs


def _needed(strides: Iterable[int]) -> list[int]:
    """Return, ascending, the nodes that the outputs of some strides depend on."""
    wanted = set(strides)
    needed: set[int] = set()
    waiting = [number for number, node in enumerate(NODES) if node.is_output and node.stride in wanted]
    while waiting:
        number = waiting.pop()
        if number not in needed:
            needed.add(number)
            waiting += [source - len(STRIDES) for source in NODES[number].sources if source >= len(STRIDES)]
    return sorted(needed)


def _stride(feature: int) -> int:
    return STRIDES[feature] if feature < len(STRIDES) else NODES[feature - len(STRIDES)].stride


def _resized(feature: Tensor, stride: int, new_stride: int, size: Sequence[int]) -> Tensor:
    """Return the feature at another stride: its largest value in each window, or the nearest one.

    Args:
        feature: The feature.
        stride: Its own.
        new_stride: The one wanted.
        size: Height and width there.
    """
    if new_stride > stride:
        return functional.max_pool2d(feature, new_stride // stride, ceil_mode=True)
    return feature if new_stride == stride else functional.interpolate(feature, size=list(size), mode="nearest")


def _peak(feature: Tensor) -> Tensor:
    return feature.amax((2, 3), keepdim=True)


def _activation(config: NasFpnConfig) -> nn.Module:
    return nn.SiLU() if config.activation == "swish" else nn.ReLU()


def _norm(config: NasFpnConfig) -> nn.Module:
    return nn.BatchNorm2d(config.channels, eps=config.batch_norm_epsilon, momentum=config.batch_norm_momentum)


def _conv(in_channels: int, out_channels: int, kernel: int, config: NasFpnConfig) -> nn.Module:
    if not config.separable:
        return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    depthwise = nn.Conv2d(in_channels, in_channels, kernel, padding=kernel // 2, groups=in_channels, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(in_channels, out_channels, 1))
