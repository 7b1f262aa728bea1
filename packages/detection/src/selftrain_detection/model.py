"""RetinaNet (Lin et al. 2017), as released with Zoph et al. 2020: backbone, pyramid, two towers shared by all levels.

Shape letters: B = images, H, W = canvas, C = classes, K = anchors at a place, A = anchors of all levels.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selftrain_core.backbones.necks import FpnNeck
from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Backbone
from selftrain_detection.anchors import STRIDES, Anchors
from selftrain_detection.config import DetectionConfig, HeadConfig


@dataclass(frozen=True)
class RetinaNetOutputs:
    """What the model says of every anchor, in the order of `Anchors`.

    Attributes:
        logits_BAC: One per class, as floating as the images.
        deltas_BA4: From the anchor to the box, as `boxes.decode` takes them; as floating as the images.
        anchors_A4: float32 xyxy in pixels of the canvas.
    """

    logits_BAC: Tensor
    deltas_BA4: Tensor
    anchors_A4: Tensor


class RetinaNet(nn.Module):
    """Maps images, float [B,3,H,W] in 0..1 with sides that are multiples of 32, to `RetinaNetOutputs`.

    Args:
        backbone: Offers strides 8, 16 and 32, or some or all of 64 and 128 as well.
        config: The task's settings.
        num_classes: C.

    Raises:
        ConfigError: There is to be no neck, and the backbone is no pyramid.
    """

    def __init__(self, backbone: Backbone, config: DetectionConfig, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck: FpnNeck | None = None
        if config.neck.kind == "fpn":
            self.neck = FpnNeck(
                backbone.channels,
                config.head.channels,
                STRIDES,
                batch_norm=config.neck.batch_norm,
                momentum=config.head.batch_norm_momentum,
                epsilon=config.head.batch_norm_epsilon,
            )
        else:
            _require_pyramid(backbone)
        channels = backbone.channels[STRIDES[0]] if self.neck is None else config.head.channels
        self.anchors = Anchors(config.anchors)
        self.head = RetinaNetHead(channels, config.head, config.anchors.per_location, num_classes)

    def forward(self, images: Tensor) -> RetinaNetOutputs:
        """Return logits and deltas of every anchor of the images' canvas.

        Raises:
            ConfigError: One image on a small canvas leaves a normalisation layer a single value.
        """
        self._require_enough_values(images)
        features = self.backbone(images)
        levels = [features[stride] for stride in STRIDES] if self.neck is None else self.neck(features)
        logits_BAC, deltas_BA4 = self.head(levels)
        height, width = images.shape[-2:]
        # Under autocast convolutions give fewer bits than losses and boxes are to be made of.
        return RetinaNetOutputs(
            logits_BAC.to(images.dtype), deltas_BA4.to(images.dtype), self.anchors((height, width), images.device)
        )

    def _require_enough_values(self, images: Tensor) -> None:
        num_images, _, height, width = images.shape
        own = [part for part in (self.neck, self.head) if part is not None]
        for stride, parts in ((self.backbone.strides[-1], [self.backbone]), (STRIDES[-1], own)):
            if num_images * math.ceil(height / stride) * math.ceil(width / stride) == 1 and any(
                _refuses_one_value(module) for part in parts for module in part.modules()
            ):
                raise ConfigError(
                    f"one image on a canvas of {height}×{width} is a single value at stride {stride}, of which "
                    "normalisation layers can make no statistics; it needs a larger canvas, or more images at once: "
                    "raise teacher.human, student.human and student.pseudo, or lower device.micro_batches and "
                    "device.devices"
                )


class RetinaNetHead(nn.Module):
    """A tower of convolutions for classes and one for boxes, on every level the same but for the normalisation.

    Args:
        in_channels: Channels of every level.
        config: Depth, width, activation and prior.
        per_location: K.
        num_classes: C.
    """

    def __init__(self, in_channels: int, config: HeadConfig, per_location: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classes = Tower(in_channels, config, per_location * num_classes)
        self.boxes = Tower(in_channels, config, per_location * 4)
        nn.init.constant_(_bias(self.classes.predictor), -math.log((1 - config.prior) / config.prior))

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits [B,A,C] and deltas [B,A,4] of the levels' maps, finest level first.

        A predictor's channels are ordered by anchor, then by class or coordinate; places row by row.
        """
        logits = [_by_anchor(self.classes(level, number), self.num_classes) for number, level in enumerate(levels)]
        deltas = [_by_anchor(self.boxes(level, number), 4) for number, level in enumerate(levels)]
        return torch.cat(logits, dim=1), torch.cat(deltas, dim=1)


class Tower(nn.Module):
    """3×3 convolutions shared by all levels, each with its own batch norm on every level, and a predictor.

    They start as in the released code: deviation 0.01 within the tower, 1e-5 of the predictor, no bias.

    Args:
        in_channels: Channels of every level.
        config: Depth, width and activation.
        out_channels: What the predictor gives.
    """

    def __init__(self, in_channels: int, config: HeadConfig, out_channels: int) -> None:
        super().__init__()
        widths = [in_channels] + [config.channels] * config.num_convs
        self.convs = nn.ModuleList(_conv(*pair, spread=0.01) for pair in itertools.pairwise(widths))
        self.norms = nn.ModuleList(
            nn.ModuleList(
                nn.BatchNorm2d(config.channels, eps=config.batch_norm_epsilon, momentum=config.batch_norm_momentum)
                for _ in STRIDES
            )
            for _ in range(config.num_convs)
        )
        self.activation = nn.SiLU() if config.activation == "swish" else nn.ReLU()
        self.predictor = _conv(widths[-1], out_channels, spread=1e-5)

    def forward(self, features: Tensor, level: int) -> Tensor:
        """Return the predictor's map.

        Args:
            features: A level's map.
            level: Its place among the levels.
        """
        for conv, norms in zip(self.convs, self.norms, strict=True):
            assert isinstance(norms, nn.ModuleList)
            features = self.activation(norms[level](conv(features)))
        predicted: Tensor = self.predictor(features)
        return predicted


def _conv(in_channels: int, out_channels: int, *, spread: float) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.normal_(conv.weight, std=spread)
    nn.init.zeros_(_bias(conv))
    return conv


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _by_anchor(map_BXHW: Tensor, values: int) -> Tensor:
    """Return a map of K·values channels as [B, H·W·K, values]."""
    return map_BXHW.permute(0, 2, 3, 1).reshape(len(map_BXHW), -1, values)


def _require_pyramid(backbone: Backbone) -> None:
    channels = {stride: backbone.channels[stride] for stride in STRIDES if stride in backbone.channels}
    if len(channels) == len(STRIDES) and len(set(channels.values())) == 1:
        return
    offers = ", ".join(f"{stride} ({count} channels)" for stride, count in channels.items())
    raise ConfigError(
        f"neck.kind is none: the backbone must offer strides {', '.join(map(str, STRIDES))} with the same number of "
        f"channels; it offers {offers}; choose neck.kind: fpn, or a backbone that is a pyramid, such as "
        "{name: core/fpn, body: …}"
    )


def _refuses_one_value(part: nn.Module) -> bool:
    if isinstance(part, nn.GroupNorm):
        return part.num_groups == part.num_channels  # also in evaluation
    return isinstance(part, _BatchNorm) and part.training
