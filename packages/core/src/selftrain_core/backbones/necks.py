"""Feature pyramids as layers over given maps: for backbones that wrap one, and for models that have their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional


class FpnLayers(nn.Module):
    """The layers of an FPN (Lin et al. 2017): lateral 1×1, nearest upsampling and sum, 3×3 at each level.

    Levels coarser than any given map come from stride-2 3×3 convolutions of the coarsest level. Whoever inherits calls
    `_add_layers` once, and `_levels` in its forward pass.
    """

    lateral: nn.ModuleList
    output: nn.ModuleList
    extra: nn.ModuleList

    def _add_layers(self, channels: Sequence[int], width: int, extra: int) -> None:
        """Make the layers.

        Args:
            channels: Of each given map, finest first.
            width: Channels of every level.
            extra: Levels beyond the given maps.
        """
        self.lateral = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.output = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.extra = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(extra))

    def _levels(self, maps: Sequence[Tensor], *, first_relu: bool) -> list[Tensor]:
        """Return all levels, finest first.

        Args:
            maps: The given ones, finest first.
            first_relu: Whether the first extra convolution sees its input behind a ReLU, as the later ones do.
        """
        merged: list[Tensor] = []
        for given, lateral in zip(reversed(maps), reversed(self.lateral), strict=True):
            level = lateral(given)
            if merged:
                level = level + functional.interpolate(merged[-1], size=level.shape[-2:], mode="nearest")
            merged.append(level)
        levels = [conv(level) for conv, level in zip(self.output, reversed(merged), strict=True)]
        for number, conv in enumerate(self.extra):
            levels.append(conv(functional.relu(levels[-1]) if number or first_relu else levels[-1]))
        return levels


class FpnNeck(FpnLayers):
    """RetinaNet's pyramid (Zoph et al. 2020, released code): P6 from P5, P7 from P6 behind a ReLU, then batch norm.

    Args:
        channels: Of the backbone's maps by stride.
        width: Channels of every level.
        strides: Of the levels, each twice the one before. The finest must be among the maps; the maps of the others
            are used as far as they are there without a gap.
        batch_norm: Whether each level has its own batch norm, without activation.
        momentum: How much of a batch's statistics the batch norms' running ones take over.
        epsilon: What the batch norms add to the variance.
    """

    def __init__(
        self,
        channels: Mapping[int, int],
        width: int,
        strides: Sequence[int],
        *,
        batch_norm: bool = False,
        momentum: float = 0.1,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        given = next((n for n, stride in enumerate(self.strides) if stride not in channels), len(self.strides))
        self.given_strides = self.strides[:given]
        self._add_layers([channels[stride] for stride in self.given_strides], width, len(self.strides) - given)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(width, eps=epsilon, momentum=momentum) if batch_norm else nn.Identity() for _ in self.strides
        )

    def forward(self, features: Mapping[int, Tensor]) -> list[Tensor]:
        """Return the levels, finest first, each [B, width, ⌈H/s⌉, ⌈W/s⌉].

        Args:
            features: The backbone's maps by stride.
        """
        levels = self._levels([features[stride] for stride in self.given_strides], first_relu=False)
        return [norm(level) for norm, level in zip(self.norms, levels, strict=True)]
