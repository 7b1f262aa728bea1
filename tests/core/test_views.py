"""Looking at an image at several scales and mirrored."""

import pytest
import torch

from selftrain_core.config import LabellingConfig, PredictionConfig
from selftrain_core.views import View

PAPER_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@pytest.mark.parametrize(
    ("view", "size"),
    [
        (View(), (64, 96)),
        (View(0.5), (32, 64)),  # 48 lies between 32 and 64; Python rounds a half to the even multiple
        (View(1.25), (64, 128)),
        (View(1.75, flip=True), (128, 160)),
        (View(0.01), (32, 32)),
    ],
)
def test_a_view_has_sides_that_are_multiples_of_32(view: View, size: tuple[int, int]) -> None:
    assert view.size(64, 96) == size
    assert view(torch.rand(2, 3, 64, 96)).shape == (2, 3, *size)


@pytest.mark.parametrize("view", [View(scale, flip=flip) for scale in PAPER_SCALES for flip in (False, True)])
def test_what_a_view_shows_comes_back_to_its_place(view: View) -> None:
    image = torch.zeros(1, 1, 64, 64)
    image[..., 16:32, 8:40] = 1
    again = view.back(view(image), (64, 64))
    assert again.shape == image.shape
    wrong = ((again > 0.5) != (image > 0.5)).float().mean()
    assert wrong < 0.02, "only the rectangle's rim may differ"


def test_a_mirrored_view_is_the_mirror_image() -> None:
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(View(flip=True)(image), image.flip(-1))
    assert torch.equal(View(flip=True).back(image, (32, 32)), image.flip(-1))
    assert View()(image) is image


def test_the_settings_name_each_view_once() -> None:
    assert PredictionConfig().views == ((1.0, False),)
    assert PredictionConfig(scales=(0.5, 1), flip=True).views == ((0.5, False), (0.5, True), (1.0, False), (1.0, True))
    with pytest.raises(ValueError, match="at least 1 item"):
        PredictionConfig(scales=())
    with pytest.raises(ValueError, match="greater than 0"):
        LabellingConfig(scales=(0,))
