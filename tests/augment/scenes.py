"""Painted scenes, and in float64 where everything in them must go: nothing here calls the package.

A scene is rectangles of one colour and one class each, apart from each other, as image, mask and boxes.
Points are (x, y) at pixel edges; a matrix is [3, 3].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import hypothesis.strategies as st
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftrain_augment.operations import OPERATIONS
from selftrain_core.batch import Batch, Targets

Matrix = NDArray[np.float64]
Rectangle = tuple[int, int, int, int]
Size = tuple[int, int]

COLOURS = torch.tensor([[10, 200, 90], [250, 20, 30], [40, 60, 240], [230, 220, 15]])
"""Of background and classes 1 to 3."""
TIE = 2e-3
"""Pixels from an edge within which float32 may put a point on its other side."""


def painted(canvas: Size, valid: Size, rectangles: Sequence[Rectangle], region: Rectangle = (1, 1, 5, 5)) -> Batch:
    """Return one image: objects, then a region to ignore, then padding; white and class 7 where there is no picture."""
    image, mask = torch.full((3, *canvas), 255, dtype=torch.uint8), torch.full(canvas, 7, dtype=torch.uint8)
    mask[: valid[0], : valid[1]] = 0
    for label, (left, top, right, bottom) in enumerate(rectangles, start=1):
        mask[top:bottom, left:right] = label
    image[:, mask < 7] = COLOURS[mask[mask < 7].long()].T.to(torch.uint8)
    padding = 4 - len(rectangles)
    labels = [*range(1, len(rectangles) + 1), -2, *[-1] * padding]
    targets = Targets(
        mask_BHW=mask[None],
        weight_BHW=0.5 + mask[None] / 4,
        runners_up_BKHW=mask[None, None] + 1,
        runner_up_weight_BKHW=0.25 + mask[None, None] / 16,
        boxes_BN4=torch.tensor([[*rectangles, region, *[(0, 0, 0, 0)] * padding]], dtype=torch.float32),
        label_BN=torch.tensor([labels]),
        weight_BN=torch.tensor([[0.75 if label != -1 else 0.0 for label in labels]]),
        class_B=torch.tensor([len(rectangles)]),
        class_weight_B=torch.tensor([0.75]),
        canvas_B2=torch.tensor([canvas]),
    )
    return Batch(
        image_B3HW=image[None],
        valid_B2=torch.tensor([valid]),
        id_B=torch.tensor([sum(valid)]),
        visit_B=torch.tensor([0]),
        original_B2=torch.tensor([[2 * valid[0], 4 * valid[1]]]),
        matrix_B23=torch.tensor([[[0.25, 0.0, 0.0], [0.0, 0.5, 0.0]]]),
        source_B=torch.tensor([0]),
        targets=targets,
    )


@dataclass(frozen=True)
class Scene:
    """What to paint: Hypothesis shows it if it fails."""

    canvas: Size
    valid: Size
    rectangles: tuple[Rectangle, ...]
    region: Rectangle

    def batch(self) -> Batch:
        """Paint it."""
        return painted(self.canvas, self.valid, self.rectangles, self.region)


@st.composite
def scenes(draw: st.DrawFn, multiple: int = 1, smallest: int = 3) -> Scene:
    """Draw scenes on canvases of 24 to 66; the sides of canvases are multiples of `multiple`."""
    side, other = (multiple * draw(st.integers(24 // multiple, 66 // multiple)) for _ in range(2))
    canvas = (side, other)
    short = draw(st.sampled_from([None, 0, 1]))  # fitted to the canvas, at most one side of a picture is shorter
    height, width = (draw(st.integers(18, canvas[axis])) if axis == short else canvas[axis] for axis in (0, 1))
    valid = (height, width)
    count = draw(st.integers(1, min(3, valid[1] // smallest)))
    rectangles = []
    for band in range(count):  # each in a band of its own
        first, last = valid[1] * band // count, valid[1] * (band + 1) // count
        left, top = draw(st.integers(first, last - smallest)), draw(st.integers(0, valid[0] - smallest))
        right, bottom = draw(st.integers(left + smallest, last)), draw(st.integers(top + smallest, valid[0]))
        rectangles.append((left, top, right, bottom))
    left, top = draw(st.integers(0, valid[1] - 4)), draw(st.integers(0, valid[0] - 4))
    region = (left, top, draw(st.integers(left + 2, valid[1])), draw(st.integers(top + 2, valid[0])))
    return Scene(canvas, valid, tuple(rectangles), region)


def shift(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def operation_map(name: str, size: tuple[float, float], magnitude: float, pixel: float, sign: float) -> Matrix:
    """Return what an operation does to a picture of (height, width) `size`: of those on boxes alone, to a box's."""
    matrix = np.eye(3)
    what, of_box = name.removesuffix("_Only_BBoxes").removesuffix("_BBox"), name.endswith("_Only_BBoxes")
    pixels = sign * int((12 if of_box else 25) * magnitude) * pixel
    if what.startswith("Translate"):
        return shift(pixels, 0) if what == "TranslateX" else shift(0, pixels)
    if what.startswith("Shear"):
        matrix[(0, 1) if what == "ShearX" else (1, 0)] = -0.03 * magnitude * sign
    elif what == "Flip":
        matrix[0] = [-1, 0, size[1]]
    elif what == "Rotate":
        angle = math.radians(3 * magnitude) * sign
        turn = np.array([[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
        matrix = shift(size[1] / 2, size[0] / 2) @ turn @ shift(-size[1] / 2, -size[0] / 2)
    else:
        raise AssertionError(name)
    return matrix


@dataclass(frozen=True)
class Truth:
    """Where one image goes.

    Attributes:
        matrix: Old canvas → new canvas.
        valid: Height and width of the new frame.
        canvas: Of the new canvas.
        old: Height and width of the old picture.
        drawn: Operations drawn.
        shrinks: How many times smaller things become.
    """

    matrix: Matrix
    valid: Size
    canvas: Size
    old: Size
    drawn: tuple[str, ...]
    shrinks: float

    def sources(self) -> tuple[Matrix, Matrix]:
        """Return where the new canvas' pixels come from, x and y, [H, W]."""
        height, width = self.canvas
        y, x = np.mgrid[0:height, 0:width] + 0.5
        found = np.linalg.inv(self.matrix) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
        return found[0].reshape(x.shape), found[1].reshape(x.shape)

    def shown(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which pixels show picture, and which of these answers, and of the source pixels, are no ties."""
        x, y = self.sources()
        shown = (x >= 0) & (y >= 0) & (x <= self.old[1]) & (y <= self.old[0])
        clear = (np.abs(x - x.round()) > TIE) & (np.abs(y - y.round()) > TIE)
        frame = np.zeros(self.canvas, np.bool_)
        frame[: self.valid[0], : self.valid[1]] = True
        return shown & frame, clear | ~frame

    def corners(self, box: Sequence[float]) -> Matrix:
        """Return where the corners of a box go, in order around it: [4, 2]."""
        left, top, right, bottom = box
        there = self.matrix @ np.array([[left, right, right, left], [top, top, bottom, bottom], [1, 1, 1, 1]], float)
        corners: Matrix = there[:2].T
        return corners

    def seen(self, box: Sequence[float]) -> Matrix:
        """Return the corners of what is seen of a box: [P, 2], none where nothing is."""
        return clipped(self.corners(box), self.valid)


def truth_of(batch: Batch, parameters: Mapping[str, Tensor], config: Any, image: int = 0) -> Truth:
    """Return where an image must go that `parameters` say."""
    height, width = batch.valid_B2[image].tolist()
    canvas = tuple(side // config.oversample for side in batch.image_B3HW.shape[2:])
    reference = getattr(config, "pixel_reference", None)
    pixel = 1.0 if reference is None else max(height, width) / reference
    matrix, drawn = np.eye(3), []
    if "operation_BK" in parameters:
        columns = (parameters[name][image].tolist() for name in ("operation_BK", "magnitude_BK", "sign_BK"))
        for code, magnitude, sign in zip(*columns, strict=True):
            drawn.append(OPERATIONS[code])
            if drawn[-1].endswith("_BBox"):
                matrix = operation_map(drawn[-1], (height, width), magnitude, pixel, sign) @ matrix
    flip = bool(parameters["flip_B"][image])
    scale = np.float32(parameters["scale_B"][image].item()) / np.float32(config.oversample)
    sides = []
    for size, limit, crop in ((width, canvas[1], "crop_x_B"), (height, canvas[0], "crop_y_B")):
        scaled = max(1, round(float(np.float32(size) * scale)))
        cut = int(np.float32(parameters[crop][image].item()) * np.float32(max(0, scaled - limit) + 1))
        sides.append((scaled, min(cut, max(0, scaled - limit)), min(scaled, limit)))
    (new_width, left, seen_width), (new_height, top, seen_height) = sides
    if flip:
        matrix = operation_map("Flip", (height, width), 0, 1, 1) @ matrix
    matrix = shift(-left, -top) @ np.diag([new_width / width, new_height / height, 1]) @ matrix
    shrinks = max(1.0, 1 / float(scale))
    return Truth(matrix, (seen_height, seen_width), (canvas[0], canvas[1]), (height, width), tuple(drawn), shrinks)


def clipped(polygon: Matrix, frame: Size) -> Matrix:
    """Return what is left of a convex polygon in a frame (Sutherland and Hodgman): [P, 2]."""
    for axis, limit, way in ((0, 0, 1), (1, 0, 1), (0, frame[1], -1), (1, frame[0], -1)):
        kept: list[Matrix] = []
        for here, there in zip(polygon, np.roll(polygon, -1, 0), strict=True):
            depth_here, depth_there = way * (here[axis] - limit), way * (there[axis] - limit)
            if depth_here >= 0:
                kept.append(here)
            if (depth_here < 0) != (depth_there < 0):
                kept.append(here + (there - here) * (depth_here / (depth_here - depth_there)))
        polygon = np.array(kept).reshape(-1, 2)
    return polygon


def touched(polygon: Matrix, canvas: Size, times: int) -> NDArray[np.bool_]:
    """Paint a convex polygon at `times` the size: every pixel of which any part lies in it (by separating lines)."""
    points = polygon * times
    y, x = np.mgrid[0 : canvas[0] * times, 0 : canvas[1] * times].astype(np.float64)
    low, high = points.min(0), points.max(0)
    found: NDArray[np.bool_] = (x < high[0]) & (x + 1 > low[0]) & (y < high[1]) & (y + 1 > low[1])
    following = np.roll(points, -1, 0)
    turns = np.sign((points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]).sum())
    for here, there in zip(points, following, strict=True):
        across = turns * np.array([here[1] - there[1], there[0] - here[0]])  # points to the inner side
        furthest = across[0] * (x + (across[0] > 0) - here[0]) + across[1] * (y + (across[1] > 0) - here[1])
        found &= furthest >= 0
    return found


def hull_of(shown: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the edges of what is shown: the pixels' outer ones, xyxy."""
    rows, columns = np.nonzero(shown)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def tensors(group: Any) -> dict[str, Tensor]:
    """Return the tensors of a batch by name; those of boxes begin with ``targets.``."""
    found: dict[str, Tensor] = {}
    for field in fields(group):
        value = getattr(group, field.name)
        if isinstance(value, Tensor):
            found[field.name] = value
        elif value is not None:
            found |= {f"targets.{name}": inner for name, inner in tensors(value).items()}
    return found
