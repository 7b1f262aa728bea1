"""The decoder over the backbone."""

import pytest
import torch
from torch import nn

from selftrain_core.components import build_backbone
from selftrain_core.config_model import BackboneChoice
from selftrain_core.errors import ConfigError
from selftrain_core.testing.fakes import TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.samples import draws
from selftrain_segmentation.config import SegmentationConfig
from selftrain_segmentation.decoder_config import FpnDecoder
from selftrain_segmentation.model import SegmentationModel

SMALL = SegmentationConfig(decoder=FpnDecoder(pyramid_channels=16, segmentation_channels=32, dropout=0.5))
STRIDES = SMALL.decoder.strides


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32)])
@pytest.mark.parametrize("name", ["timm/resnet18", "timm/tf_efficientnet_lite0"])
def test_logits_have_the_images_size(name: str, size: tuple[int, int]) -> None:
    backbone = build_backbone(BackboneChoice.of(name, init="random"), STRIDES)
    model = SegmentationModel(backbone, SMALL, 5).eval()
    with torch.no_grad():
        logits = model(draws((2, 3, *size), 1))
    assert logits.shape == (2, 5, *size)
    assert torch.isfinite(logits).all()


def test_every_parameter_learns() -> None:
    """An unused one would stop training on several devices."""
    model = SegmentationModel(TinyBackbone(TinyBackboneConfig(), "", STRIDES), SMALL, 3)
    model(draws((2, 3, 64, 64), 1)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_settings_are_used() -> None:
    model = SegmentationModel(TinyBackbone(TinyBackboneConfig(), "", STRIDES), SMALL, 3)
    assert any(isinstance(part, nn.Dropout2d) and part.p == 0.5 for part in model.modules())
    widths = {part.out_channels for part in model.decoder.modules() if isinstance(part, nn.Conv2d)}
    assert widths == {16, 32}


def test_an_image_does_not_change_another_in_evaluation() -> None:
    model = SegmentationModel(TinyBackbone(TinyBackboneConfig(), "", STRIDES), SMALL, 3).eval()
    images = draws((3, 3, 64, 64), 1)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[1:2], model(images[1:2]))


def test_a_single_value_for_batch_norm_is_explained() -> None:
    config = SegmentationConfig()
    backbone = build_backbone(BackboneChoice.of("timm/test_resnet", init="random"), STRIDES)
    model = SegmentationModel(backbone, config, 3).train()
    message = (
        "one image on a canvas of 32×32 is a single value at stride 32, of which normalisation layers can make no "
        "statistics; it needs a larger canvas, or more images at once: raise teacher.human"
    )
    with pytest.raises(ConfigError, match=message):
        model(draws((1, 3, 32, 32), 1))
    model(draws((2, 3, 32, 32), 1))
    model(draws((1, 3, 32, 64), 1))
    model.eval()(draws((1, 3, 32, 32), 1))


def test_without_batch_norm_one_value_is_enough() -> None:
    backbone = TinyBackbone(TinyBackboneConfig(), "", STRIDES)
    model = SegmentationModel(backbone, SegmentationConfig(), 3).train()
    assert model(draws((1, 3, 32, 32), 1)).shape == (1, 3, 32, 32)


def test_a_single_value_for_groups_of_one_channel_is_explained() -> None:
    model = SegmentationModel(TinyBackbone(TinyBackboneConfig(), "", STRIDES), SMALL, 3).eval()
    with pytest.raises(ConfigError, match="is a single value at stride 32"):
        model(draws((1, 3, 32, 32), 1))
