"""Every decoder on every kind of backbone: the pair trains, or says what works."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from selftrain_core.components import build_model
from selftrain_core.config_model import BackboneChoice
from selftrain_core.errors import ConfigError
from selftrain_core.testing.fakes import TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.samples import draws
from selftrain_segmentation.config import SegmentationConfig
from selftrain_segmentation.decoder_config import DECODERS, DeepLabV3PlusDecoder, PspNetDecoder, UnetDecoder
from selftrain_segmentation.decoders import arrange, build_decoder
from selftrain_segmentation.model import SegmentationModel
from selftrain_segmentation.task import SegmentationTask

CLASSES = ("ground", "sky", "sea")
SMALL = {
    "resnet": "timm/test_resnet",
    "convnext": "timm/test_convnext",
    "mambaout": "timm/test_mambaout",  # channels last and no dilated form, as Swin
    "vit": "timm/test_vit",
    "vit pyramid": {"name": "core/simple-pyramid", "body": {"name": "timm/test_vit", "init": "random"}, "channels": 32},
    "nas-fpn": {"name": "core/nas-fpn", "body": {"name": "timm/test_resnet", "init": "random"}, "channels": 32},
}
REAL = {
    "lite0": "timm/tf_efficientnet_lite0",
    "resnet18": "timm/resnet18",
    "convnext_atto": "timm/convnext_atto",
    "swin_tiny": "timm/swin_tiny_patch4_window7_224",
    "vit_small": "timm/vit_small_patch16_224",
    "vit_small pyramid": {
        "name": "core/simple-pyramid",
        "body": {"name": "timm/vit_small_patch16_224", "init": "random"},
        "channels": 64,
    },
}
BACKBONES = SMALL | REAL
FOR_SWIN = (
    "decoders for this backbone: fpn, {name: deeplabv3plus, output_stride: 32}, unet, upernet, "
    "{name: pspnet, output_stride: 32}, segformer"
)
REFUSED = {
    **{(body, name): FOR_SWIN for body in ("mambaout", "swin_tiny") for name in ("deeplabv3plus", "pspnet")},
    **{
        (body, name): "decoders for this backbone: pspnet"
        for body in ("vit", "vit_small")
        for name in DECODERS
        if name != "pspnet"
    },
    **{(body, "fusion"): "stands on a pyramid of strides 8 to 128" for body in BACKBONES if body != "nas-fpn"},
    **{("nas-fpn", name): "decoders for this backbone: fusion" for name in DECODERS if name != "fusion"},
}


def model_of(backbone: Any, decoder: Any) -> nn.Module:
    torch.manual_seed(0)
    choice = BackboneChoice.model_validate({"name": backbone} if isinstance(backbone, str) else backbone)
    task = SegmentationTask(SegmentationConfig.model_validate({"decoder": decoder}), CLASSES)
    model, inside = build_model(task, choice)
    inside.initialise("random")
    return model


def assert_trains(model: nn.Module) -> None:
    """Logits have the images' size, no parameter is left out, a few steps lower the loss."""
    model.eval()
    with torch.no_grad():
        assert model(draws((1, 3, 160, 96), 1)).shape == (1, 3, 160, 96)
    model.train()
    is_right_W = torch.arange(96) >= 48
    images = 0.3 * draws((2, 3, 64, 96), 1) + 0.7 * is_right_W
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), is_right_W.long().expand(2, 64, 96))
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert [name for name, gradient in gradients.items() if gradient is None] == []
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values() if gradient is not None)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("backbone", SMALL)
def test_matrix(backbone: str, decoder: str) -> None:
    if (backbone, decoder) in REFUSED:
        with pytest.raises(ConfigError, match=re.escape(REFUSED[backbone, decoder])):
            model_of(BACKBONES[backbone], decoder)
    else:
        assert_trains(model_of(BACKBONES[backbone], decoder))


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("backbone", REAL)
def test_matrix_of_real_backbones(backbone: str, decoder: str) -> None:
    test_matrix(backbone, decoder)


@pytest.mark.parametrize(
    ("backbone", "decoder"),
    [("lite0", "deeplabv3plus"), ("resnet18", "unet"), ("convnext_atto", "upernet"), ("swin_tiny", "segformer")],
)
def test_matrix_diagonal(backbone: str, decoder: str) -> None:
    """What the small stand-ins cannot show of the real ones."""
    test_matrix(backbone, decoder)


@pytest.mark.parametrize(
    ("backbone", "decoder"),
    [
        ("mambaout", {"name": "deeplabv3plus", "output_stride": 32}),
        ("mambaout", {"name": "pspnet", "output_stride": 32}),
        ("resnet", {"name": "deeplabv3plus", "output_stride": 8}),
        ("convnext", {"name": "pspnet", "output_stride": 8}),
        ("resnet", {"name": "unet", "finest_stride": 2}),
    ],
)
def test_other_strides(backbone: str, decoder: Any) -> None:
    assert_trains(model_of(BACKBONES[backbone], decoder))


def test_what_a_plain_transformer_lacks_is_explained() -> None:
    message = (
        "timm/test_vit offers no feature map of stride 4, 8, 32; it offers: 16; output strides: 16\n"
        "  over one map of stride 16 a pyramid offers 4, 8, 16 and 32: "
        "backbone: {name: core/simple-pyramid, body: timm/test_vit}\n"
        "  the decoder upernet reads strides 4, 8, 16, 32; decoders for this backbone: pspnet"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        model_of("timm/test_vit", "upernet")


def test_a_backbone_that_cannot_dilate_is_explained() -> None:
    message = (
        "timm/test_mambaout has no form with the output stride 16; it offers: 4, 8, 16, 32; output strides: 32\n"
        "  the decoder deeplabv3plus reads strides 4, 16 at the output stride 16; " + FOR_SWIN
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        model_of("timm/test_mambaout", "deeplabv3plus")


def test_a_skip_that_is_not_there_is_explained() -> None:
    message = "the decoder unet reads strides 2, 4, 8, 16, 32; decoders for this backbone: fpn, deeplabv3plus, unet,"
    with pytest.raises(ConfigError, match=re.escape(message)):
        model_of("timm/test_convnext", {"name": "unet", "finest_stride": 2})


def test_a_pyramid_with_gaps_names_the_decoders_without() -> None:
    backbone = {"name": "core/fpn", "body": {"name": "timm/test_resnet", "init": "random"}}
    message = r"strides that double.*asked for \[4, 16\]\n.*: fpn, unet, upernet, segformer$"
    with pytest.raises(ConfigError, match=message):
        model_of(backbone, "deeplabv3plus")
    assert_trains(model_of(backbone, "pspnet"))


@pytest.mark.parametrize("decoder", DECODERS)
def test_one_image_trains(decoder: str) -> None:
    """Pooled to a single value, one image has no batch statistics; no decoder needs them there."""
    model = tiny(decoder).train()
    side = 256 if decoder == "fusion" else 64  # two pixels of the deepest map
    model(draws((1, 3, side, side), 1)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_image_does_not_change_another_in_evaluation(decoder: str) -> None:
    model = tiny(decoder).eval()
    images = draws((3, 3, 64, 64), 1)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[1:2], model(images[1:2]))


def tiny(decoder: str) -> SegmentationModel:
    config = SegmentationConfig.model_validate({"decoder": decoder})
    strides = config.decoder.strides
    return SegmentationModel(TinyBackbone(TinyBackboneConfig(), "", strides, config.decoder.output_stride), config, 3)


def test_maps_that_are_not_read_have_no_channels() -> None:
    features = {4: draws((2, 5, 16, 24), 1).half(), 16: draws((2, 7, 4, 6), 2).half()}
    found = arrange(draws((2, 3, 64, 96), 3), features)
    assert [tuple(f.shape[1:]) for f in found] == [(3, 64, 96), (0, 32, 48), (5, 16, 24), (0, 8, 12), (7, 4, 6)]
    assert found[1].dtype == torch.half, "joining it would widen the others"


def test_channels_that_pspnet_cannot_divide_are_explained() -> None:
    message = "the decoder pspnet needs a multiple of 4 channels in the backbone's deepest map, which has 30; choose"
    with pytest.raises(ConfigError, match=message):
        build_decoder(PspNetDecoder(), {16: 30})


def test_settings_reach_the_decoders() -> None:
    unet, width = build_decoder(UnetDecoder(channels=(20, 18, 12, 10, 6)), {4: 4, 8: 8, 16: 16, 32: 32})
    assert width == 6
    assert [layer.in_channels for layer in convolutions(unet)][::2] == [32 + 16, 20 + 8, 18 + 4, 12, 10]
    config = DeepLabV3PlusDecoder(channels=24, dilations=(2, 4, 6), dropout=0.25, output_stride=8)
    deeplab, width = build_decoder(config, {4: 4, 8: 8})
    assert width == 24
    assert {layer.dilation for layer in convolutions(deeplab)} == {(1, 1), (2, 2), (4, 4), (6, 6)}
    assert [part.p for part in deeplab.modules() if isinstance(part, nn.Dropout)] == [0.25]
    for name in ("upernet", "pspnet", "segformer"):
        chosen = DECODERS[name].model_validate({"channels": 40})
        decoder, width = build_decoder(chosen, {4: 4, 8: 8, 16: 16, 32: 32})
        assert width == 40
        assert convolutions(decoder)[-1].out_channels == 40


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]


def test_unet_skips_are_used() -> None:
    """Each stride's map changes the result, also where the finer ones are not there."""
    config = UnetDecoder()
    decoder, _ = build_decoder(config, dict.fromkeys(config.strides, 6))
    decoder.eval()
    images = draws((1, 3, 64, 64), 1)
    features = {stride: draws((1, 6, 64 // stride, 64 // stride), stride) for stride in config.strides}

    def decoded(features: dict[int, Tensor]) -> Tensor:
        result: Tensor = decoder(arrange(images, features))
        return result

    with torch.no_grad():
        before = decoded(features)
        assert before.shape[-2:] == (64, 64)
        for stride in config.strides:
            assert not torch.allclose(decoded({**features, stride: features[stride] + 1}), before), stride


def test_a_decoder_may_be_given_by_name_or_as_settings() -> None:
    by_name = SegmentationConfig.model_validate({"decoder": "unet"})
    assert by_name == SegmentationConfig(decoder=UnetDecoder())
    assert SegmentationConfig.model_validate(by_name.model_dump(mode="json")) == by_name
    assert SegmentationConfig.model_validate({"decoder": {"dropout": 0.5}}).decoder.name == "fpn", "the default's"


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (
            "unett",
            r"there is no decoder 'unett' \(did you mean 'unet'\?\); there are: fpn, deeplabv3plus, unet, upernet",
        ),
        ({"name": "unet", "dropout": 0.1}, "has no key 'dropout'; keys: name, channels, finest_stride"),
        ({"name": "pspnet", "output_stride": 12}, "Input should be 8, 16 or 32"),
        ({"name": "unet", "channels": [8, 8]}, "Field required"),
        (3, "give the decoder's name, or a mapping with the key 'name'"),
        ({"name": ["fpn"]}, "give the decoder's name, or a mapping with the key 'name'"),
    ],
)
def test_wrong_decoders_are_explained(decoder: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationConfig.model_validate({"decoder": decoder})
