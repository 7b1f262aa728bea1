"""What this package offers to selftrain. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

from selftrain_core.hookspecs import AugmentationSpec, hookimpl


@hookimpl
def selftrain_augmentations() -> Sequence[AugmentationSpec]:
    """Return the augmentation."""
    return [
        AugmentationSpec(
            name="augment/s1",
            summary="horizontal flip, scale jitter 0.8 to 1.2, crop (paper: Augment-S1)",
            config="selftrain_augment.config:S1Config",
            load="selftrain_augment.s1:AugmentS1",
        )
    ]
