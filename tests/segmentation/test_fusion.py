"""The paper's segmentation model: its published sizes, and its head by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from selftrain_core.components import build_model
from selftrain_core.config_model import BackboneChoice
from selftrain_core.errors import ConfigError
from selftrain_core.testing.fakes import TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.samples import draws
from selftrain_segmentation.config import SegmentationConfig
from selftrain_segmentation.decoder_config import FusionDecoder
from selftrain_segmentation.decoders import build_decoder
from selftrain_segmentation.fusion import PyramidFusion
from selftrain_segmentation.model import SegmentationModel
from selftrain_segmentation.task import SegmentationTask

STRIDES = (8, 16, 32, 64, 128)
VOC_CLASSES = tuple(f"class {number}" for number in range(21))


@pytest.mark.parametrize(
    ("body", "parameters", "giga_macs"),
    [("tf_efficientnet_b7", 67_527_317, 59.35), ("tf_efficientnet_l2", 472_883_289, 226.0)],
)
def test_sizes(body: str, parameters: int, giga_macs: float) -> None:
    """67.53M and 472.88M, without the classifier of ImageNet that the published 71M and 485M include, at 512²."""
    choice = BackboneChoice.of(
        "core/nas-fpn", body={"name": f"timm/{body}", "init": "random"}, repeats=7, separable=True
    )
    task = SegmentationTask(SegmentationConfig(decoder=FusionDecoder()), VOC_CLASSES)
    with torch.device("meta"):
        model, _ = build_model(task, choice)
        model.eval()
        with FlopCounterMode(display=False) as counted:
            logits = model(torch.empty(1, 3, 512, 512))
    assert logits.shape == (1, 21, 512, 512)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert counted.get_total_flops() / 2e9 == pytest.approx(giga_macs, rel=1e-3)


def test_levels_are_enlarged_to_stride_4_and_summed() -> None:
    torch.manual_seed(0)
    fusion = PyramidFusion(5, FusionDecoder(num_convs=1, channels=7)).eval()
    images = draws((2, 3, 96, 160), 0)
    levels = [draws((2, 5, -(-96 // stride), -(-160 // stride)), stride) for stride in STRIDES]
    absent = [torch.empty(2, 0, 96 // stride, 160 // stride) for stride in (2, 4)]
    with torch.no_grad():
        total = sum(
            functional.interpolate(level, size=(24, 40), mode="bilinear", align_corners=False) for level in levels
        )
        conv, norm, _ = fusion.layers
        expected = norm(conv(total)).relu()
        torch.testing.assert_close(fusion([images, *absent, *levels]), expected)


def test_layers_start_as_published() -> None:
    torch.manual_seed(0)
    backbone = TinyBackbone(TinyBackboneConfig(width=16), "", STRIDES)
    model = SegmentationModel(backbone, SegmentationConfig(decoder=FusionDecoder(channels=64)), 21)
    convs = [module for module in (*model.decoder.modules(), model.head) if isinstance(module, nn.Conv2d)]
    assert [conv.kernel_size for conv in convs] == [(3, 3)] * 3 + [(1, 1)]
    for conv in convs:
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert conv.bias is not None and not conv.bias.any()


def test_levels_of_different_width_are_no_pyramid() -> None:
    with pytest.raises(ConfigError, match=r"by stride: 8 \(4\), 16 \(8\); choose a backbone such as"):
        build_decoder(FusionDecoder(), {8: 4, 16: 8})
