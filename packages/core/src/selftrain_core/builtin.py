"""The components that come with core, registered through the same hooks as everybody's."""

from __future__ import annotations

from collections.abc import Sequence

from selftrain_core.hookspecs import (
    AcceleratorSpec,
    AugmentationSpec,
    BackboneSpec,
    DataSourceSpec,
    PolicySpec,
    hookimpl,
)


@hookimpl
def selftrain_backbones() -> Sequence[BackboneSpec]:
    """Return the timm family and the pyramid."""
    return [
        BackboneSpec(
            name="timm/*",
            summary="any timm model that gives feature maps",
            config="selftrain_core.backbones.config:TimmConfig",
            load="selftrain_core.backbones.timm_backbone:TimmBackbone",
            licence="weights: see the init",
        ),
        BackboneSpec(
            name="core/fpn",
            summary="feature pyramid over another backbone (Lin et al. 2017)",
            config="selftrain_core.backbones.config:FpnConfig",
            load="selftrain_core.backbones.pyramids:FeaturePyramid",
        ),
    ]


@hookimpl
def selftrain_augmentations() -> Sequence[AugmentationSpec]:
    """Return the augmentation that changes nothing."""
    return [
        AugmentationSpec(
            name="core/none",
            summary="no augmentation",
            config="selftrain_core.config_model:StrictModel",
            load="selftrain_core.augmentation:NoAugmentation",
        )
    ]


@hookimpl
def selftrain_policies() -> Sequence[PolicySpec]:
    """Return the paper's policy."""
    return [
        PolicySpec(
            name="core/fixed",
            summary="one score threshold for every class (paper: 0.5)",
            config="selftrain_core.policy_config:FixedPolicyConfig",
            load="selftrain_core.policies:FixedPolicy",
        )
    ]


@hookimpl
def selftrain_data_sources() -> Sequence[DataSourceSpec]:
    """Return the image folder."""
    return [
        DataSourceSpec(
            name="core/images",
            summary="a folder of images without labels",
            config="selftrain_core.sources:ImageFolderConfig",
            load="selftrain_core.sources:ImageFolder",
        )
    ]


@hookimpl
def selftrain_accelerators() -> Sequence[AcceleratorSpec]:
    """Return the CPU."""
    return [
        AcceleratorSpec(
            name="core/cpu",
            summary="the processor; several ranks over gloo",
            config="selftrain_core.config_model:StrictModel",
            load="selftrain_core.accelerators:CpuAccelerator",
        )
    ]
