"""What colours mean, below a picture."""

import numpy as np
import pytest
from numpy.typing import NDArray

from selftrain_core.legend import LARGEST_FONT, SMALLEST_FONT, legend_strip, palette, with_legend

LEGEND = [("ground", (10, 20, 30)), ("Straße", (200, 0, 0)), ("небо", (0, 0, 255))]


def colours(picture: NDArray[np.uint8]) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}


def test_classes_have_colours_of_their_own() -> None:
    drawn = palette(40)
    assert drawn.shape == (40, 3)
    assert drawn[:3].tolist() == [[0, 0, 0], [0, 255, 74], [139, 66, 191]], "masks that were written have them"
    assert len({tuple(colour) for colour in drawn.tolist()}) == 40
    np.testing.assert_array_equal(palette(4), drawn[:4])


def test_every_colour_is_shown_below_the_picture() -> None:
    picture = np.full((50, 300, 3), 77, np.uint8)
    sheet = np.asarray(with_legend(picture, LEGEND))
    np.testing.assert_array_equal(sheet[:50, :300], picture)
    assert {colour for _, colour in LEGEND} <= colours(sheet[50:])


def test_a_narrow_legend_has_more_lines() -> None:
    wide, narrow = legend_strip(LEGEND, 600), legend_strip(LEGEND, 60)
    assert narrow.height > 2 * wide.height
    assert {colour for _, colour in LEGEND} <= colours(np.asarray(narrow))


def test_a_narrow_picture_stands_on_white() -> None:
    sheet = np.asarray(with_legend(np.zeros((20, 10, 3), np.uint8), LEGEND))
    assert sheet.shape[1] > 10
    assert (sheet[:20, 10:] == 255).all()


@pytest.mark.parametrize(("width", "size"), [(100, SMALLEST_FONT), (4000, LARGEST_FONT)])
def test_letters_grow_with_the_picture(width: int, size: int) -> None:
    sheet = np.asarray(with_legend(np.zeros((20, width, 3), np.uint8), LEGEND[:1]))
    expected = legend_strip(LEGEND[:1], sheet.shape[1], size=size)
    np.testing.assert_array_equal(sheet[20:], np.asarray(expected))


def test_no_entry_no_strip() -> None:
    picture = np.zeros((20, 200, 3), np.uint8)
    assert with_legend(picture, []).size == (200, 20)
