"""The components that come with core, registered through the same hooks as everybody's."""

from __future__ import annotations

from collections.abc import Sequence

from selftrain_core.hookspecs import (
    AcceleratorSpec,
    AugmentationSpec,
    BackboneSpec,
    DataSourceSpec,
    PolicySpec,
    TaskSpec,
    hookimpl,
)


@hookimpl
def selftrain_tasks() -> Sequence[TaskSpec]:
    """Return the task that others may be trained jointly with."""
    return [
        TaskSpec(
            name="core/classification",
            summary="one class per image: cross-entropy, top-1 accuracy",
            config="selftrain_core.classification.config:ClassificationConfig",
            load="selftrain_core.classification.task:ClassificationTask",
        )
    ]


@hookimpl
def selftrain_backbones() -> Sequence[BackboneSpec]:
    """Return the timm family and the pyramids."""
    return [
        BackboneSpec(
            name="timm/*",
            summary="any timm model that gives feature maps",
            config="selftrain_core.backbones.config:TimmConfig",
            load="selftrain_core.backbones.timm_backbone:TimmBackbone",
            licence="weights: selftrain plugins timm/MODEL",
            numerics=2,
        ),
        BackboneSpec(
            name="core/fpn",
            summary="feature pyramid over another backbone (Lin et al. 2017)",
            config="selftrain_core.backbones.config:FpnConfig",
            load="selftrain_core.backbones.pyramids:FeaturePyramid",
        ),
        BackboneSpec(
            name="core/nas-fpn",
            summary="searched pyramid of strides 8 to 128 over another backbone (Ghiasi et al. 2019)",
            config="selftrain_core.backbones.config:NasFpnConfig",
            load="selftrain_core.backbones.nas_fpn:NasFpn",
        ),
        BackboneSpec(
            name="core/simple-pyramid",
            summary="strides 4 to 32 from the one map of a plain vision transformer (Li et al. 2022)",
            config="selftrain_core.backbones.config:SimplePyramidConfig",
            load="selftrain_core.backbones.pyramids:SimplePyramid",
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
    """Return the policies."""
    return [
        PolicySpec(
            name="core/fixed",
            summary="one score threshold for every class (paper: 0.5)",
            config="selftrain_core.policy_config:FixedPolicyConfig",
            load="selftrain_core.policies:FixedPolicy",
        ),
        PolicySpec(
            name="core/per-class",
            summary="a score threshold for each class, given by hand",
            config="selftrain_core.policy_config:PerClassPolicyConfig",
            load="selftrain_core.policies:PerClassPolicy",
        ),
        PolicySpec(
            name="core/adaptive",
            summary="a score threshold for each class, from how often people labelled it",
            config="selftrain_core.policy_config:AdaptivePolicyConfig",
            load="selftrain_core.policies:AdaptivePolicy",
        ),
        PolicySpec(
            name="core/soft",
            summary="everything is kept and weighs as its score; with labelling.top_k, soft labels",
            config="selftrain_core.policy_config:SoftPolicyConfig",
            load="selftrain_core.policies:SoftPolicy",
        ),
    ]


@hookimpl
def selftrain_data_sources() -> Sequence[DataSourceSpec]:
    """Return the image folder, and the sources of classes."""
    return [
        DataSourceSpec(
            name="core/images",
            summary="a folder of images without labels",
            config="selftrain_core.sources:ImageFolderConfig",
            load="selftrain_core.sources:ImageFolder",
        ),
        DataSourceSpec(
            name="core/class-folders",
            summary="a folder with a folder of images for each class",
            config="selftrain_core.classification.sources:ClassFoldersConfig",
            load="selftrain_core.classification.sources:ClassFolders",
        ),
        DataSourceSpec(
            name="core/class-list",
            summary="a folder of images and a CSV file that says of each its class",
            config="selftrain_core.classification.sources:ClassListConfig",
            load="selftrain_core.classification.sources:ClassList",
        ),
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
