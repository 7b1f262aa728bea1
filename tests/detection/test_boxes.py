"""Deltas, clipping and overlaps of boxes."""

import math

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from selftrain_core.testing.samples import draws
from selftrain_detection.boxes import MAX_LOG_RATIO, areas, clip, decode, encode, pairwise_iou

side = st.floats(1, 500, width=32)
place = st.floats(-200, 800, width=32)


def boxes(count: int, seed: int) -> torch.Tensor:
    corners = draws((count, 2), seed).double() * 100
    return torch.cat([corners, corners + 1 + 60 * draws((count, 2), seed, 1).double()], 1)


@given(x=place, y=place, w=side, h=side, anchor_x=place, anchor_y=place, anchor_w=side, anchor_h=side)
def test_decode_undoes_encode(
    x: float, y: float, w: float, h: float, anchor_x: float, anchor_y: float, anchor_w: float, anchor_h: float
) -> None:
    w, h = min(w, 60 * anchor_w), min(h, 60 * anchor_h)
    box = torch.tensor([x, y, x + w, y + h], dtype=torch.float64)
    anchor = torch.tensor([anchor_x, anchor_y, anchor_x + anchor_w, anchor_y + anchor_h], dtype=torch.float64)
    torch.testing.assert_close(decode(encode(box, anchor), anchor), box, rtol=1e-9, atol=1e-7)


def test_a_delta_by_hand() -> None:
    anchor, box = torch.tensor([0.0, 0.0, 20.0, 10.0]), torch.tensor([10.0, 4.0, 50.0, 9.0])
    expected = torch.tensor([(30 - 10) / 20, (6.5 - 5) / 10, math.log(2), math.log(0.5)])
    torch.testing.assert_close(encode(box, anchor), expected)


def test_the_anchor_itself_is_nothing() -> None:
    anchors = torch.rand(7, 4) + torch.tensor([0.0, 0.0, 2.0, 2.0])
    assert torch.equal(encode(anchors, anchors), torch.zeros(7, 4))


def test_float32_is_exact_enough() -> None:
    box, anchor = boxes(200, 1).float() + 600, boxes(200, 2).float() + 600
    torch.testing.assert_close(decode(encode(box, anchor), anchor), box, rtol=0, atol=2e-3)


def test_empty_boxes_have_finite_deltas() -> None:
    empty = torch.tensor([[0.0, 0.0, 0.0, 0.0], [5.0, 5.0, 5.0, 9.0], [9.0, 9.0, 1.0, 1.0]])
    assert torch.isfinite(encode(empty, torch.tensor([0.0, 0.0, 32.0, 32.0]))).all()


def test_sides_grow_at_most_so_far() -> None:
    assert pytest.approx(4.135, abs=1e-3) == MAX_LOG_RATIO
    grown = decode(torch.tensor([0.0, 0.0, 100.0, 5.0]), torch.tensor([0.0, 0.0, 16.0, 16.0]))
    torch.testing.assert_close(grown[2:] - grown[:2], torch.tensor([1000.0, 1000.0]))


def test_boxes_are_cut_to_their_picture() -> None:
    given_boxes = torch.tensor([[-5.0, -1.0, 40.0, 30.0], [3.0, 4.0, 5.0, 6.0], [50.0, 50.0, 60.0, 60.0]])
    expected = torch.tensor([[0.0, 0.0, 32.0, 20.0], [3.0, 4.0, 5.0, 6.0], [32.0, 20.0, 32.0, 20.0]])
    assert torch.equal(clip(given_boxes, 20, 32), expected)


def test_every_box_may_have_its_own_picture() -> None:
    given_boxes = torch.tensor([[[0.0, 0.0, 9.0, 9.0]], [[0.0, 0.0, 9.0, 9.0]]])
    cut = clip(given_boxes, torch.tensor([[4], [20]]), torch.tensor([[6], [8]]))
    assert cut.tolist() == [[[0, 0, 6, 4]], [[0, 0, 8, 9]]]


def test_overlaps_are_torchvisions() -> None:
    one, other = boxes(30, 3), boxes(40, 4)
    torch.testing.assert_close(pairwise_iou(one, other), torchvision.ops.box_iou(one, other), rtol=1e-12, atol=1e-12)


def test_overlaps_of_a_batch() -> None:
    one, other = boxes(30, 5).view(3, 10, 4), boxes(8, 6)
    together = pairwise_iou(one, other)
    assert together.shape == (3, 10, 8)
    for number in range(3):
        assert torch.equal(together[number], pairwise_iou(one[number], other))


def test_empty_boxes_overlap_nothing() -> None:
    some = torch.tensor([[0.0, 0.0, 0.0, 0.0], [4.0, 4.0, 4.0, 9.0], [0.0, 0.0, 9.0, 9.0], [8.0, 8.0, 2.0, 2.0]])
    overlap = pairwise_iou(some, some)
    expected = torch.zeros(4, 4)
    expected[2, 2] = 1
    assert torch.equal(overlap, expected)
    assert areas(some).tolist() == [0, 0, 81, 0]
