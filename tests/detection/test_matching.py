"""Which anchor is to predict which box, against loops over images, anchors and boxes."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from selftrain_augment.augment import Augment
from selftrain_augment.config import S1Config
from selftrain_core.batch import Targets, float_images
from selftrain_core.testing.samples import draws, object_batch
from selftrain_detection.anchors import Anchors
from selftrain_detection.boxes import areas, clip, intersections
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
    hidden = behind_regions(
        [box for box, (_, label, _) in zip(boxes, rows, strict=True) if label == -2], anchors, config
    )
    for place, anchor in enumerate(anchors):
        best_box = max(real, key=lambda number: (iou[number, place], -number), default=None)
        highest = iou[best_box, place] if best_box is not None else np.float32(-1)
        owner = forced.get(place, best_box if highest >= np.float32(config.positive_iou) else None)
        if owner is not None:
            found.append((rows[owner][1], boxes[owner].tolist(), rows[owner][2]))
        elif place in hidden or highest >= np.float32(config.negative_iou):
            found.append((-2, anchor.tolist(), 0.0))
        else:
            found.append((-1, anchor.tolist(), 1.0))
    return found


def behind_regions(regions: list[Any], anchors: NDArray[np.float32], config: MatchingConfig) -> set[int]:
    """Return the places of the anchors that have no loss for a region, unless they predict something."""
    found = set()
    for region in regions:
        best, best_place = np.float32(0), None
        for place, (x0, y0, x1, y1) in enumerate(anchors):
            both = shared(region, anchors[place])
            shown = area(np.array([max(x0, 0), max(y0, 0), min(x1, CANVAS[1]), min(y1, CANVAS[0])], np.float32))
            union = (area(region) + area(anchors[place])) - both
            if both > 0 and (both / shown >= 0.5 or both / union >= np.float32(config.negative_iou)):
                found.add(place)
            if both / union > best:
                best, best_place = both / union, place
        if best_place is not None and config.force_match:
            found.add(best_place)
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
    return match(*tensors(images, num_boxes), Anchors(AnchorConfig(**anchors))(CANVAS), CANVAS, config)


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
    region: Row = ([0.0, 0.0, 44.0, 64.0], -2, 1.0)
    thing: Row = ([4.0, 4.0, 36.0, 36.0], 3, 1.0)
    found = assert_as_slow([[region, thing], [thing]], MatchingConfig())
    with_region, without = found.label_BA
    assert torch.equal(with_region >= 0, without >= 0)
    anchors_A4 = Anchors(AnchorConfig())(CANVAS)
    ignored_M4 = clip(anchors_A4[with_region == -2], *CANVAS)
    assert len(ignored_M4) > 100
    assert ((ignored_M4[:, 0] + ignored_M4[:, 2]) / 2 <= 44).all()
    # The anchors of the coarsest level hold the canvas, of which the region is less than half.
    assert (with_region[-9:] == -1).all()


side = st.one_of(st.floats(4, 20, width=32), st.floats(1, 96, width=32))


@pytest.mark.parametrize(
    "config", [MatchingConfig(), BAND, MatchingConfig(positive_iou=0.6, negative_iou=0.4, force_match=False)]
)
@given(x=st.floats(0, 94, width=32), y=st.floats(0, 62, width=32), width=side, height=side)
@settings(max_examples=60, deadline=None)
def test_an_anchor_of_a_lone_box_is_no_negative_of_it_as_a_region(
    config: MatchingConfig, x: float, y: float, width: float, height: float
) -> None:
    corners = [x, y, min(x + width, 96.0), min(y + height, 64.0)]
    thing, region = matched([[(corners, 0, 1.0)], [(corners, -2, 1.0)]], config).label_BA
    assert (thing >= 0).any() or not config.force_match
    assert (region[thing != -1] == -2).all()


def test_a_small_region_has_an_anchor_without_loss() -> None:
    """It fills half of none: the anchor is the one that would predict an object of its size."""
    rows: list[Row] = [([33.0, 17.0, 36.0, 20.0], -2, 1.0)]
    found = assert_as_slow([rows], MatchingConfig())
    assert (found.label_BA == -2).sum() == 1
    assert (matched([rows], MatchingConfig(force_match=False)).label_BA == -1).all()


def test_an_object_keeps_the_anchor_that_a_region_would_have_too() -> None:
    region: Row = ([10.0, 10.0, 15.0, 15.0], -2, 1.0)
    smaller: Row = ([11.0, 11.0, 14.0, 14.0], 2, 0.5)
    alone = assert_as_slow([[region]], MatchingConfig(), num_scales=1)
    both = assert_as_slow([[region, smaller], [smaller, region]], MatchingConfig(), num_scales=1)
    (place,) = (alone.label_BA[0] == -2).nonzero()
    assert both.label_BA[:, place].flatten().tolist() == [2, 2]
    assert both.weight_BA[:, place].flatten().tolist() == [0.5, 0.5]


def test_at_the_border_the_part_on_the_canvas_counts() -> None:
    """A strip 7 pixels wide: of the first column's anchors, which begin 12 pixels outside, the canvas shows 20."""
    anchors: dict[str, Any] = {"num_scales": 1, "ratios": (1.0,)}
    strip: Row = ([0.0, 0.0, 7.0, 64.0], -2, 1.0)
    wider: Row = ([0.0, 0.0, 10.0, 64.0], -2, 1.0)
    narrow, wide = assert_as_slow([[strip], [wider]], MatchingConfig(force_match=False), **anchors).label_BA
    first_column = wide[: 8 * 12].reshape(8, 12)[:, 0]
    assert (first_column == -2).all()  # 10 of 20 pixels, though 10 of 32
    assert (narrow == -1).all()


def test_an_anchor_outside_the_canvas_is_in_no_region() -> None:
    rows: list[Row] = [([0.0, 0.0, 31.0, 31.0], -2, 1.0)]
    canvas = (32, 32)
    anchors_A4 = Anchors(AnchorConfig(size=0.25, num_scales=1, ratios=(1.0,)))(canvas)
    found = match(*tensors([rows], 1), anchors_A4, canvas, MatchingConfig(force_match=False))
    assert anchors_A4[-1].tolist() == [48, 48, 80, 80]
    assert found.label_BA[0, -1] == -1
    assert found.label_BA[0, 0] == -2


def test_what_the_crop_leaves_of_an_object_is_no_background() -> None:
    """Augment-S1 moves an object all but out of the picture; the anchors that would predict the rest have no loss."""
    height, width = canvas = (64, 96)
    seen = 0
    for number in range(40):
        batch = object_batch(1, canvas)
        x = 1.0 + 4 * (number % 10)
        boxes_BN4 = torch.tensor([[[x, 20.0, x + 50, 60.0]]])
        targets = Targets(
            boxes_BN4=boxes_BN4, label_BN=torch.zeros(1, 1).long(), weight_BN=torch.ones(1, 1),
            canvas_B2=torch.tensor([canvas]),
        )  # fmt: skip
        batch = replace(batch, image_B3HW=float_images(batch.image_B3HW), targets=targets)
        augment = Augment(S1Config(scale_min=2.0, scale_max=3.0, min_visibility=0.4))
        after = augment(batch, torch.tensor([1000 + number])).targets
        assert after.boxes_BN4 is not None and after.label_BN is not None and after.weight_BN is not None
        if after.label_BN.item() != -2:
            continue
        seen += 1
        anchors_A4 = Anchors(AnchorConfig())(canvas)
        arguments = (after.boxes_BN4, after.weight_BN, anchors_A4)
        region = match(arguments[0], after.label_BN, *arguments[1:], canvas, MatchingConfig()).label_BA
        thing = match(arguments[0], torch.zeros(1, 1).long(), *arguments[1:], canvas, MatchingConfig()).label_BA
        assert (thing >= 0).any() and (region[thing >= 0] == -2).all()
        shown_A4 = clip(anchors_A4, height, width)
        inside_A = intersections(after.boxes_BN4[0], anchors_A4)[0] >= 0.5 * areas(shown_A4)
        assert (region[0, inside_A] == -2).all()
    assert seen > 4


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
    whole = match(boxes_BN4, label_BN, weight_BN, anchors_A4, CANVAS, BAND)
    for chosen in ([0], [3, 1], [2]):
        part = match(boxes_BN4[chosen], label_BN[chosen], weight_BN[chosen], anchors_A4, CANVAS, BAND)
        for field in fields(Matches):
            assert torch.equal(getattr(part, field.name), getattr(whole, field.name)[chosen])


def assert_same(one: Matches, other: Matches) -> None:
    for field in fields(Matches):
        assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name
