"""Which anchor is to predict which box, against loops over images, anchors and boxes."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from selftrain_core.testing.samples import draws
from selftrain_detection.anchors import Anchors
from selftrain_detection.config import AnchorConfig, MatchingConfig
from selftrain_detection.matching import Matches, match

CANVAS = (64, 96)
BAND = MatchingConfig(positive_iou=0.5, negative_iou=0.4)
Row = tuple[list[float], int, float]


def shared(a: NDArray[np.float32], b: NDArray[np.float32]) -> Any:
    zero = np.float32(0)
    return max(min(a[2], b[2]) - max(a[0], b[0]), zero) * max(min(a[3], b[3]) - max(a[1], b[1]), zero)


def area(box: NDArray[np.float32]) -> Any:
    return max(box[2] - box[0], np.float32(0)) * max(box[3] - box[1], np.float32(0))


def slow(rows: list[Row], anchors: NDArray[np.float32], config: MatchingConfig) -> list[tuple[int, list[float], float]]:
    """Return the label, box and weight of each anchor of one image."""
    boxes = [np.array(box, np.float32) for box, _, _ in rows]
    real = [number for number, (_, label, _) in enumerate(rows) if label >= 0 and area(boxes[number]) > 0]
    iou = {}
    for number in real:
        for place, anchor in enumerate(anchors):
            both = shared(boxes[number], anchor)
            iou[number, place] = both / ((area(boxes[number]) + area(anchor)) - both)
    forced: dict[int, int] = {}
    for number in real if config.force_match else []:
        best = max(range(len(anchors)), key=lambda place: (iou[number, place], -place))
        rival = forced.get(best)
        if iou[number, best] > 0 and (rival is None or iou[number, best] > iou[rival, best]):
            forced[best] = number
    found = []
    for place, anchor in enumerate(anchors):
        best_box = max(real, key=lambda number: (iou[number, place], -number), default=None)
        highest = iou[best_box, place] if best_box is not None else np.float32(-1)
        owner = forced.get(place, best_box if highest >= np.float32(config.positive_iou) else None)
        in_region = any(
            label == -2 and shared(box, anchor) >= np.float32(0.5) * area(anchor)
            for box, (_, label, _) in zip(boxes, rows, strict=True)
        )
        if owner is not None:
            found.append((rows[owner][1], boxes[owner].tolist(), rows[owner][2]))
        elif in_region or highest >= np.float32(config.negative_iou):
            found.append((-2, anchor.tolist(), 0.0))
        else:
            found.append((-1, anchor.tolist(), 1.0))
    return found


def tensors(images: list[list[Row]], num_boxes: int) -> tuple[Tensor, Tensor, Tensor]:
    padding: Row = ([0.0, 0.0, 0.0, 0.0], -1, 0.0)
    padded = [[*rows, *[padding] * (num_boxes - len(rows))] for rows in images]
    return (
        torch.tensor([[row[0] for row in rows] for rows in padded]),
        torch.tensor([[row[1] for row in rows] for rows in padded]),
        torch.tensor([[row[2] for row in rows] for rows in padded]),
    )


def matched(images: list[list[Row]], config: MatchingConfig, num_boxes: int = 8, **anchors: Any) -> Matches:
    return match(*tensors(images, num_boxes), Anchors(AnchorConfig(**anchors))(CANVAS), config)


def assert_as_slow(images: list[list[Row]], config: MatchingConfig, **anchors: Any) -> Matches:
    found = matched(images, config, **anchors)
    anchors_A4 = Anchors(AnchorConfig(**anchors))(CANVAS).numpy()
    for number, rows in enumerate(images):
        expected = slow(rows, anchors_A4, config)
        assert found.label_BA[number].tolist() == [label for label, _, _ in expected]
        assert found.boxes_BA4[number].tolist() == [box for _, box, _ in expected]
        assert found.weight_BA[number].tolist() == [np.float32(weight) for _, _, weight in expected]
    return found


def test_without_boxes_everything_is_negative() -> None:
    found = assert_as_slow([[], []], MatchingConfig(), num_scales=1)
    assert (found.label_BA == -1).all() and (found.weight_BA == 1).all()


corner = st.integers(-8, 90)
length = st.sampled_from([0, 1, 3, 8, 16, 23, 32, 45, 64, 91])


@st.composite
def images(draw: st.DrawFn) -> list[list[Row]]:
    def row() -> Row:
        x, y, w, h = draw(corner), draw(corner), draw(length), draw(length)
        label = draw(st.sampled_from([0, 1, 2, 5, -1, -2]))
        return [float(x), float(y), float(x + w), float(y + h)], label, draw(st.sampled_from([0.0, 0.25, 1.0]))

    return [[row() for _ in range(draw(st.integers(0, 5)))] for _ in range(draw(st.integers(1, 2)))]


@pytest.mark.parametrize(
    "config",
    [
        MatchingConfig(), BAND, MatchingConfig(positive_iou=0.7, negative_iou=0.3),
        MatchingConfig(positive_iou=0.6, negative_iou=0.4, force_match=False),
    ],
)  # fmt: skip
@given(images=images())
@settings(max_examples=25, deadline=None)
def test_as_the_loops_say(images: list[list[Row]], config: MatchingConfig) -> None:
    assert_as_slow(images, config, num_scales=1)


def test_all_anchors_as_the_loops_say() -> None:
    crowded: list[Row] = [
        ([10, 10, 44, 40], 3, 0.5), ([0, 0, 0, 0], -1, 0), ([11, 9, 43, 41], 4, 1), ([50, 5, 95, 60], -2, 1),
        ([52, 8, 60, 14], 1, 1), ([20, 20, 20, 30], 2, 1), ([0, 0, 96, 64], 0, 0.125),
    ]  # fmt: skip
    found = assert_as_slow([crowded, []], BAND)
    assert set(found.label_BA[0].tolist()) == {-2, -1, 0, 1, 3, 4}
    assert 2 not in found.label_BA  # a box without area matches nothing


def test_a_small_box_has_its_best_anchor() -> None:
    images: list[list[Row]] = [[([33.0, 17.0, 36.0, 20.0], 7, 0.5)]]
    found = assert_as_slow(images, MatchingConfig())
    (place,) = (found.label_BA[0] == 7).nonzero()
    assert found.weight_BA[0, place].tolist() == [0.5]
    assert not matched(images, MatchingConfig(force_match=False)).positive_BA.any()


def test_of_equal_anchors_a_box_has_the_first() -> None:
    """A box that lies within several of one size."""
    found = assert_as_slow([[([14.0, 21.0, 18.0, 25.0], 1, 1.0)]], MatchingConfig(), num_scales=1, ratios=(1.0,))
    row, column = 1, 0
    assert found.positive_BA[0].nonzero().flatten().tolist() == [row * 12 + column]


def test_two_boxes_and_one_best_anchor() -> None:
    """The better one has it, whatever their order; the other does without."""
    better: Row = ([10.0, 10.0, 15.0, 15.0], 1, 1.0)
    worse: Row = ([11.0, 11.0, 14.0, 14.0], 2, 1.0)
    found = assert_as_slow([[better, worse], [worse, better]], MatchingConfig(), num_scales=1)
    assert [sorted(set(labels.tolist())) for labels in found.label_BA] == [[-1, 1], [-1, 1]]
    twins: list[Row] = [(better[0], 4, 1.0), (better[0], 3, 1.0)]
    assert sorted(set(assert_as_slow([twins], MatchingConfig(), num_scales=1).label_BA[0].tolist())) == [-1, 4]


def test_forced_matches_override() -> None:
    """An anchor that overlaps a large box enough goes to the small one that has no better."""
    large: Row = ([-4.0, -4.0, 28.0, 28.0], 1, 1.0)
    small: Row = ([10.0, 22.0, 14.0, 26.0], 2, 1.0)
    alone = assert_as_slow([[large]], MatchingConfig(), num_scales=1, ratios=(1.0,))
    both = assert_as_slow([[large, small]], MatchingConfig(), num_scales=1, ratios=(1.0,))
    (place,) = (both.label_BA[0] == 2).nonzero().tolist()[0]
    assert alone.label_BA[0, place] == 1
    assert (both.label_BA[0] == 1).sum() == (alone.label_BA[0] == 1).sum() - 1


def test_the_band_has_no_loss() -> None:
    rows: list[Row] = [([8.0, 8.0, 40.0, 36.0], 0, 1.0)]
    sharp, band = assert_as_slow([rows], MatchingConfig()), assert_as_slow([rows], BAND)
    between = (band.label_BA == -2) & (sharp.label_BA == -1)
    assert between.any() and not band.weight_BA[between].any()
    assert not (sharp.label_BA == -2).any()


def test_thresholds_are_reached_by_what_equals_them() -> None:
    """The upper half of an anchor, whose corners are whole numbers."""
    rows: list[Row] = [([-4.0, -4.0, 28.0, 12.0], 0, 1.0)]
    for negative, positive, label in ((0.5, 0.5, 0), (0.5, 0.51, -2), (0.51, 0.51, -1)):
        config = MatchingConfig(positive_iou=positive, negative_iou=negative, force_match=False)
        found = assert_as_slow([rows], config, num_scales=1, ratios=(1.0,))
        assert found.label_BA[0, 12 + 1] == label


def test_a_region_takes_negatives_and_leaves_positives() -> None:
    region: Row = ([0.0, 0.0, 48.0, 64.0], -2, 1.0)
    thing: Row = ([4.0, 4.0, 36.0, 36.0], 3, 1.0)
    found = assert_as_slow([[region, thing], [thing]], MatchingConfig())
    with_region, without = found.label_BA
    assert torch.equal(with_region >= 0, without >= 0)
    anchors_A4 = Anchors(AnchorConfig())(CANVAS)
    ignored_M4 = anchors_A4[with_region == -2]
    inside_M = ((ignored_M4[:, 0] + ignored_M4[:, 2]) / 2 <= 48).float()
    assert len(ignored_M4) > 100 and inside_M.all()
    # The anchors of the coarsest level hold the region and much more.
    assert (with_region[-9:] == -1).all()


def test_the_order_of_the_padding_does_not_matter() -> None:
    rows: list[Row] = [
        ([10.0, 10.0, 44.0, 40.0], 3, 0.5), ([50.0, 5.0, 95.0, 60.0], -2, 1.0), ([11.0, 9.0, 43.0, 41.0], 4, 1.0),
    ]  # fmt: skip
    nothing: Row = ([3.0, 3.0, 30.0, 30.0], -1, 0.0)
    spread = [nothing, rows[0], nothing, nothing, rows[1], rows[2], nothing]
    assert_same(matched([rows], BAND, 3), matched([spread], BAND, 100))


def test_an_image_does_not_change_another() -> None:
    corners_BN2 = draws((4, 6, 2), 1) * 60
    boxes_BN4 = torch.cat([corners_BN2, corners_BN2 + 40 * draws((4, 6, 2), 2)], 2)
    label_BN = (draws((4, 6), 3) * 8).long() - 3
    weight_BN = draws((4, 6), 4)
    anchors_A4 = Anchors(AnchorConfig())(CANVAS)
    whole = match(boxes_BN4, label_BN, weight_BN, anchors_A4, BAND)
    for chosen in ([0], [3, 1], [2]):
        part = match(boxes_BN4[chosen], label_BN[chosen], weight_BN[chosen], anchors_A4, BAND)
        for field in fields(Matches):
            assert torch.equal(getattr(part, field.name), getattr(whole, field.name)[chosen])


def assert_same(one: Matches, other: Matches) -> None:
    for field in fields(Matches):
        assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name
