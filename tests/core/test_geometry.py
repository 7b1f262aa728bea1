"""How an image is laid on the canvas, and its map beside it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selftrain_core.geometry import FILL_RGB, Geometry, image_on_canvas, map_on_canvas
from selftrain_core.testing.samples import picture

sides = st.integers(1, 400)
canvases = st.tuples(st.sampled_from([32, 64, 96]), st.sampled_from([32, 64, 96]))


@given(sides, sides, canvases)
def test_an_image_fits_with_its_aspect_kept(height: int, width: int, canvas: tuple[int, int]) -> None:
    found = Geometry.fit((height, width), canvas)
    assert all(1 <= valid <= side for valid, side in zip(found.valid, canvas, strict=True))
    assert found.valid[0] == canvas[0] or found.valid[1] == canvas[1], "one side fills the canvas"
    scale = min(canvas[0] / height, canvas[1] / width)
    exact = (height * scale, width * scale)
    assert all(abs(v - e) <= 1 for v, e in zip(found.valid, exact, strict=True)), "less than a pixel's rounding"


@given(sides, sides, canvases)
def test_the_matrix_maps_corners_to_corners(height: int, width: int, canvas: tuple[int, int]) -> None:
    found = Geometry.fit((height, width), canvas)
    assert found.matrix_23 @ [0, 0, 1] == pytest.approx([0, 0])
    assert found.matrix_23 @ [width, height, 1] == pytest.approx(found.valid[::-1])


def test_outside_the_picture_is_fill() -> None:
    found = Geometry.fit((20, 40), (64, 64))
    assert found.valid == (32, 64)
    canvas = image_on_canvas(Image.new("RGB", (40, 20)), found)
    assert canvas.shape == (64, 64, 3)
    assert canvas.dtype == np.uint8
    assert not canvas[:32].any()
    assert (canvas[32:] == FILL_RGB).all()


def test_an_image_as_large_as_the_canvas_is_not_touched() -> None:
    image = picture((32, 64), 0)
    assert np.array_equal(image_on_canvas(Image.fromarray(image), Geometry.fit((32, 64), (32, 64))), image)


def test_a_shrunk_image_is_averaged() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[::2] = 200
    shrunk = image_on_canvas(Image.fromarray(image), Geometry.fit((64, 64), (32, 32)))
    assert abs(shrunk[4:-4].astype(int) - 100).max() <= 2, "stripes become grey; no stripe is picked"


def test_a_map_takes_the_nearest_pixel() -> None:
    map_HW = np.arange(6, dtype=np.uint8).reshape(2, 3)
    found = map_on_canvas(map_HW, Geometry((2, 3), (8, 6), (4, 6)), 255)
    assert found.dtype == np.uint8
    assert found[:4].tolist() == map_HW.repeat(2, 0).repeat(2, 1).tolist()
    assert (found[4:] == 255).all()


def test_a_map_keeps_only_values_it_had() -> None:
    map_HW = np.array([[0, 200]], np.uint8)
    found = map_on_canvas(map_HW, Geometry.fit((37, 91), (32, 64)), 9)
    assert set(np.unique(found)) == {0, 200, 9}


@given(sides, sides)
def test_image_and_map_of_any_resolution_agree(height: int, width: int) -> None:
    found = Geometry.fit((height, width), (32, 32))
    coarse = np.array([[1, 2], [3, 4]], np.float32)
    placed = map_on_canvas(coarse, found, 0)
    rows, columns = found.valid
    assert (placed[rows:] == 0).all()
    assert (placed[:, columns:] == 0).all()
    middle_row, middle_column = rows // 2, columns // 2
    if rows > 1 and columns > 1:
        assert placed[0, 0] == 1
        assert placed[rows - 1, columns - 1] == 4
        assert placed[middle_row - 1, middle_column - 1] == 1
