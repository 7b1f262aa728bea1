"""Output strides, transformers and their pyramid: what timm's models have to be told to fit the contract."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch

from selftrain_core.backbones.pyramids import SimplePyramid
from selftrain_core.components import build_backbone, build_model
from selftrain_core.config_model import BackboneChoice, StrictModel
from selftrain_core.errors import ConfigError, StridesError
from selftrain_core.interfaces import Backbone
from selftrain_core.testing.fakes import PixelTask
from selftrain_core.testing.samples import draws

SWIN = "timm/swin_tiny_patch4_window7_224"
VIT = {"name": "timm/test_vit", "init": "random"}


def build(name: str, strides: tuple[int, ...], output_stride: int | None = None, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneChoice.of(name, **options), strides, output_stride)


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_efficientnet", "timm/test_convnext"])
def test_a_dilated_model_has_the_same_weights(name: str) -> None:
    """No stage is dropped: what was trained without dilation fits, and the deepest map is the one offered."""
    plain, dilated = build(name, (4, 32)), build(name, (4, 16), 16)
    assert {key: value.shape for key, value in dilated.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }
    assert dilated.channels == {4: plain.channels[4], 16: plain.channels[32]}


def test_the_own_output_stride_changes_nothing() -> None:
    one, other = build("timm/test_resnet", (4, 32)), build("timm/test_resnet", (4, 32), 32)
    images = draws((2, 3, 64, 96), 1)
    assert torch.equal(one.eval()(images)[32], other.eval()(images)[32])


def test_an_output_stride_that_is_not_offered_is_explained() -> None:
    message = "timm/test_mambaout has no form with the output stride 8; it offers: 4, 8, 16, 32; output strides: 32"
    with pytest.raises(StridesError, match=message) as caught:
        build("timm/test_mambaout", (8,), 8)
    assert caught.value.offers == {None: (4, 8, 16, 32), 32: (4, 8, 16, 32)}


def test_a_stride_beyond_the_output_stride_is_explained() -> None:
    message = (
        "timm/test_resnet offers no feature map of stride 32 at the output stride 16; it offers: 2, 4, 8, 16, 32; "
    )
    with pytest.raises(StridesError, match=message + "output strides: 8, 16, 32") as caught:
        build("timm/test_resnet", (4, 32), 16)
    assert caught.value.offers[16] == (2, 4, 8, 16)


@pytest.mark.parametrize("name", ["timm/test_efficientnet", "timm/mobilenetv3_small_050"])
def test_stages_behind_the_last_map_are_not_kept(name: str) -> None:
    backbone = build(name, (4, 16))
    sum(feature.sum() for feature in backbone(draws((2, 3, 64, 64), 1)).values()).backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_swin_takes_any_canvas() -> None:
    backbone = build(SWIN, (4, 32))
    assert backbone.channels == {4: 96, 32: 768}
    for height, width in ((32, 64), (160, 96), (224, 224)):
        with torch.no_grad():
            shapes = {stride: tuple(f.shape) for stride, f in backbone(draws((1, 3, height, width), 1)).items()}
        assert shapes == {4: (1, 96, height // 4, width // 4), 32: (1, 768, height // 32, width // 32)}


def test_without_drop_path_there_is_none() -> None:
    """Swin's own default is 0.1."""
    drops = [part.drop_prob for part in build(SWIN, (4,)).modules() if hasattr(part, "drop_prob")]
    assert not any(drops)


def test_drop_path_that_a_model_lacks_is_explained() -> None:
    with pytest.raises(ConfigError, match="timm/densenet121 has no stochastic depth; leave drop_path at 0"):
        build("timm/densenet121", (4,), drop_path=0.1)
    build("timm/densenet121", (4,))


def test_a_transformer_gives_its_deepest_map() -> None:
    backbone = build("timm/test_vit", (16,)).eval()
    full = timm.create_model("test_vit", dynamic_img_size=True).eval()
    state = {key.removeprefix("body.model."): value for key, value in backbone.state_dict().items()}
    assert {key for key in full.state_dict() if key not in state} == {
        "norm.weight", "norm.bias", "head.weight", "head.bias",
    }  # fmt: skip
    full.load_state_dict(state, strict=False)
    images = draws((1, 3, 160, 96), 1)
    with torch.no_grad():
        intermediates: Any = full.forward_intermediates(images, norm=False)  # type: ignore[operator]  # timm's own
        torch.testing.assert_close(backbone(images)[16], intermediates[1][-1])


def test_a_model_of_one_image_size_is_explained() -> None:
    message = (
        "timm/levit_128 is made for images of 224×224 pixels and does not take all canvases, whose sides are multiples "
        "of 32; choose a backbone that does, such as timm/tf_efficientnet_lite0"
    )
    with pytest.raises(ConfigError, match=message):
        build("timm/levit_128", (16,))


def test_a_simple_pyramid_makes_every_stride_of_one_map() -> None:
    pyramid = build("core/simple-pyramid", (4, 8, 16, 32), body=VIT, channels=24)
    assert isinstance(pyramid, SimplePyramid)
    assert pyramid.body.strides == (16,)
    with torch.no_grad():
        shapes = {stride: tuple(f.shape) for stride, f in pyramid(draws((1, 3, 96, 160), 1)).items()}
    assert shapes == {4: (1, 24, 24, 40), 8: (1, 24, 12, 20), 16: (1, 24, 6, 10), 32: (1, 24, 3, 5)}


def test_a_simple_pyramid_starts_as_its_body_does() -> None:
    pyramid, body = build("core/simple-pyramid", (4, 16), body=VIT), build("timm/test_vit", (16,))
    assert pyramid.initialise("random") == body.initialise("random")
    assert pyramid.inits() == body.inits()


def test_a_simple_pyramid_over_a_convolutional_body_dilates_it() -> None:
    pyramid = build("core/simple-pyramid", (4, 32), body={"name": "timm/test_resnet", "init": "random"})
    assert isinstance(pyramid, SimplePyramid)
    assert pyramid.body.channels == {16: build("timm/test_resnet", (32,)).channels[32]}


def test_what_a_simple_pyramid_lacks_is_explained() -> None:
    message = "a simple pyramid offers strides 4, 8, 16, 32; asked for 2, 4"
    with pytest.raises(StridesError, match=message) as caught:
        build("core/simple-pyramid", (2, 4), body=VIT)
    assert caught.value.offers[8] == (4, 8)
    with pytest.raises(StridesError, match="asked for 4, 32 at the output stride 8"):
        build("core/simple-pyramid", (4, 32), 8, body=VIT)


def test_a_body_without_a_deep_map_of_stride_16_is_explained() -> None:
    message = (
        "a simple pyramid stands on a map of stride 16 that is the deepest; timm/test_mambaout has no form with the "
        "output stride 16"
    )
    with pytest.raises(ConfigError, match=message) as caught:
        build("core/simple-pyramid", (4,), body="timm/test_mambaout")
    assert not isinstance(caught.value, StridesError), "what the body offers is not what the pyramid does"


def test_the_task_says_what_to_choose_instead() -> None:
    class Helpful(PixelTask):
        def alternatives(self, offers: Any) -> str:
            return f"strides {offers[None]} would do"

    choice = BackboneChoice.model_validate(VIT)
    with pytest.raises(ConfigError, match=re.escape("it offers: 16; output strides: 16")) as caught:
        build_model(PixelTask(StrictModel(), ("a", "b")), choice)
    assert "\n  \n" not in str(caught.value)
    with pytest.raises(ConfigError, match=re.escape("\n  strides (16,) would do")):
        build_model(Helpful(StrictModel(), ("a", "b")), choice)


def test_the_model_holds_the_backbone() -> None:
    model, backbone = build_model(PixelTask(StrictModel(), ("a", "b")), BackboneChoice.of("timm/test_resnet"))
    assert backbone in list(model.children())
