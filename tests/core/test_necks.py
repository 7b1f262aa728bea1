"""Pyramids over given maps, and the strides a model takes where a backbone has them."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from selftrain_core.backbones.necks import FpnNeck
from selftrain_core.components import build_backbone, build_model
from selftrain_core.config_model import BackboneChoice, StrictModel
from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Backbone
from selftrain_core.testing.fakes import PixelTask
from selftrain_core.testing.samples import draws

LITE = {"name": "timm/tf_efficientnet_lite0", "init": "random"}
STRIDES = (8, 16, 32, 64, 128)


def maps(*strides: int, canvas: tuple[int, int] = (96, 160)) -> dict[int, Tensor]:
    return {s: draws((2, s // 4, -(-canvas[0] // s), -(-canvas[1] // s)), s) for s in strides}


def neck(*strides: int, batch_norm: bool = False) -> FpnNeck:
    torch.manual_seed(0)
    return FpnNeck({s: s // 4 for s in strides}, 6, STRIDES, batch_norm=batch_norm)


def test_a_neck_by_hand() -> None:
    pyramid, given = neck(8, 16, 32), maps(8, 16, 32)
    lateral, output, extra = pyramid.lateral, pyramid.output, pyramid.extra
    with torch.no_grad():
        inner32 = lateral[2](given[32])
        inner16 = lateral[1](given[16]) + inner32.repeat_interleave(2, 2).repeat_interleave(2, 3)
        inner8 = lateral[0](given[8]) + inner16.repeat_interleave(2, 2).repeat_interleave(2, 3)
        p5 = output[2](inner32)
        p6 = extra[0](p5)
        expected = [output[0](inner8), output[1](inner16), p5, p6, extra[1](functional.relu(p6))]
        for found, level in zip(pyramid(given), expected, strict=True):
            torch.testing.assert_close(found, level)


@pytest.mark.parametrize(("strides", "laterals"), [((8, 16, 32), 3), ((8, 16, 32, 64), 4), (STRIDES, 5), ((8, 32), 1)])
def test_maps_are_used_as_far_as_they_go(strides: tuple[int, ...], laterals: int) -> None:
    pyramid = neck(*strides)
    assert (len(pyramid.lateral), len(pyramid.extra)) == (laterals, 5 - laterals)
    shapes = [tuple(level.shape) for level in pyramid(maps(*strides))]
    assert shapes == [(2, 6, 12, 20), (2, 6, 6, 10), (2, 6, 3, 5), (2, 6, 2, 3), (2, 6, 1, 2)]


def test_maps_of_odd_sizes_reach_fine_levels() -> None:
    """The map of stride 64 is 2×3 above one of 3×5."""
    pyramid, given = neck(*STRIDES), maps(*STRIDES)
    with torch.no_grad():
        before = pyramid(given)
        after = pyramid({**given, 128: given[128] + 1})
    assert not any(torch.allclose(one, other) for one, other in zip(before, after, strict=True))


def test_levels_are_normalised_each_by_itself() -> None:
    pyramid = neck(8, 16, 32, batch_norm=True).train()
    for level in pyramid(maps(8, 16, 32)):
        torch.testing.assert_close(level.mean((0, 2, 3)), torch.zeros(6), rtol=0, atol=1e-5)
        assert level.min() < 0  # no activation
    assert all(isinstance(norm, nn.BatchNorm2d) for norm in pyramid.norms)


def test_the_backbone_keeps_its_names_and_numbers() -> None:
    torch.manual_seed(0)
    pyramid: Any = build_backbone(BackboneChoice.of("core/fpn", body=LITE, channels=6), STRIDES).eval()
    own = [name for name in pyramid.state_dict() if not name.startswith("body.")]
    layers = [f"{part}.{n}" for part, count in (("lateral", 3), ("output", 3), ("extra", 2)) for n in range(count)]
    assert own == ["mean", "std", *(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))]
    with torch.no_grad():
        levels = pyramid(draws((1, 3, 96, 160), 1))
        torch.testing.assert_close(levels[64], pyramid.extra[0](functional.relu(levels[32])))
        torch.testing.assert_close(levels[128], pyramid.extra[1](functional.relu(levels[64])))


class Optional(PixelTask):
    """A task that takes coarse strides where they are."""

    strides: tuple[int, ...] = (8, 32)
    optional_strides: tuple[int, ...] = (64, 128)
    seen: ClassVar[list[tuple[int, ...]]] = []

    def build_model(self, backbone: Backbone) -> nn.Module:
        self.seen.append(backbone.strides)
        return super().build_model(backbone)


@pytest.mark.parametrize(
    ("choice", "strides"),
    [
        (BackboneChoice.of("core/fpn", body=LITE), (8, 16, 32, 64, 128)),
        (BackboneChoice.of(**LITE), (8, 16, 32)),
    ],
)
def test_a_model_takes_optional_strides_where_they_are(choice: BackboneChoice, strides: tuple[int, ...]) -> None:
    class Doubling(Optional):
        strides = (8, 16, 32)

    _, backbone = build_model(Doubling(StrictModel(), ["a", "b"]), choice)
    assert backbone.strides == strides == Optional.seen[-1]


def test_strides_that_cannot_be_done_without_are_still_explained() -> None:
    class Fine(Optional):
        strides = (1, 32)

    message = "offers no feature map of stride 1; it offers: 2, 4, 8, 16, 32"
    with pytest.raises(ConfigError, match=message):
        build_model(Fine(StrictModel(), ["a", "b"]), BackboneChoice.of(**LITE))


def test_a_task_without_optional_strides_has_its_own() -> None:
    assert PixelTask.optional_strides == ()
    _, backbone = build_model(PixelTask(StrictModel(), ["a", "b"]), BackboneChoice.of("core/fpn", body=LITE))
    assert backbone.strides == (4,)


def test_the_batch_norms_are_as_the_neck_is_told() -> None:
    told = FpnNeck({8: 2, 16: 4}, 6, STRIDES, batch_norm=True, momentum=0.003, epsilon=0.001)
    usual = FpnNeck({8: 2, 16: 4}, 6, STRIDES, batch_norm=True)
    for pyramid, expected in ((told, (0.003, 0.001)), (usual, (0.1, 1e-5))):
        norms = [norm for norm in pyramid.norms if isinstance(norm, nn.BatchNorm2d)]
        assert [(norm.momentum, norm.eps) for norm in norms] == [expected] * 5
