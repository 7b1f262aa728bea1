"""The anchors: numbers, order, and what is remembered of them."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor

from selftrain_detection.anchors import STRIDES, Anchors, level_shapes
from selftrain_detection.config import AnchorConfig


def levels(anchors_A4: Tensor, canvas: tuple[int, int], per_location: int = 9) -> dict[int, Tensor]:
    """Return each level's anchors, [rows, columns, per_location, 4]."""
    shapes = dict(level_shapes(canvas))
    sizes = [rows * columns * per_location for rows, columns in shapes.values()]
    return {
        stride: part.view(*shapes[stride], per_location, 4)
        for stride, part in zip(STRIDES, anchors_A4.split(sizes), strict=True)
    }


@pytest.mark.parametrize(("side", "count"), [(640, 76_725), (1280, 306_900)])
def test_there_are_as_many_as_in_the_paper(side: int, count: int) -> None:
    assert Anchors(AnchorConfig())((side, side)).shape == (count, 4)


@pytest.mark.parametrize(("size", "sides"), [(4.0, [32, 64, 128, 256, 512]), (3.0, [24, 48, 96, 192, 384])])
def test_sides_are_the_papers(size: float, sides: list[int]) -> None:
    anchors_A4 = Anchors(AnchorConfig(size=size))((256, 256))
    for level, side in zip(levels(anchors_A4, (256, 256)).values(), sides, strict=True):
        squares_S2 = (level[0, 0, ::3, 2:] - level[0, 0, ::3, :2]).double()
        expected_S = torch.tensor([side, side * 2 ** (1 / 3), side * 2 ** (2 / 3)], dtype=torch.float64)
        torch.testing.assert_close(squares_S2, expected_S[:, None].expand(3, 2), rtol=1e-5, atol=1e-4)


def test_scales_come_before_ratios_and_places_row_by_row() -> None:
    level = levels(Anchors(AnchorConfig())((64, 96)), (64, 96))[8]
    for row, column, scale, ratio in ((0, 0, 0, 0), (0, 1, 0, 1), (3, 2, 2, 2), (7, 11, 1, 1)):
        side, wide = 32 * 2 ** (scale / 3), math.sqrt((1.0, 2.0, 0.5)[ratio])
        x, y = (column + 0.5) * 8, (row + 0.5) * 8
        expected = [x - side * wide / 2, y - side / wide / 2, x + side * wide / 2, y + side / wide / 2]
        assert level[row, column, 3 * scale + ratio].tolist() == pytest.approx(expected, abs=1e-4)


def test_maps_that_do_not_divide_are_rounded_up() -> None:
    canvas = (96, 160)
    assert level_shapes(canvas) == [(8, (12, 20)), (16, (6, 10)), (32, (3, 5)), (64, (2, 3)), (128, (1, 2))]
    anchors_A4 = Anchors(AnchorConfig())(canvas)
    assert len(anchors_A4) == 9 * (240 + 60 + 15 + 6 + 2)
    centres = (anchors_A4[-9:, :2] + anchors_A4[-9:, 2:]) / 2
    torch.testing.assert_close(centres, torch.tensor([[192.0, 64.0]]).expand(9, 2))


def test_a_canvas_is_made_once_and_few_are_kept() -> None:
    anchors = Anchors(AnchorConfig())
    first = anchors((64, 64))
    assert anchors((64, 64)) is first
    assert anchors((64, 96)) is not first
    for side in range(1, 20):
        anchors((32 * side, 32))
    assert len(anchors._made) == 8
    torch.testing.assert_close(anchors((64, 64)), first)


def test_those_made_in_prediction_serve_in_training() -> None:
    anchors = Anchors(AnchorConfig())
    with torch.inference_mode():
        anchors((64, 64))
    assert not anchors((64, 64)).is_inference()


def test_nothing_made_is_pickled_or_copied() -> None:
    anchors = Anchors(AnchorConfig(size=3.0))
    made = anchors((64, 64))
    for again in (pickle.loads(pickle.dumps(anchors)), copy.deepcopy(anchors)):
        assert again._made == {}
        assert torch.equal(again((64, 64)), made)
    assert len(pickle.dumps(anchors)) < 1000
