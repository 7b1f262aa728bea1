"""The inits of a backbone, for people to look at before they choose."""

from __future__ import annotations

import torch
from pydantic import ValidationError

from selftrain_core.backbones.inits import Init
from selftrain_core.components import build_backbone
from selftrain_core.config_model import BackboneChoice
from selftrain_core.errors import ConfigError

STRIDES = (32, 16, 8, 64)
"""What is asked for, one after the other, until the backbone offers it."""


def inits_of(name: str) -> tuple[Init, ...]:
    """Return the inits of a backbone at its default settings. No memory is taken for its weights.

    Raises:
        ConfigError: It cannot be built: there is no such member of a family, or it needs settings.
    """
    try:
        choice = BackboneChoice.of(name)
    except ValidationError as error:
        needed = ", ".join(str(part["loc"][0]) for part in error.errors())
        raise ConfigError(f"the inits of '{name}' depend on its settings: {needed}") from error
    for stride in STRIDES:
        try:
            with torch.device("meta"):
                return build_backbone(choice, (stride,)).inits()
        except ConfigError as error:
            failed = error
    raise failed
