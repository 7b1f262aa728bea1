"""The augmentations of the paper, on whole batches where they lie, exact for boxes and masks.

``from selftrain_augment import augment_s4`` works on plain tensors: see `selftrain_augment.plain`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selftrain_augment.plain import Augmented, augment_s1, augment_s2, augment_s3, augment_s4, augment_with

__all__ = ["Augmented", "augment_s1", "augment_s2", "augment_s3", "augment_s4", "augment_with"]


def __getattr__(name: str) -> Any:
    # Looking at the plugin, which is in this package, must not import torch.
    if name in __all__:
        return getattr(import_module("selftrain_augment.plain"), name)
    raise AttributeError(f"module 'selftrain_augment' has no attribute '{name}'")
