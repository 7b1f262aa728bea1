"""Matrices, resampling and boxes against float64 arithmetic and painted pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from selftrain_augment import geometry


def affine(angle: float, scale: float, shift: tuple[float, float]) -> Tensor:
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]])


MATRICES_B23 = torch.stack(
    [affine(0.0, 1.0, (0.0, 0.0)), affine(0.4, 1.1, (-3.0, 5.5)), affine(math.pi / 2, 0.8, (12.0, 0.0))]
)


def homogeneous(matrix_B23: Tensor) -> Tensor:
    last_B13 = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(len(matrix_B23), 1, 3)
    return torch.cat([matrix_B23.double(), last_B13], dim=1)


def test_compose_is_the_product_of_the_matrices() -> None:
    outer, inner = MATRICES_B23, MATRICES_B23.roll(1, 0)
    expected = (homogeneous(outer) @ homogeneous(inner))[:, :2]
    torch.testing.assert_close(geometry.compose(outer, inner).double(), expected, rtol=0, atol=1e-5)


def test_source_axes_are_where_pixel_centres_come_from() -> None:
    matrix_B23 = torch.tensor([[[1.3, 0.0, -4.0], [0.0, 0.8, 2.0]], [[-0.9, 0.0, 11.0], [0.0, 1.1, -0.5]]])
    x_BW, y_BH = geometry.source_axes(matrix_B23, 7, 11)
    assert (x_BW.shape, y_BH.shape) == ((2, 11), (2, 7))
    for number, matrix_23 in enumerate(matrix_B23.double()):
        landed_x = matrix_23[0, 0] * x_BW[number].double() + matrix_23[0, 2]
        landed_y = matrix_23[1, 1] * y_BH[number].double() + matrix_23[1, 2]
        torch.testing.assert_close(landed_x, torch.arange(11).double() + 0.5, rtol=0, atol=1e-5)
        torch.testing.assert_close(landed_y, torch.arange(7).double() + 0.5, rtol=0, atol=1e-5)


def test_inside_covers_the_picture_and_nothing_else() -> None:
    result = geometry.inside(torch.tensor([[2, 3], [4, 1]]), 4, 5)
    assert result.sum((1, 2)).tolist() == [6, 4]
    assert result[0, :2, :3].all()
    assert result[1, :4, :1].all()


def test_warp_reads_a_ramp_at_the_points_it_is_given() -> None:
    """A pixel of value c at its centre c + 0.5: bilinear sampling at x gives x − 0.5 exactly."""
    ramp = torch.arange(20.0).expand(1, 3, 6, 20)
    x_BW = torch.linspace(0.5, 19.5, 47)[None]
    warped = geometry.warp_bilinear(ramp, x_BW, torch.full((1, 4), 3.3), torch.tensor([[6, 20]]))
    torch.testing.assert_close(warped, (x_BW - 0.5).expand(1, 3, 4, 47), rtol=0, atol=1e-5)


def test_warp_never_shows_what_lies_outside_the_picture() -> None:
    image = torch.full((2, 3, 8, 9), 1000.0)
    valid_B2 = torch.tensor([[5, 4], [8, 3]])
    for picture, (height, width) in zip(image, valid_B2.tolist(), strict=True):
        picture[:, :height, :width] = 1.0
    points = torch.linspace(-3, 12, 30).expand(2, 30)
    warped = geometry.warp_bilinear(image, points, points, valid_B2)
    torch.testing.assert_close(warped, torch.ones_like(warped), rtol=0, atol=1e-2)


def test_take_nearest_copies_every_class_index() -> None:
    mask = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    points = torch.arange(16.0)[None]
    taken = geometry.take_nearest(mask, points + 0.999, points + 0.001, torch.tensor([[16, 16]]))
    assert taken.dtype == torch.uint8
    assert torch.equal(taken, mask)


def test_take_nearest_stays_in_its_own_picture() -> None:
    maps = torch.arange(2 * 3 * 4).view(2, 3, 4)
    x_BW = torch.tensor([-0.1, 2.9, 3.0, 9.0]).expand(2, 4)
    taken = geometry.take_nearest(maps, x_BW, torch.tensor([[5.0], [-5.0]]), torch.tensor([[2, 3], [3, 4]]))
    assert taken.tolist() == [[[4, 6, 6, 6]], [[12, 14, 15, 15]]]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[-1.0, 0.0, 10.0], [0.0, 1.0, 0.0]], [6.0, 2.0, 9.0, 5.0]),
        ([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]], [2.0, 4.0, 8.0, 10.0]),
        ([[0.0, -1.0, 10.0], [1.0, 0.0, 0.0]], [5.0, 1.0, 8.0, 4.0]),
    ],
    ids=["flip", "resize", "quarter turn"],
)
def test_moved_boxes_are_half_open_at_pixel_edges(matrix: list[list[float]], expected: list[float]) -> None:
    """The box 1,2,4,5 in a 10 × 10 image; the expected values are read off the pixels."""
    moved = geometry.move_boxes(torch.tensor([[[1.0, 2.0, 4.0, 5.0]]]), torch.tensor([matrix]))
    assert moved.tolist() == [[expected]]


def test_a_turned_box_becomes_the_hull_of_its_corners() -> None:
    moved = geometry.move_boxes(torch.tensor([[[0.0, 0.0, 2.0, 2.0]]]), affine(math.pi / 4, 1.0, (0.0, 0.0))[None])
    root = math.sqrt(2)
    torch.testing.assert_close(moved, torch.tensor([[[-root, 0.0, root, 2 * root]]]))


def test_clipped_boxes_stop_at_their_own_picture() -> None:
    boxes = torch.tensor([[-1.0, -2.0, 20.0, 30.0], [8.0, 1.0, 9.0, 2.0]]).expand(2, 2, 4)
    clipped = geometry.clip_boxes(boxes, torch.tensor([[5, 7], [20, 10]]))
    assert clipped.tolist() == [
        [[0.0, 0.0, 7.0, 5.0], [7.0, 1.0, 7.0, 2.0]],
        [[0.0, 0.0, 10.0, 20.0], [8.0, 1.0, 9.0, 2.0]],
    ]


def test_areas_are_zero_where_a_side_is_too_short() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 2.0, 3.0], [1.0, 1.0, 1.05, 9.0], [5.0, 5.0, 4.0, 4.0]]])
    torch.testing.assert_close(geometry.areas(boxes), torch.tensor([[6.0, 0.4, 0.0]]))
    torch.testing.assert_close(geometry.areas(boxes, 0.1), torch.tensor([[6.0, 0.0, 0.0]]))
