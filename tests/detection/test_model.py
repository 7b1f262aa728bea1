"""The model over its backbones."""

import copy
import itertools
import pickle
import re
from typing import Any

import pytest
import torch
from torch import nn

from selftrain_core.backbones.necks import FpnNeck
from selftrain_core.components import build_backbone
from selftrain_core.config_model import BackboneChoice
from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Backbone
from selftrain_core.precision import forward
from selftrain_core.testing.fakes import TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.samples import draws
from selftrain_detection.anchors import STRIDES, Anchors
from selftrain_detection.config import DetectionConfig
from selftrain_detection.model import RetinaNet, RetinaNetHead, RetinaNetOutputs

LITE = "timm/tf_efficientnet_lite0"
SMALL: dict[str, Any] = {"head": {"channels": 8, "num_convs": 2}}


def tiny(*strides: int, width: int = 4) -> Backbone:
    return TinyBackbone(TinyBackboneConfig(width=width), "", strides or (8, 16, 32))


def lite(*strides: int) -> Backbone:
    return build_backbone(BackboneChoice.of(LITE, init="random"), strides or (8, 16, 32))


def build(backbone: Backbone, num_classes: int = 3, **settings: Any) -> RetinaNet:
    torch.manual_seed(0)
    return RetinaNet(backbone, DetectionConfig.model_validate({**SMALL, **settings}), num_classes)


def assert_same(one: RetinaNetOutputs, other: RetinaNetOutputs) -> None:
    torch.testing.assert_close(vars(one), vars(other))


@pytest.mark.parametrize("canvas", [(64, 64), (96, 160), (32, 224)])
@pytest.mark.parametrize("backbone", [tiny(), lite(), tiny(*STRIDES)], ids=["tiny", "lite", "tiny to 128"])
def test_there_is_one_output_for_each_anchor(backbone: Backbone, canvas: tuple[int, int]) -> None:
    model = build(backbone).eval()
    with torch.no_grad():
        outputs = model(draws((2, 3, *canvas), 1))
    anchors_A4 = Anchors(model.anchors.config)(canvas)
    assert torch.equal(outputs.anchors_A4, anchors_A4)
    assert outputs.logits_BAC.shape == (2, len(anchors_A4), 3)
    assert outputs.deltas_BA4.shape == (2, len(anchors_A4), 4)
    assert torch.isfinite(outputs.logits_BAC).all() and torch.isfinite(outputs.deltas_BA4).all()


def test_before_training_every_score_is_the_prior() -> None:
    with torch.no_grad():
        outputs = build(lite(), 5).eval()(draws((2, 3, 64, 64), 1))
        other = build(tiny(), head={"prior": 0.2, "channels": 8}).train()(draws((2, 3, 64, 64), 1))
    torch.testing.assert_close(
        outputs.logits_BAC.sigmoid(), torch.full_like(outputs.logits_BAC, 0.01), rtol=0.02, atol=0
    )
    torch.testing.assert_close(other.logits_BAC.sigmoid(), torch.full_like(other.logits_BAC, 0.2), rtol=0.02, atol=0)
    assert outputs.deltas_BA4.abs().max() < 0.01


def test_layers_start_as_released() -> None:
    head = build(tiny(), head={"channels": 64}).head
    for tower in (head.classes, head.boxes):
        for conv, spread in [*((conv, 0.01) for conv in tower.convs), (tower.predictor, 1e-5)]:
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            assert conv.weight.std().item() == pytest.approx(spread, rel=0.05)
            if conv is not head.classes.predictor:
                assert not conv.bias.any()
    assert head.classes.predictor.bias is not None
    assert head.classes.predictor.bias.tolist() == pytest.approx([-4.59512] * 27)


def test_as_many_parameters_as_the_papers() -> None:
    paper = {"head": {"channels": 256, "num_convs": 4}}
    backbone = lite()
    model = build(backbone, 90, **paper)
    assert [backbone.channels[stride] for stride in (8, 16, 32)] == [40, 112, 320]
    tower, norms = 4 * (256 * 256 * 9 + 256), 4 * 5 * 2 * 256
    predictors = (256 * 9 * 810 + 810) + (256 * 9 * 36 + 36)
    assert sum(p.numel() for p in model.head.parameters()) == 2 * tower + 2 * norms + predictors == 6_691_150
    neck = (40 + 112 + 320) * 256 + 3 * 256 + 5 * (256 * 256 * 9 + 256) + 5 * 2 * 256
    assert model.neck is not None
    assert sum(p.numel() for p in model.neck.parameters()) == neck == 3_074_560


def test_outputs_are_by_place_then_anchor_then_class() -> None:
    """A predictor that says of every channel its number, and a tower that passes a place on."""
    head = RetinaNetHead(1, DetectionConfig.model_validate({"head": {"num_convs": 0}}).head, 9, 3)
    for tower, values in ((head.classes, 27), (head.boxes, 36)):
        nn.init.zeros_(tower.predictor.weight)
        tower.predictor.weight.data[:, 0, 1, 1] = 1000
        tower.predictor.bias = nn.Parameter(torch.arange(values, dtype=torch.float32))
    sizes = [(2, 3), (1, 2), (1, 1), (1, 1), (1, 1)]
    levels = [torch.arange(float(h * w)).view(1, 1, h, w) + 10 * number for number, (h, w) in enumerate(sizes)]
    logits_BAC, deltas_BA4 = head(levels)
    for values_BAX, count in ((logits_BAC, 3), (deltas_BA4, 4)):
        places = torch.tensor([0, 1, 2, 3, 4, 5, 10, 11, 20, 30, 40])
        expected = 1000 * places[:, None, None] + torch.arange(9 * count).view(9, count)
        assert torch.equal(values_BAX[0], expected.view(-1, count).float())


def test_towers_are_shared_and_their_norms_are_not() -> None:
    model = build(tiny()).train()
    before = copy.deepcopy(model.state_dict())
    model(draws((2, 3, 64, 96), 1))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    counts = {name for name in moved if name.endswith("num_batches_tracked")}
    head = {
        f"head.{t}.norms.{c}.{n}.num_batches_tracked" for t in ("classes", "boxes") for c in (0, 1) for n in range(5)
    }
    assert counts == head | {f"neck.norms.{level}.num_batches_tracked" for level in range(5)}
    means = [model.get_buffer(f"head.classes.norms.0.{level}.running_mean") for level in range(5)]
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(means))


@pytest.mark.parametrize(
    ("backbone", "kind"), [(tiny(), "fpn"), (lite(), "fpn"), (tiny(*STRIDES), "fpn"), (tiny(*STRIDES), "none")]
)
def test_every_parameter_learns(backbone: Backbone, kind: str) -> None:
    """An unused one would stop training on several devices."""
    model = build(backbone, neck={"kind": kind}).train()
    model.zero_grad()
    outputs = model(draws((2, 3, 64, 64), 1))
    (outputs.logits_BAC.square().sum() + outputs.deltas_BA4.square().sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_settings_are_used() -> None:
    model = build(tiny(), head={"channels": 12, "num_convs": 1, "activation": "swish"}, neck={"batch_norm": False})
    assert any(isinstance(part, nn.SiLU) for part in model.head.modules())
    assert model.neck is not None and not any(isinstance(part, nn.BatchNorm2d) for part in model.neck.modules())
    assert len(model.head.boxes.convs) == 1
    assert {part.out_channels for part in model.head.modules() if isinstance(part, nn.Conv2d)} == {12, 27, 36}
    assert {part.out_channels for part in model.neck.modules() if isinstance(part, nn.Conv2d)} == {12}


def test_the_batch_norm_of_head_and_neck_is_as_set() -> None:
    model = build(tiny(), head={"num_convs": 1, "batch_norm_momentum": 0.003, "batch_norm_epsilon": 0.001})
    assert model.neck is not None
    norms = [part for own in (model.head, model.neck) for part in own.modules() if isinstance(part, nn.BatchNorm2d)]
    assert [(norm.momentum, norm.eps) for norm in norms] == [(0.003, 0.001)] * 15


def test_a_backbones_own_coarse_levels_are_used() -> None:
    assert isinstance(build(tiny()).neck, FpnNeck)
    made, given = build(tiny()).neck, build(tiny(*STRIDES)).neck
    assert made is not None and given is not None
    assert (len(made.lateral), len(made.extra)) == (3, 2)
    assert (len(given.lateral), len(given.extra)) == (5, 0)


def test_without_a_neck_the_backbones_maps_are_the_levels() -> None:
    pyramid = build_backbone(BackboneChoice.of("core/fpn", body={"name": LITE, "init": "random"}, channels=16), STRIDES)
    model = build(pyramid, neck={"kind": "none"}).eval()
    assert model.neck is None
    images = draws((1, 3, 96, 64), 1)
    with torch.no_grad():
        logits_BAC, _ = model.head(list(pyramid(images).values()))
        assert torch.equal(model(images).logits_BAC, logits_BAC)


@pytest.mark.parametrize(
    ("backbone", "offers"),
    [(tiny(), "8 (4 channels), 16 (4 channels), 32 (4 channels)"), (lite(8, 16), "8 (40 channels), 16 (112 channels)")],
)
def test_a_backbone_that_is_no_pyramid_is_explained(backbone: Backbone, offers: str) -> None:
    message = (
        "neck.kind is none: the backbone must offer strides 8, 16, 32, 64, 128 with the same number of channels; it "
        f"offers {offers}; choose neck.kind: fpn, or a backbone that is a pyramid, such as {{name: core/fpn, body: …}}"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(backbone, neck={"kind": "none"})


def test_levels_of_different_widths_are_no_pyramid() -> None:
    backbone = tiny(*STRIDES)
    backbone.channels[64] = 5
    with pytest.raises(ConfigError, match=r"with the same number of channels; it offers .*64 \(5 channels\)"):
        build(backbone, neck={"kind": "none"})


@pytest.mark.parametrize(("canvas", "stride"), [((32, 32), 128), ((128, 96), 128)])
def test_a_single_value_for_batch_norm_is_explained(canvas: tuple[int, int], stride: int) -> None:
    model = build(tiny()).train()
    message = (
        f"one image on a canvas of {canvas[0]}×{canvas[1]} is a single value at stride {stride}, of which "
        "normalisation layers can make no statistics; it needs a larger canvas, or more images at once: raise "
        "teacher.human, student.human and student.pseudo, or lower device.micro_batches and device.devices"
    )
    with pytest.raises(ConfigError, match=message):
        model(draws((1, 3, *canvas), 1))
    model(draws((2, 3, *canvas), 1))
    model(draws((1, 3, 160, 32), 1))
    model.eval()(draws((1, 3, *canvas), 1))


def test_the_backbones_own_single_value_is_explained_at_its_stride() -> None:
    model = build(lite(), head={"num_convs": 0}, neck={"batch_norm": False}).train()
    with pytest.raises(ConfigError, match="is a single value at stride 32"):
        model(draws((1, 3, 32, 32), 1))
    model(draws((1, 3, 64, 32), 1))


def test_a_single_value_for_groups_of_one_channel_is_explained() -> None:
    model = build(tiny(width=2)).eval()
    with pytest.raises(ConfigError, match="is a single value at stride 32"):
        model(draws((1, 3, 32, 32), 1))
    model(draws((1, 3, 64, 32), 1))


def test_an_image_does_not_change_another_in_evaluation() -> None:
    model = build(tiny()).eval()
    images = draws((3, 3, 64, 96), 1)
    with torch.no_grad():
        whole, one = model(images), model(images[1:2])
    torch.testing.assert_close(whole.logits_BAC[1:2], one.logits_BAC)
    torch.testing.assert_close(whole.deltas_BA4[1:2], one.deltas_BA4)


def test_the_memory_order_of_images_does_not_matter() -> None:
    model = build(tiny()).eval()
    images = draws((2, 3, 64, 96), 1)
    with torch.no_grad():
        plain = model(images)
        last = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    assert_same(plain, last)


def test_fewer_bits_inside_are_as_many_outside() -> None:
    model = build(tiny()).eval()
    images = draws((1, 3, 64, 64), 1)
    with torch.no_grad():
        half, full = forward(model, images, "bf16"), model(images)
    assert half.logits_BAC.dtype == half.deltas_BA4.dtype == half.anchors_A4.dtype == torch.float32
    assert torch.equal(half.anchors_A4, full.anchors_A4)
    torch.testing.assert_close(half.logits_BAC, full.logits_BAC, rtol=0.01, atol=0.01)
    double = model.double()(images.double())
    assert double.logits_BAC.dtype == torch.float64 and double.anchors_A4.dtype == torch.float32


def test_anchors_are_not_in_the_state() -> None:
    model = build(tiny())
    names = set(model.state_dict())
    model(draws((2, 3, 64, 64), 1))
    assert set(model.state_dict()) == names
    assert not any("anchor" in name for name in names)


def test_it_pickles_and_copies() -> None:
    model = build(tiny()).eval()
    images = draws((1, 3, 64, 64), 1)
    with torch.no_grad():
        expected = model(images)
        for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert_same(again(images), expected)


@pytest.mark.slow
def test_it_compiles_whole() -> None:
    model = build(tiny()).eval()
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    for canvas in ((64, 64), (96, 64)):
        images = draws((1, 3, *canvas), 1)
        with torch.no_grad():
            assert_same(compiled(images), model(images))
