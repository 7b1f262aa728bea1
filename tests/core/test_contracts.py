"""Core's own components, and the tiny ones, against the contract suites."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from selftrain_core.classification.prediction import ClassPrediction
from selftrain_core.config_model import StrictModel
from selftrain_core.interfaces import Backbone
from selftrain_core.labels import ClassLabels, Labels, MaskLabels
from selftrain_core.plugins import KINDS, registry
from selftrain_core.testing import (
    AcceleratorContract,
    AugmentationContract,
    BackboneContract,
    DataSourceContract,
    PolicyContract,
    TaskContract,
    check_plugin,
)
from selftrain_core.testing.fakes import Brightness, PixelPrediction, PixelTask, TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.samples import class_labels, mask_labels, write_images


class TestPixelTask(TaskContract):
    def load(self) -> Any:
        return PixelTask

    def settings_model(self) -> type[BaseModel]:
        return StrictModel

    def labels(self, size: tuple[int, int], seed: int, *, scored: bool) -> Labels:
        return mask_labels(size, len(self.classes), seed, scored=scored)

    def perfect_prediction(self, labels: Labels, size: tuple[int, int]) -> PixelPrediction:
        assert isinstance(labels, MaskLabels)
        classes = torch.arange(len(self.classes))[:, None, None]
        return PixelPrediction((torch.from_numpy(labels.classes_HW)[None] == classes).float(), size)


class TestClassification(TaskContract):
    spec_name = "core/classification"
    options = {"dropout": 0.2, "label_smoothing": 0.1}

    def labels(self, size: tuple[int, int], seed: int, *, scored: bool) -> Labels:
        return class_labels(len(self.classes), seed, scored=scored)

    def perfect_prediction(self, labels: Labels, size: tuple[int, int]) -> ClassPrediction:
        assert isinstance(labels, ClassLabels)
        return ClassPrediction((torch.arange(len(self.classes)) == int(labels.class_1[0])).float(), size)


class TestTinyBackbone(BackboneContract):
    offline_inits = ("random", "ones")
    output_strides = (8, 32)

    def load(self) -> Any:
        return TinyBackbone

    def settings_model(self) -> type[BaseModel]:
        return TinyBackboneConfig

    def build(self, strides: Sequence[int] | None = None, output_stride: int | None = None) -> Backbone:
        return TinyBackbone(TinyBackboneConfig(), "", strides or self.strides, output_stride)


class TestBrightness(AugmentationContract):
    def load(self) -> Any:
        return Brightness

    def settings_model(self) -> type[BaseModel]:
        return StrictModel


class TestResnet(BackboneContract):
    spec_name = "timm/resnet18"
    options = {"init": "random"}
    output_strides = (8, 16, 32)


class TestConvNext(BackboneContract):
    spec_name = "timm/test_convnext"
    options = {"init": "random"}
    output_strides = (16,)


class TestChannelsLast(BackboneContract):
    spec_name = "timm/test_mambaout"
    options = {"init": "random"}
    output_strides = (32,)


class TestVisionTransformer(BackboneContract):
    spec_name = "timm/test_vit"
    options = {"init": "random"}
    strides = (16,)
    output_strides = (16,)


class TestSimplePyramid(BackboneContract):
    spec_name = "core/simple-pyramid"
    options = {"body": {"name": "timm/test_vit", "init": "random"}, "channels": 16}
    output_strides = (4, 8, 16, 32)


class TestLite(BackboneContract):
    spec_name = "timm/tf_efficientnet_lite0"
    output_strides = (8, 16)
    offline_inits = ("random", "imagenet")


class TestLitePyramid(BackboneContract):
    spec_name = "core/fpn"
    options = {"body": "timm/tf_efficientnet_lite0", "channels": 16}
    strides = (8, 16, 32, 64, 128)
    sizes = ((64, 96), (192, 32))
    offline_inits = ("random", "imagenet")


class TestLiteNasFpn(BackboneContract):
    spec_name = "core/nas-fpn"
    options = {"body": "timm/tf_efficientnet_lite0", "channels": 16, "repeats": 2}
    strides = (8, 16, 32, 64, 128)
    sizes = ((64, 96), (192, 32), (256, 128))
    offline_inits = ("random", "imagenet")


class TestNoAugmentation(AugmentationContract):
    spec_name = "core/none"
    is_identity = True


class TestFixedPolicy(PolicyContract):
    spec_name = "core/fixed"
    options = {"threshold": 0.6, "ignore_above": 0.25}


class TestFixedPolicyDefaults(PolicyContract):
    spec_name = "core/fixed"


class TestPerClassPolicy(PolicyContract):
    spec_name = "core/per-class"
    options = {"thresholds": {"b": 0.9, "e": 0.0}, "threshold": 0.4}


class TestAdaptivePolicy(PolicyContract):
    spec_name = "core/adaptive"


class TestSoftPolicy(PolicyContract):
    spec_name = "core/soft"
    options = {"threshold": 0.2}


class TestImageFolder(DataSourceContract):
    spec_name = "core/images"
    is_labelled = False

    def write(self, folder: Path) -> dict[str, Any]:
        write_images(folder, ["b", "a", "deep/c"])
        return {"images": str(folder)}


class TestClassFolders(DataSourceContract):
    spec_name = "core/class-folders"

    def write(self, folder: Path) -> dict[str, Any]:
        write_images(folder, ["thing/b", "thing/deep/a", "background/a", "other/c"])
        return {"images": str(folder)}


class TestClassList(DataSourceContract):
    spec_name = "core/class-list"

    def write(self, folder: Path) -> dict[str, Any]:
        write_images(folder, ["b", "a", "deep/c"])
        (folder / "labels.csv").write_text("id,class\nb,thing\ndeep/c.png,other\na,\n")
        return {"images": str(folder), "labels": str(folder / "labels.csv")}


class TestCpu(AcceleratorContract):
    spec_name = "core/cpu"


def test_core_is_a_good_plugin() -> None:
    check_plugin("selftrain_core.builtin")


def test_every_builtin_has_a_suite() -> None:
    suites = [suite for suite in globals().values() if isinstance(suite, type) and hasattr(suite, "spec_name")]
    tested = {suite.spec_name for suite in suites}
    offered = {
        name
        for kind in KINDS
        for name, found in registry().components[kind].items()
        if found.plugin.distribution == "selftrain-core"
    }
    missing = {name for name in offered if not any(given.startswith(name.rstrip("*")) for given in tested)}
    assert not missing
