"""What maps a timm model can give, and what timm must be told to build it that way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import timm
import torch
from timm.layers.format import Format
from torch import Tensor, nn

from selftrain_core.errors import ConfigError, StridesError

OUTPUT_STRIDES = (8, 16, 32)
# Transformers are built for one size of images; by these settings, newer and older ones, they take any.
ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
# What timm's constructors and untested sizes raise.
REFUSALS = (RuntimeError, AttributeError, AssertionError, TypeError, ValueError)


def build_features(member: str, strides: Sequence[int], output_stride: int | None, drop_path: float) -> nn.Module:
    """Return timm's feature extractor for `strides`, which takes images of any size.

    Of several maps of one stride the deepest is taken.

    Raises:
        StridesError: The model does not offer one of the strides, or cannot keep the output stride.
        ConfigError: The model gives no feature maps, or takes one size of images alone.
    """
    settings = dict(_settings(member, drop_path))
    offered = own = _offered(member, settings)
    at_output_stride = ""
    if output_stride is not None and output_stride != max(own):
        settings["output_stride"] = output_stride
        offered = _dilated(member, output_stride)
        at_output_stride = f" at the output stride {output_stride}"
        if not offered:
            raise _refused(member, f"has no form with the output stride {output_stride}", own)
    missing = [stride for stride in strides if stride not in offered]
    if missing:
        raise _refused(member, f"offers no feature map of stride {_listed(missing)}{at_output_stride}", own)
    body: nn.Module = timm.create_model(
        member, features_only=True, out_indices=tuple(offered[stride] for stride in strides), **settings
    )
    _drop_unread_stages(body)
    return body


def channels_first(body: nn.Module, features: Sequence[Tensor]) -> list[Tensor]:
    """Return a feature extractor's maps as [B, channels, H, W]: Swin and its kin put channels last."""
    if getattr(body, "output_fmt", None) == Format.NHWC:
        return [feature.permute(0, 3, 1, 2) for feature in features]
    return list(features)


@cache
def _settings(member: str, drop_path: float) -> Mapping[str, Any]:
    # The rate is given even where it is 0: Swin's own default is not.
    regularised: dict[str, Any] = {"drop_path_rate": drop_path}
    try:
        _offered(member, regularised)
    except ConfigError:
        plain: dict[str, Any] = {}
        _offered(member, plain)
        if drop_path:
            raise ConfigError(f"timm/{member} has no stochastic depth; leave drop_path at 0") from None
        regularised = plain
    pretrained: Any = timm.get_pretrained_cfg(member)
    if pretrained is None or not pretrained.fixed_input_size:
        return regularised
    for any_size in ANY_SIZE:
        if _takes_any_size(member, {**regularised, **any_size}):
            return {**regularised, **any_size}
    height, width = pretrained.input_size[1:]
    raise ConfigError(
        f"timm/{member} is made for images of {height}×{width} pixels and does not take all canvases, whose sides are "
        "multiples of 32; choose a backbone that does, such as timm/tf_efficientnet_lite0"
    )


def _probe(member: str, settings: Mapping[str, Any]) -> nn.Module:
    # The model is built without memory or time, only to be asked.
    with torch.device("meta"):
        probe: nn.Module = timm.create_model(member, features_only=True, **settings)
    return probe


def _offered(member: str, settings: Mapping[str, Any]) -> Mapping[int, int]:
    """Return the strides offered, ascending, each with timm's index of its deepest map."""
    return _asked(member, tuple(sorted(settings.items())))


@cache
def _asked(member: str, settings: tuple[tuple[str, Any], ...]) -> Mapping[int, int]:
    # Kept, as a large model takes a second to build and one configuration asks several times.
    try:
        probe = _probe(member, dict(settings))
    except REFUSALS as error:
        raise ConfigError(f"timm/{member} gives no feature maps: {error}") from error
    info: Any = probe.feature_info
    strides = [int(stride) for stride in info.reduction()]
    return dict(sorted(zip(strides, info.out_indices, strict=True)))


def _takes_any_size(member: str, settings: Mapping[str, Any]) -> bool:
    height, width = 64, 96
    try:
        probe = _probe(member, settings).eval()
        with torch.no_grad():
            features = channels_first(probe, probe(torch.empty(1, 3, height, width, device="meta")))
    except REFUSALS:
        return False
    info: Any = probe.feature_info
    return all(
        feature.shape[-2:] == (math.ceil(height / stride), math.ceil(width / stride))
        for feature, stride in zip(features, info.reduction(), strict=True)
    )


def _refused(member: str, what: str, own: Mapping[int, int]) -> StridesError:
    dilated = {stride: tuple(_dilated(member, stride)) for stride in OUTPUT_STRIDES}
    offers: dict[int | None, tuple[int, ...]] = {stride: offered for stride, offered in dilated.items() if offered}
    offers |= {None: tuple(own), max(own): tuple(own)}
    kept = sorted(stride for stride in offers if stride is not None)
    text = f"timm/{member} {what}; it offers: {_listed(own)}; output strides: {_listed(kept)}"
    if len(own) == 1 and 16 in own:
        text += (
            "\n  over one map of stride 16 a pyramid offers 4, 8, 16 and 32: "
            f"backbone: {{name: core/simple-pyramid, body: timm/{member}}}"
        )
    return StridesError(text, offers)


@cache
def _dilated(member: str, output_stride: int) -> Mapping[int, int]:
    """Return what `_offered` does of the form with an output stride; nothing where there is no such form."""
    try:
        offered = _offered(member, {"output_stride": output_stride})
    except ConfigError:
        return {}
    return offered if max(offered) == output_stride else {}


def _drop_unread_stages(body: nn.Module) -> None:
    """Remove what timm's EfficientNet and MobileNet extractors keep behind the last map: it would never learn."""
    info: Any = body.feature_info
    group, _, number = info.module_name()[-1].partition(".")
    stages = getattr(body, group, None)
    if isinstance(stages, nn.Sequential) and number.isdigit():
        setattr(body, group, stages[: int(number) + 1])


def _listed(strides: Sequence[int] | Mapping[int, int]) -> str:
    return ", ".join(map(str, strides))
