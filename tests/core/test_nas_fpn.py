"""NAS-FPN: the published sizes, the rules behind its table, a cell by hand, and what every backbone must do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from selftrain_core.backbones.config import NasFpnConfig
from selftrain_core.backbones.nas_fpn import NODES, STRIDES, Cell
from selftrain_core.components import build_backbone
from selftrain_core.config_model import BackboneChoice
from selftrain_core.errors import StridesError
from selftrain_core.interfaces import Backbone
from selftrain_core.testing import BackboneContract
from selftrain_core.testing.samples import draws

LITE = "timm/tf_efficientnet_lite0"


class TestPartOfLiteNasFpn(BackboneContract):
    """The whole is in `test_contracts`."""

    spec_name = "core/nas-fpn"
    options = {"body": LITE, "channels": 8, "repeats": 1, "separable": True, "activation": "swish"}
    strides = (8, 32)
    offline_inits = ("random", "imagenet")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("body", "body_alone", "pyramid_alone"),
    [("tf_efficientnet_b7", 62_143_440, 3_606_704), ("tf_efficientnet_l2", 467_219_796, 3_886_320)],
)
def test_sizes_for_segmentation(body: str, body_alone: int, pyramid_alone: int) -> None:
    """As counted from the published code: 62.14M and 467.22M features, 3.61M and 3.89M for the pyramid."""
    with torch.device("meta"):
        choice = BackboneChoice.of(
            "core/nas-fpn", body={"name": f"timm/{body}", "init": "random"}, repeats=7, separable=True
        )
        pyramid = build_backbone(choice, STRIDES)
    assert isinstance(pyramid.body, Backbone)
    assert count(pyramid.body) == body_alone
    assert count(pyramid) - body_alone == pyramid_alone


def test_a_level_adds_what_nothing_has_taken_yet() -> None:
    """The rule, simulated, finds what the table says."""
    strides = [*STRIDES, *(node.stride for node in NODES)]
    taken, outputs = set[int](), set[int]()
    for number, node in enumerate(NODES):
        feature = number + len(STRIDES)
        taken |= set(node.inputs)
        free = []
        if node.is_output:
            outputs.add(feature)
            free = [f for f in range(feature) if f not in taken | outputs and strides[f] == node.stride]
            taken |= set(free)
        assert free == ([] if node.added is None else [node.added]), number
        assert node.combine == "sum" or strides[node.inputs[0]] >= strides[node.inputs[1]], number
    assert sorted(node.stride for node in NODES if node.is_output) == list(STRIDES)


def test_a_cell_by_hand() -> None:
    torch.manual_seed(0)
    cell = Cell(NasFpnConfig(body=BackboneChoice.of(LITE), channels=4), STRIDES).eval()
    p3, p4, p5, p6, p7 = maps = [draws((2, 4, 256 // s, 384 // s), s) - 0.5 for s in STRIDES]

    def up(feature: Tensor, times: int) -> Tensor:
        return feature.repeat_interleave(times, 2).repeat_interleave(times, 3)

    def down(feature: Tensor, times: int) -> Tensor:
        return functional.max_pool2d(feature, times)

    def gated(coarse: Tensor, other: Tensor) -> Tensor:
        return coarse + other * torch.sigmoid(coarse.flatten(2).max(2).values[:, :, None, None])

    with torch.no_grad():
        f5 = cell.layers[0](gated(up(p6, 4), p4))
        f6 = cell.layers[1](p4 + f5)
        f7 = cell.layers[2](p3 + up(f6, 2))
        f8 = cell.layers[3](f6 + down(f7, 2))
        f9 = cell.layers[4](gated(down(f8, 2), down(f7, 4)) + p5)
        f10 = cell.layers[5](gated(down(f9, 4), down(f6, 8)) + p7)
        f11 = cell.layers[6](gated(up(f10, 2), down(f9, 2)))
        found = cell(dict(zip(STRIDES, maps, strict=True)))
    for stride, expected in zip(STRIDES, (f7, f8, f9, f11, f10), strict=True):
        torch.testing.assert_close(found[stride], expected)
    first = cell.layers[0]
    assert isinstance(first, nn.Sequential)
    assert [type(layer) for layer in first] == [nn.ReLU, nn.Conv2d, nn.BatchNorm2d]


def test_what_there_is_not() -> None:
    with pytest.raises(StridesError, match="offers strides 8, 16, 32, 64, 128; asked for 4, 8"):
        build_backbone(BackboneChoice.of("core/nas-fpn", body=LITE), (4, 8))
