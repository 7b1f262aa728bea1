"""What this package offers to selftrain. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

from selftrain_core.hookspecs import AugmentationSpec, hookimpl

_OFFERED = {
    "s1": ("horizontal flip, scale jitter 0.8 to 1.2, crop (paper: Augment-S1)", "S1Config"),
    "s2": ("AutoAugment, flip, scale jitter 0.8 to 1.2, crop (paper: Augment-S2)", "S2Config"),
    "s3": ("AutoAugment, flip, scale jitter 0.5 to 2.0, crop (paper: Augment-S3)", "S3Config"),
    "s4": ("RandAugment, flip, scale jitter 0.5 to 2.0, crop (paper: Augment-S4)", "S4Config"),
    "custom": ("a policy of your own, flip, scale jitter, crop", "CustomConfig"),
}


@hookimpl
def selftrain_augmentations() -> Sequence[AugmentationSpec]:
    """Return the four strengths of the paper, one to fill in, and that of contrastive pre-training."""
    offered = [
        AugmentationSpec(
            name=f"augment/{name}",
            summary=summary,
            config=f"selftrain_augment.config:{config}",
            load="selftrain_augment.augment:Augment",
            # 2: any affine map, float32 roundings elsewhere than where flip and scale were all there was.
            # 3, of those with a policy: Contrast rounds halves up, as Pillow; Posterize rounds elsewhere.
            numerics=2 if name == "s1" else 3,
        )
        for name, (summary, config) in _OFFERED.items()
    ]
    simclr = AugmentationSpec(
        name="augment/simclr",
        summary="crop resized to the canvas, flip, colour jitter, grey, blur: for contrastive pre-training (SimCLR)",
        config="selftrain_augment.config:SimClrConfig",
        load="selftrain_augment.simclr:SimClr",
        numerics=1,
    )
    return [*offered, simclr]
