"""timm's feature extractors behind the backbone contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import timm
from torch import Tensor

from selftrain_core.backbones.checkpoints import fill, match
from selftrain_core.backbones.config import TimmConfig
from selftrain_core.backbones.pretrained import converted, full_names, load_named, named_inits, refuse_tag, whole_model
from selftrain_core.backbones.timm_features import build_features, channels_first
from selftrain_core.batch_norm import set_batch_norm
from selftrain_core.errors import ConfigError, did_you_mean
from selftrain_core.interfaces import Backbone, Init


class TimmBackbone(Backbone):
    """Any timm model that can give feature maps, at the strides asked for."""

    config: TimmConfig

    def __init__(
        self, config: TimmConfig, member: str, strides: Sequence[int], output_stride: int | None = None
    ) -> None:
        super().__init__(config, member, strides, output_stride)
        refuse_tag(member)
        if not timm.is_model(member):
            raise ConfigError(f"timm has no model '{member}'{did_you_mean(member, timm.list_models())}")
        self.body = build_features(member, self.strides, output_stride, config.drop_path)
        set_batch_norm(self.body, config.batch_norm_momentum, config.batch_norm_epsilon)
        info: Any = self.body.feature_info
        self.channels = dict(zip(self.strides, info.channels(), strict=True))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Return features by stride."""
        features = channels_first(self.body, self.body(self.normalise(images)))
        return dict(zip(self.strides, features, strict=True))

    def inits(self) -> tuple[Init, ...]:
        """Return ``random``, ``imagenet`` and ``imagenet++`` where timm has them, and timm's tags."""
        return named_inits(self.member)

    def load_weights(self, init: Init) -> None:
        """Load weights from the package that carries them, else through timm's own download and cache."""
        names, _ = self.namings()
        where = f"the weights of the init '{init.name}'"
        fill(names, match(names, load_named(self.member, init), prefix=""), f"timm/{self.member}", where)

    def namings(self) -> tuple[dict[str, Tensor], ...]:
        """Return the body's tensors under the whole model's names, and under the feature extractor's."""
        own: dict[str, Tensor] = self.body.state_dict()
        names = full_names(own, whole_model(self.member).state_dict())
        return {names[name]: tensor for name, tensor in own.items()}, own

    def converted(self, state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Yield what timm's converter for this family makes of its authors' checkpoints."""
        return converted(self.member, state)
