"""Boxes on a picture."""

import numpy as np
import pytest
from numpy.typing import NDArray

from selftrain_core.labels import IGNORE_LABEL, BoxLabels
from selftrain_core.testing.samples import box_labels, picture
from selftrain_detection.drawing import IGNORE_RGB, colours, draw_boxes

CLASSES = ("apple", "banana", "raccoon")
GREY = 120


def grey(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), GREY, np.uint8)


def labels(
    boxes: list[list[float]], classes: list[int], scores: list[float] | None = None, *, crowd: bool = False
) -> BoxLabels:
    return BoxLabels(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
        None if scores is None else np.array(scores, np.float32),
        np.full(len(boxes), crowd),
    )


def where(drawn_HW3: NDArray[np.uint8], colour: NDArray[np.uint8] | tuple[int, int, int]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (drawn_HW3 == np.asarray(colour, np.uint8)).all(-1)
    return found


def extent(mask_HW: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.nonzero(mask_HW)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


@pytest.mark.parametrize(("side", "line"), [(100, 2), (600, 3), (3000, 4)])
def test_a_frame_lies_within_its_box_in_the_colour_of_its_class(side: int, line: int) -> None:
    """Too narrow for a tag."""
    image = grey(side, side)
    drawn = draw_boxes(image, labels([[20, 30, 32, 70]], [1]), CLASSES)
    mask = where(drawn, colours(3)[1])
    assert extent(mask) == [20, 30, 32, 70]
    inside = mask[30 + line : 70 - line, 20 + line : 32 - line]
    assert not inside.any()
    assert mask[30:70, 20:32].sum() == 12 * 40 - inside.size, "solid, so many pixels wide"
    assert (image == GREY).all(), "the picture that was given is as it was"
    assert extent((drawn != GREY).any(-1)) == [19, 29, 33, 71], "a thin dark line around it"


def test_classes_have_colours_of_their_own_and_none_is_black() -> None:
    found = {tuple(colour) for colour in colours(40).tolist()}
    assert len(found) == 40
    assert (0, 0, 0) not in found


def test_a_tag_stands_on_its_box_where_there_is_room() -> None:
    box = [50.0, 60, 190, 150]
    drawn = draw_boxes(grey(200, 300), labels([box], [0], [0.87]), CLASSES)
    above = where(drawn[:60], colours(3)[0])
    assert extent(above)[0] == 50
    assert above.sum() > 300
    assert where(drawn[:60, :, :], (0, 0, 0)).any(), "black letters on a light colour"
    at_the_top = draw_boxes(grey(200, 300), labels([[50, 0, 190, 150]], [0], [0.87]), CLASSES)
    assert where(at_the_top[151:], colours(3)[0]).sum() > 300, "below the box where there is no room above it"
    everywhere = draw_boxes(grey(200, 300), labels([[0, 0, 300, 200]], [0], [0.87]), CLASSES)
    assert where(everywhere[3:20, 3:100], colours(3)[0]).sum() > 300, "in the box where there is no other room"


def test_where_the_name_does_not_fit_the_score_alone_is_written() -> None:
    wide, narrow, least = (
        extent(where(draw_boxes(grey(200, 300), labels([[50, 60, 50 + w, 150]], [2], [0.87]), CLASSES), colours(3)[2]))
        for w in (100, 30, 8)
    )
    assert wide[1] == narrow[1] < 60
    assert narrow[2] < 50 + 1.5 * 30
    assert least == [50, 60, 58, 150], "no tag at all"


def test_tags_do_not_cover_each_other() -> None:
    """The best has its place, on top; the other goes elsewhere."""
    box = [50.0, 60, 190, 150]
    alone = draw_boxes(grey(200, 300), labels([box], [0], [0.9]), CLASSES)
    both = draw_boxes(grey(200, 300), labels([box, box], [1, 0], [0.3, 0.9]), CLASSES)
    np.testing.assert_array_equal(both[:149], alone[:149])
    assert where(both[151:], colours(3)[1]).sum() > 300


def test_crowds_have_dashed_lines() -> None:
    solid = where(draw_boxes(grey(100, 100), labels([[20, 30, 30, 90]], [1]), CLASSES), colours(3)[1])
    dashed = where(draw_boxes(grey(100, 100), labels([[20, 30, 30, 90]], [1], crowd=True), CLASSES), colours(3)[1])
    assert 0.4 * solid.sum() < dashed.sum() < 0.8 * solid.sum()
    assert not (dashed & ~solid).any()


def test_regions_to_ignore_are_hatched() -> None:
    drawn = draw_boxes(grey(100, 100), labels([[20, 30, 60, 90]], [IGNORE_LABEL]), CLASSES)
    hatched = where(drawn, IGNORE_RGB)
    assert extent(hatched) == [20, 30, 60, 90]
    assert 0.15 < hatched[35:85, 25:55].mean() < 0.4
    assert not any(where(drawn, colour).any() for colour in colours(3))


def test_a_box_over_the_edge_or_thinner_than_a_pixel_is_drawn() -> None:
    over = draw_boxes(grey(40, 40), labels([[-20, -20, 90, 90]], [0]), CLASSES)
    assert extent(where(over, colours(3)[0])) == [0, 0, 40, 40]
    thin = draw_boxes(grey(40, 40), labels([[10.2, 10.2, 10.4, 10.4]], [1]), CLASSES)
    assert extent(where(thin, colours(3)[1])) == [10, 10, 11, 11]


def test_nothing_to_draw() -> None:
    image = picture((30, 40), 1)
    drawn = draw_boxes(image, labels([], []), CLASSES)
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image
    assert drawn.dtype == np.uint8


@pytest.mark.parametrize("size", [(1, 1), (12, 300), (480, 640)])
def test_any_picture_can_be_drawn_on(size: tuple[int, int]) -> None:
    drawn = draw_boxes(picture(size, 3), box_labels(size, 3, 2, scored=True, count=20), CLASSES)
    assert drawn.shape == (*size, 3)
