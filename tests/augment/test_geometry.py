"""Matrices, resampling and boxes against float64 arithmetic and painted pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from selftrain_augment import boxes, geometry


def affine(angle: float, scale: float, shift: tuple[float, float]) -> Tensor:
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]])


MATRICES_B23 = torch.stack(
    [affine(0.0, 1.0, (0.0, 0.0)), affine(0.4, 1.1, (-3.0, 5.5)), affine(math.pi / 2, 0.8, (12.0, 0.0))]
)


def homogeneous(matrix_B23: Tensor) -> Tensor:
    last_B13 = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(len(matrix_B23), 1, 3)
    return torch.cat([matrix_B23.double(), last_B13], dim=1)


def moved_hull(box: list[float], matrix_B23: Tensor) -> Tensor:
    return boxes.hull(boxes.moved(boxes.corners(torch.tensor([[box]])), matrix_B23))


def test_compose_is_the_product_of_the_matrices() -> None:
    outer, inner = MATRICES_B23, MATRICES_B23.roll(1, 0)
    expected = (homogeneous(outer) @ homogeneous(inner))[:, :2]
    torch.testing.assert_close(geometry.compose(outer, inner).double(), expected, rtol=0, atol=1e-5)


def test_source_points_are_where_pixel_centres_come_from() -> None:
    x_BHW, y_BHW = geometry.source_points(MATRICES_B23, 7, 11)
    assert x_BHW.shape == y_BHW.shape == (3, 7, 11)
    points_B3P = torch.stack([x_BHW.flatten(1), y_BHW.flatten(1), torch.ones(3, 77)], dim=1).double()
    landed_B2P = MATRICES_B23.double() @ points_B3P
    y_HW, x_HW = torch.meshgrid(torch.arange(7).double() + 0.5, torch.arange(11).double() + 0.5, indexing="ij")
    expected = torch.stack([x_HW.flatten(), y_HW.flatten()]).expand(3, 2, 77)
    torch.testing.assert_close(landed_B2P, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_source_points_of_whole_pixel_maps_are_exact(flip: bool) -> None:
    """Half pixels stay half pixels: no picture is blurred, and no mask's pixel is a tie, for float32's sake."""
    matrix_B23 = torch.tensor([[[-1.0 if flip else 1.0, 0.0, 633.0 if flip else -7.0], [0.0, 1.0, -3.0]]])
    x_BHW, y_BHW = geometry.source_points(matrix_B23, 3, 640)
    centres = torch.arange(640) + 0.5
    assert torch.equal(x_BHW[0, 0], 633 - centres if flip else centres + 7)
    assert y_BHW[0, :, 0].tolist() == [3.5, 4.5, 5.5]


def test_inside_covers_the_picture_and_nothing_else() -> None:
    result = geometry.inside(torch.tensor([[2, 3], [4, 1]]), 4, 5)
    assert result.sum((1, 2)).tolist() == [6, 4]
    assert result[0, :2, :3].all()
    assert result[1, :4, :1].all()


def test_warp_reads_a_ramp_at_the_points_it_is_given() -> None:
    """A pixel of value c at its centre c + 0.5: bilinear sampling at x gives x − 0.5 exactly."""
    ramp = torch.arange(20.0).expand(1, 3, 6, 20)
    x_BHW = torch.linspace(0.5, 19.5, 47).expand(1, 4, 47)
    warped = geometry.warp_bilinear(ramp, x_BHW, torch.full((1, 4, 47), 3.3))
    torch.testing.assert_close(warped, (x_BHW[:, None] - 0.5).expand(1, 3, 4, 47), rtol=0, atol=1e-5)


def test_warp_keeps_the_type_and_reads_points_in_float32() -> None:
    ramp = (torch.arange(640.0) / 640).expand(1, 1, 2, 640)
    points = torch.full((1, 1, 3), 0.5), torch.full((1, 1, 3), 1.0)
    warped = geometry.warp_bilinear(ramp.bfloat16(), points[0] + torch.tensor([500.0, 501.0, 502.0]), points[1])
    assert warped.dtype == torch.bfloat16
    assert torch.equal(warped, ramp.bfloat16()[:, :, :1, 500:503])


def test_points_within_never_show_what_lies_outside_the_picture() -> None:
    image = torch.full((2, 3, 8, 9), 1000.0)
    valid_B2 = torch.tensor([[5, 4], [8, 3]])
    for picture, (height, width) in zip(image, valid_B2.tolist(), strict=True):
        picture[:, :height, :width] = 1.0
    points = torch.linspace(-3, 12, 30)
    within = geometry.within(points.expand(2, 30, 30), points[:, None].expand(2, 30, 30), valid_B2)
    warped = geometry.warp_bilinear(image, *within)
    torch.testing.assert_close(warped, torch.ones_like(warped), rtol=0, atol=1e-2)


def test_points_within_the_picture_stay_and_others_go_to_its_outermost_centres() -> None:
    points = torch.tensor([-3.0, 0.2, 0.5, 1.7, 2.5, 2.9, 8.0]).view(1, 1, 7)
    x_BHW, y_BHW = geometry.within(points, points, torch.tensor([[5, 3]]))
    torch.testing.assert_close(x_BHW.flatten(), torch.tensor([0.5, 0.5, 0.5, 1.7, 2.5, 2.5, 2.5]))
    torch.testing.assert_close(y_BHW.flatten(), torch.tensor([0.5, 0.5, 0.5, 1.7, 2.5, 2.9, 4.5]))


def test_covered_ends_a_hair_outside_the_picture() -> None:
    points = torch.tensor([-0.01, -0.0005, 0.0, 0.3, 2.9, 3.0, 3.0005, 3.01]).view(1, 1, 8)
    middle, valid_B2 = torch.ones_like(points), torch.tensor([[3, 3]])
    expected = [False, True, True, True, True, True, True, False]
    for x_BHW, y_BHW in ((points, middle), (middle, points)):
        columns, rows = geometry.covered(x_BHW, y_BHW, *geometry.within(x_BHW, y_BHW, valid_B2))
        assert (columns & rows).flatten().tolist() == expected


def test_halved_pixels_are_means_of_what_is_picture() -> None:
    image = torch.full((2, 1, 5, 6), 1000.0)
    image[0, 0, :3, :5] = torch.arange(15.0).view(3, 5)
    image[1, 0] = torch.arange(30.0).view(5, 6)
    halved, valid_B2 = geometry.halved(image, torch.tensor([[3, 5], [5, 6]]))
    assert valid_B2.tolist() == [[2, 3], [3, 3]]
    assert halved[0, 0, :2].tolist() == [[3, 5, 6.5], [10.5, 12.5, 14]]
    assert halved[1, 0].tolist() == [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5], [24.5, 26.5, 28.5]]


def test_take_copies_every_class_index() -> None:
    mask = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    y_BHW, x_BHW = (axis[None] for axis in torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"))
    taken = geometry.take(mask, geometry.pixel_of(x_BHW + 0.999, y_BHW + 0.001, 16))
    assert taken.dtype == torch.uint8
    assert torch.equal(taken, mask)


def test_what_is_taken_within_stays_in_its_own_picture() -> None:
    maps = torch.arange(2 * 3 * 4).view(2, 3, 4)
    x_BHW = torch.tensor([-0.1, 2.9, 3.0, 9.0]).expand(2, 1, 4)
    y_BHW = torch.tensor([[5.0], [-5.0]])[..., None].expand(2, 1, 4)
    within = geometry.within(x_BHW, y_BHW, torch.tensor([[2, 3], [3, 4]]))
    taken = geometry.take(maps, geometry.pixel_of(*within, 4))
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
    assert moved_hull([1.0, 2.0, 4.0, 5.0], torch.tensor([matrix])).tolist() == [[expected]]


def test_a_turned_box_becomes_the_hull_of_its_corners() -> None:
    moved = moved_hull([0.0, 0.0, 2.0, 2.0], affine(math.pi / 4, 1.0, (0.0, 0.0))[None])
    root = math.sqrt(2)
    torch.testing.assert_close(moved, torch.tensor([[[-root, 0.0, root, 2 * root]]]))


def test_what_is_seen_of_boxes_stops_at_their_own_picture() -> None:
    given = torch.tensor([[-1.0, -2.0, 20.0, 30.0], [8.0, 1.0, 9.0, 2.0], [6.0, 1.0, 9.0, 2.0]]).expand(2, 3, 4)
    seen = boxes.seen_hull(boxes.corners(given), torch.tensor([[5, 7], [20, 10]]))
    assert seen.tolist() == [
        [[0.0, 0.0, 7.0, 5.0], [0.0, 0.0, 0.0, 0.0], [6.0, 1.0, 7.0, 2.0]],
        [[0.0, 0.0, 10.0, 20.0], [8.0, 1.0, 9.0, 2.0], [6.0, 1.0, 9.0, 2.0]],
    ]


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ([[-4, 5], [5, -4], [14, 5], [5, 14]], [0, 0, 10, 10]),
        ([[-6, 5], [5, -6], [16, 5], [5, 16]], [0, 0, 10, 10]),
        ([[10, -4], [14, 0], [10, 4], [6, 0]], [6, 0, 10, 4]),
        ([[10, 6], [14, 2], [10, -2], [6, 2]], [6, 0, 10, 6]),
        ([[12, 1], [16, 5], [12, 9], [8, 5]], [8, 3, 10, 7]),
        ([[3, -6], [13, 4], [12, 5], [2, -5]], [7, 0, 10, 3]),
        ([[12, -6], [22, 4], [12, 14], [11, 4]], [0, 0, 0, 0]),
        ([[8, -3], [13, 2], [12, 3], [7, -2]], [9, 0, 10, 1]),
    ],
    ids=["corners cut", "frame inside", "on a corner", "over the edge", "one tip", "a bar across a corner", "beside",
         "hardly more than a corner of the frame"],
)  # fmt: skip
@pytest.mark.parametrize("backwards", [False, True])
def test_the_hull_is_of_the_part_in_the_frame(corners: list[list[int]], expected: list[int], backwards: bool) -> None:
    """In a frame of 10 × 10; the expected values are found by hand."""
    points = torch.tensor([[corners[::-1] if backwards else corners]], dtype=torch.float32)
    torch.testing.assert_close(boxes.seen_hull(points, torch.tensor([[10, 10]])), torch.tensor([[expected]]).float())


def test_areas_are_zero_where_a_side_is_too_short() -> None:
    given = torch.tensor([[[0.0, 0.0, 2.0, 3.0], [1.0, 1.0, 1.05, 9.0], [5.0, 5.0, 4.0, 4.0]]])
    torch.testing.assert_close(boxes.areas(given), torch.tensor([[6.0, 0.4, 0.0]]))
    torch.testing.assert_close(boxes.areas(given, 0.1), torch.tensor([[6.0, 0.0, 0.0]]))
