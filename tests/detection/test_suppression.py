"""Suppression and fusion against slow references in plain Python."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selftrain_core.testing.samples import draws
from selftrain_detection.suppression import (
    ScoredBoxes,
    nms,
    soft_nms,
    soft_nms_tensorflow,
    together,
    weighted_boxes_fusion,
)

Row = tuple[list[float], float, int]
"""A box, its score and its class."""

SIZES = st.integers(0, 30)
SEEDS = st.integers(0, 10**6)


def drawn(seed: int, count: int, classes: int = 2) -> ScoredBoxes:
    """Return boxes of which many overlap."""
    start_N2, side_N2 = draws((count, 2), seed, 1) * 20, 10 + draws((count, 2), seed, 2) * 20
    labels_N = (draws((count,), seed, 4) * classes).long()
    return ScoredBoxes(torch.cat([start_N2, start_N2 + side_N2], 1), 0.06 + 0.9 * draws((count,), seed, 3), labels_N)


def rows(found: ScoredBoxes) -> list[Row]:
    return list(zip(found.boxes_N4.tolist(), found.scores_N.tolist(), found.labels_N.tolist(), strict=True))


def assert_same(found: ScoredBoxes, expected: Sequence[Row]) -> None:
    assert found.boxes_N4.dtype == found.scores_N.dtype == torch.float32
    assert found.labels_N.tolist() == [label for _, _, label in expected]
    assert found.scores_N.tolist() == pytest.approx([score for _, score, _ in expected], rel=1e-4)
    boxes_N4 = torch.tensor([box for box, _, _ in expected], dtype=torch.float32).reshape(-1, 4)
    torch.testing.assert_close(found.boxes_N4, boxes_N4, rtol=1e-5, atol=1e-4)


def iou(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared)


def greedy(found: ScoredBoxes, floor: float, limit: int, weight: Callable[[float], float]) -> list[Row]:
    """Take the best box of each class by itself, weaken the rest, and go on; then the best of all classes."""
    kept: list[Row] = []
    for label in set(found.labels_N.tolist()):
        left = [row for row in rows(found) if row[2] == label]
        while left:
            best = max(left, key=lambda row: row[1])
            left.remove(best)
            kept.append(best)
            weakened = [(box, score * weight(iou(best[0], box)), label) for box, score, _ in left]
            left = [row for row in weakened if row[1] > floor]
    return sorted(kept, key=lambda row: -row[1])[:limit]


@given(SEEDS, st.integers(0, 60), st.sampled_from([0.2, 0.5, 0.8]), st.sampled_from([1, 2, 5, 100]))
def test_nms_keeps_what_no_better_box_of_its_class_overlaps(
    seed: int, count: int, threshold: float, limit: int
) -> None:
    """A small limit shows that those which are looked at later are not forgotten."""
    found = drawn(seed, count)
    expected = greedy(found, 0, limit, lambda overlap: float(overlap <= threshold))
    assert_same(nms(found, threshold, limit), expected)


def test_nms_looks_as_far_as_it_must() -> None:
    """The best hundred are one thing, and only the worst box is another."""
    found = ScoredBoxes(
        torch.tensor([[0.0, 0, 9, 9]] * 100 + [[20.0, 0, 29, 9]]),
        torch.linspace(0.9, 0.1, 101),
        torch.zeros(101).long(),
    )
    assert nms(found, 0.5, 2).scores_N.tolist() == pytest.approx([0.9, 0.1])


@given(SEEDS, SIZES, st.sampled_from([0.1, 0.3, 0.6]), st.integers(1, 12))
def test_soft_nms_of_bodla(seed: int, count: int, sigma: float, limit: int) -> None:
    found = drawn(seed, count, classes=3)
    expected = greedy(found, 0.05, limit, lambda overlap: math.exp(-(overlap**2) / sigma))
    assert_same(soft_nms(found, sigma=sigma, floor=0.05, limit=limit), expected)


@given(SEEDS, SIZES, st.sampled_from([0.1, 0.3]), st.sampled_from([0.3, 0.5, 1.0]), st.integers(1, 12))
def test_soft_nms_of_tensorflow(seed: int, count: int, sigma: float, threshold: float, limit: int) -> None:
    found = drawn(seed, count, classes=3)

    def weight(overlap: float) -> float:
        return math.exp(-0.5 * overlap**2 / sigma) if overlap <= threshold else 0.0

    kept = soft_nms_tensorflow(found, sigma=sigma, iou_threshold=threshold, floor=0.05, limit=limit)
    assert_same(kept, greedy(found, 0.05, limit, weight))


def test_one_sigma_is_twice_as_soft_in_tensorflow() -> None:
    found = drawn(1, 40)
    kept = soft_nms_tensorflow(found, sigma=0.3, iou_threshold=1.0, floor=0.05, limit=30)
    original = soft_nms(found, sigma=0.6, floor=0.05, limit=30)
    assert rows(kept) == rows(original)
    assert rows(kept) != rows(soft_nms(found, sigma=0.3, floor=0.05, limit=30))


def test_the_weight_of_each_form_by_hand() -> None:
    """Two boxes with an IoU of one half."""
    found = ScoredBoxes(torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 2]]), torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))
    scores = soft_nms(found, sigma=0.5, floor=0.0, limit=9).scores_N.tolist()
    assert scores == pytest.approx([0.9, 0.8 * math.exp(-0.25 / 0.5)])
    softer = soft_nms_tensorflow(found, sigma=0.5, iou_threshold=0.5, floor=0.0, limit=9).scores_N.tolist()
    assert softer == pytest.approx([0.9, 0.8 * math.exp(-0.25)])
    hard = soft_nms_tensorflow(found, sigma=0.5, iou_threshold=0.49, floor=0.0, limit=9).scores_N.tolist()
    assert hard == pytest.approx([0.9]), "TensorFlow's form takes out what overlaps more than the threshold"


def test_soft_nms_drops_what_decays_to_the_floor() -> None:
    box = torch.tensor([[0.0, 0, 8, 8]])
    found = ScoredBoxes(box.repeat(4, 1), torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 0, 0, 1]))
    decayed = 0.8 * math.exp(-1)
    assert soft_nms(found, sigma=1.0, floor=decayed - 1e-4, limit=9).scores_N.tolist() == pytest.approx(
        [0.9, 0.6, decayed]
    ), "the third falls twice, and the other class not at all"
    assert len(soft_nms(found, sigma=1.0, floor=decayed + 1e-4, limit=9)) == 2


def test_equal_scores_keep_their_order() -> None:
    boxes_N4 = torch.arange(6.0)[:, None] * 20 + torch.tensor([0.0, 0, 9, 9])
    found = ScoredBoxes(boxes_N4, torch.full((6,), 0.5), torch.arange(6) % 2)
    for kept in (
        nms(found, 0.5, 9),
        soft_nms(found, sigma=0.5, floor=0.05, limit=9),
        weighted_boxes_fusion([found], iou_threshold=0.5, floor=0.05),
        found.best(6),
    ):
        assert rows(kept) == rows(found)


def fused(views: Sequence[ScoredBoxes], threshold: float, floor: float) -> list[Row]:
    """Return the averages of lists of boxes, computed anew from their members each time."""
    members = sorted((row for view in views for row in rows(view)), key=lambda row: -row[1])
    clusters: list[list[Row]] = []

    def average(cluster: list[Row]) -> list[float]:
        weight = sum(score for _, score, _ in cluster)
        return [sum(score * box[side] for box, score, _ in cluster) / weight for side in range(4)]

    for row in members:
        overlaps = [iou(row[0], average(c)) if c[0][2] == row[2] else 0.0 for c in clusters]
        if overlaps and max(overlaps) > threshold:
            clusters[overlaps.index(max(overlaps))].append(row)
        else:
            clusters.append([row])
    scored = []
    for cluster in clusters:
        mean = sum(score for _, score, _ in cluster) / len(cluster)
        score = mean * min(len(cluster), len(views)) / len(views)
        scored.append((average(cluster), score, cluster[0][2]))
    return sorted((row for row in scored if row[1] > floor), key=lambda row: -row[1])


@given(SEEDS, st.lists(st.integers(0, 12), min_size=1, max_size=4), st.sampled_from([0.3, 0.55, 0.8]))
def test_weighted_boxes_fusion(seed: int, counts: list[int], threshold: float) -> None:
    views = [drawn(seed + number, count) for number, count in enumerate(counts)]
    kept = weighted_boxes_fusion(views, iou_threshold=threshold, floor=0.05)
    assert_same(kept, fused(views, threshold, 0.05))


def test_fusion_by_hand() -> None:
    one = ScoredBoxes(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0.9]), torch.tensor([1]))
    other = ScoredBoxes(
        torch.tensor([[1.0, 0, 11, 10], [0, 0, 10, 10]]), torch.tensor([0.3, 0.8]), torch.tensor([1, 0])
    )
    kept = weighted_boxes_fusion([one, other], iou_threshold=0.5, floor=0.05)
    assert_same(kept, [([0.25, 0, 10.25, 10], 0.6, 1), ([0, 0, 10, 10], 0.4, 0)])
    assert len(weighted_boxes_fusion([one, other], iou_threshold=0.5, floor=0.4)) == 1, "seen once, and at the floor"


def test_more_boxes_than_views_are_no_surer() -> None:
    found = ScoredBoxes(torch.tensor([[0.0, 0, 10, 10]] * 3), torch.tensor([0.9, 0.6, 0.3]), torch.tensor([0, 0, 0]))
    kept = weighted_boxes_fusion([found, found[torch.tensor([], dtype=torch.int64)]], iou_threshold=0.5, floor=0.05)
    assert_same(kept, [([0, 0, 10, 10], 0.6, 0)])


def test_nothing_in_nothing_out() -> None:
    none = drawn(1, 0)
    for kept in (
        nms(none, 0.5, 9),
        soft_nms(none, sigma=0.5, floor=0.05, limit=9),
        soft_nms_tensorflow(none, sigma=0.5, iou_threshold=0.5, floor=0.05, limit=9),
        weighted_boxes_fusion([none, none], iou_threshold=0.5, floor=0.05),
        none.best(3),
        together([none, none]),
    ):
        assert kept.boxes_N4.shape == (0, 4)
        assert kept.scores_N.shape == kept.labels_N.shape == (0,)
        assert kept.labels_N.dtype == torch.int64


def test_what_is_given_is_not_changed() -> None:
    found = drawn(3, 20)
    before = rows(found)
    soft_nms(found, sigma=0.5, floor=0.05, limit=9)
    weighted_boxes_fusion([found, found], iou_threshold=0.5, floor=0.05)
    assert rows(found) == before
