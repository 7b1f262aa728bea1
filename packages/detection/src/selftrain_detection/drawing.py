"""Boxes on a picture.

Shape letters: H, W = height and width of the picture, N = boxes, P = pixels of a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from selftrain_core.labels import IGNORE_LABEL, BoxLabels
from selftrain_core.legend import LARGEST_FONT, SMALLEST_FONT, font, palette

IGNORE_RGB = (190, 190, 190)
_EDGE_RGB = (0, 0, 0)
_SIDE_PER_LINE, _THINNEST, _THICKEST = 200, 2, 4
_SIDE_PER_LETTER = 34
_HATCH_PERIOD = 8
_DASH, _GAP = 5, 3
"""Of a dashed line, in widths of the line."""
_WIDEST_TAG = 1.5
"""In widths of its box."""

_Frame = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels, half-open."""


def colours(num_classes: int) -> NDArray[np.uint8]:
    """Return the colour of each class, uint8 [num_classes, 3]: none is black, for no class is the background."""
    return palette(num_classes + 1)[1:]


def draw_boxes(image_HW3: NDArray[np.uint8], labels: BoxLabels, classes: Sequence[str]) -> NDArray[np.uint8]:
    """Return a copy of the picture with its boxes, each in the colour of its class, uint8 [H, W, 3].

    Boxes of crowds have dashed lines; regions to ignore are hatched in grey. Where there is room, a tag says the name
    of the class and the score in percent, or the score alone; those of better boxes are placed first.

    Args:
        image_HW3: uint8 RGB.
        labels: In the pixels of the picture.
        classes: Ordered class names.
    """
    drawn_HW3 = image_HW3.copy()
    height, width = image_HW3.shape[:2]
    line = min(max(round(min(height, width) / _SIDE_PER_LINE), _THINNEST), _THICKEST)
    scores_N = np.ones(len(labels)) if labels.scores_N is None else labels.scores_N
    is_crowd_N = np.zeros(len(labels), np.bool_) if labels.crowds_N is None else labels.crowds_N
    frames = [_frame(box_4, height, width) for box_4 in labels.boxes_N4]
    is_region_N = labels.labels_N == IGNORE_LABEL
    class_colours = [(int(red), int(green), int(blue)) for red, green, blue in colours(len(classes))]
    for place in np.flatnonzero(is_region_N):
        _hatch(drawn_HW3, frames[place])
        _outline(drawn_HW3, frames[place], line, IGNORE_RGB, dashed=True)
    best_first = np.argsort(-scores_N, kind="stable")
    best_first = best_first[~is_region_N[best_first]]
    for place in best_first[::-1]:  # the best are on top
        colour = class_colours[labels.labels_N[place]]
        _outline(drawn_HW3, frames[place], line, colour, dashed=bool(is_crowd_N[place]))
    picture = Image.fromarray(drawn_HW3)
    tags = _Tags(picture, line)
    for place in best_first:
        label = int(labels.labels_N[place])
        name = f"{classes[label]} (crowd)" if is_crowd_N[place] else classes[label]
        score = "" if labels.scores_N is None else f"{100 * scores_N[place]:.0f} %"
        tags.add(frames[place], (f"{name} {score}".rstrip(), score), class_colours[label])
    result: NDArray[np.uint8] = np.array(picture)
    return result


def _frame(box_4: NDArray[np.float32], height: int, width: int) -> _Frame:
    """Return the pixels of a box inside the picture, at least one."""
    left, right = _span(float(box_4[0]), float(box_4[2]), width)
    top, bottom = _span(float(box_4[1]), float(box_4[3]), height)
    return left, top, right, bottom


def _span(start: float, end: float, side: int) -> tuple[int, int]:
    first = min(max(round(start), 0), side - 1)
    return first, min(max(round(end), first + 1), side)


def _hatch(image_HW3: NDArray[np.uint8], frame: _Frame) -> None:
    left, top, right, bottom = frame
    inside = image_HW3[top:bottom, left:right]
    rows, columns = np.indices(inside.shape[:2])
    inside[(rows + columns) % _HATCH_PERIOD < _HATCH_PERIOD // 3] = IGNORE_RGB


def _outline(
    image_HW3: NDArray[np.uint8], frame: _Frame, line: int, colour: tuple[int, int, int], *, dashed: bool
) -> None:
    """Draw a frame within its pixels, and around it a thin dark one that sets it off from what is bright."""
    height, width = image_HW3.shape[:2]
    left, top, right, bottom = frame
    outer = (max(left - 1, 0), max(top - 1, 0), min(right + 1, width), min(bottom + 1, height))
    for (left, top, right, bottom), thick, rgb in ((outer, 1, _EDGE_RGB), (frame, line, colour)):
        for rows, columns in (
            (slice(top, min(top + thick, bottom)), slice(left, right)),
            (slice(max(bottom - thick, top), bottom), slice(left, right)),
            (slice(top, bottom), slice(left, min(left + thick, right))),
            (slice(top, bottom), slice(max(right - thick, left), right)),
        ):
            strip_P3 = image_HW3[rows, columns]
            along = np.add(*np.indices(strip_P3.shape[:2])) if dashed else np.zeros(strip_P3.shape[:2], np.int64)
            strip_P3[along % (line * (_DASH + _GAP)) < line * _DASH] = rgb


class _Tags:
    """Writes tags beside frames, none over another.

    Args:
        picture: What is written on.
        line: Thickness of the frames.
    """

    def __init__(self, picture: Image.Image, line: int) -> None:
        self.width, self.height = picture.size
        self._pen = ImageDraw.Draw(picture)
        self._line = line
        size = min(max(min(picture.size) // _SIDE_PER_LETTER, SMALLEST_FONT), LARGEST_FONT)
        self._letters = font(size)
        self._pad = max(1, size // 6)
        self._tag_height = size + 2 * self._pad
        self._taken: list[_Frame] = []

    def add(self, frame: _Frame, texts: Sequence[str], colour: tuple[int, int, int]) -> None:
        """Write the first of `texts` that fits somewhere at the frame; none where none fits."""
        for text in filter(None, texts):
            width = round(self._letters.getlength(text)) + 2 * self._pad
            if width > _WIDEST_TAG * (frame[2] - frame[0]):
                continue  # it would hide more than it tells
            for place in self._places(frame, width):
                if self._is_free(place):
                    self._taken.append(place)
                    left, top, right, bottom = place
                    self._pen.rectangle((left, top, right - 1, bottom - 1), fill=colour)
                    middle = (left + self._pad, (top + bottom) / 2)
                    self._pen.text(middle, text, fill=_readable_on(colour), font=self._letters, anchor="lm")
                    return

    def _places(self, frame: _Frame, width: int) -> Iterator[_Frame]:
        """Yield where a tag may stand: on top of its frame, below it, or in it where the frame is large enough."""
        left, top, _, bottom = frame
        tops = [top - self._tag_height, bottom]
        if bottom - top > 2 * self._tag_height:
            tops += [top + self._line, bottom - self._line - self._tag_height]
        left = min(left, self.width - width)
        for start in tops:
            yield left, start, left + width, start + self._tag_height

    def _is_free(self, place: _Frame) -> bool:
        left, top, right, bottom = place
        if left < 0 or top < 0 or right > self.width or bottom > self.height:
            return False
        return all(
            right <= other[0] or left >= other[2] or bottom <= other[1] or top >= other[3] for other in self._taken
        )


def _readable_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
