"""Reading image files, good and bad."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from selftrain_core.errors import DataError
from selftrain_core.images import IMAGE_SUFFIXES, read_image, read_index_mask
from selftrain_core.testing.samples import picture

PICTURE = picture((20, 30), 1)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, format={"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    image = read_image(saved(tmp_path / f"x{suffix}", Image.fromarray(PICTURE)))
    assert image.shape == (20, 30, 3)
    assert image.dtype == np.uint8
    tolerance = 60 if suffix in {".jpg", ".jpeg", ".webp"} else 0
    assert np.abs(image.astype(int) - PICTURE).mean() <= tolerance / 3


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = ".tif" if mode in {"CMYK", "YCbCr"} else ".png"
    image = read_image(saved(tmp_path / f"x{suffix}", Image.fromarray(PICTURE).convert(mode)))
    assert image.shape == (20, 30, 3)
    assert image.dtype == np.uint8
    if mode in {"L", "LA", "1"}:
        assert (image == image[:, :, :1]).all()


def test_sixteen_bit_grey_keeps_its_upper_bits(tmp_path: Path) -> None:
    deep = (np.arange(600, dtype=np.uint16) * 109).reshape(20, 30)
    image = read_image(saved(tmp_path / "x.png", Image.fromarray(deep)))
    assert np.array_equal(image, np.repeat((deep >> 8).astype(np.uint8)[:, :, None], 3, 2))


def test_pixels_without_a_range_are_explained(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.tif", Image.fromarray(np.ones((4, 4), np.float32)))
    with pytest.raises(
        DataError, match=r"x\.tif has pixels of mode 'F', whose range is not known; save it with 8 bits"
    ):
        read_image(path)


@pytest.mark.parametrize(("tag", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(tmp_path: Path, tag: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    image = read_image(saved(tmp_path / "x.png", Image.fromarray(PICTURE), exif=exif))
    assert np.array_equal(image, np.rot90(PICTURE, turn))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read: it is empty"),
        (b"this is no image", "cannot be read: it is in no image format that Pillow knows"),
        (encoded("jpg")[:300], "cannot be read: .*"),
        (encoded("jpg")[:-30], "cannot be read: image file is truncated"),
        (encoded("png")[:-40], "cannot be read: .*"),
        (encoded("bmp")[:60], "cannot be read: .*"),
        (encoded("webp")[:80], "cannot be read: .*"),
    ],
)
def test_damaged_files_are_explained(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"photo\.jpg {message}"):
        read_image(path)


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png does not exist"):
        read_image(tmp_path / "none.png")


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read: .*directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("factor", [1.5, 3])
def test_a_decompression_bomb_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Pillow only warns up to twice its limit, and raises beyond."""
    path = saved(tmp_path / "x.png", Image.fromarray(PICTURE))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(600 / factor))
    with pytest.raises(DataError, match=r"x\.png cannot be read: it claims to be larger than \d+ pixels"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_files_with_wrong_bytes_raise_nothing_else(tmp_path: Path, suffix: str) -> None:
    """Whatever is wrong with a file, it is a DataError or a picture."""
    path, content = tmp_path / "x", encoded(suffix)
    for place in range(min(len(content), 120)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        with contextlib.suppress(DataError):
            assert read_image(path).dtype == np.uint8


# --- index masks ---

INDICES = np.arange(12, dtype=np.uint8).reshape(3, 4)


def test_grey_and_palette_masks_hold_indices(tmp_path: Path) -> None:
    grey = Image.fromarray(INDICES)
    palette = Image.fromarray(INDICES)
    palette.putpalette([255 - n // 3 for n in range(768)])
    assert palette.mode == "P"
    for name, image in (("grey", grey), ("palette", palette)):
        mask = read_index_mask(saved(tmp_path / f"{name}.png", image))
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, INDICES)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "1", "LA", "I;16"])
def test_other_masks_are_explained(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(INDICES.astype(np.uint16)) if mode == "I;16" else Image.fromarray(INDICES).convert(mode)
    message = (
        rf"x\.png is a '{mode}' image; an index mask is an 8-bit grey or palette image whose pixel values are class"
    )
    with pytest.raises(DataError, match=message):
        read_index_mask(saved(tmp_path / "x.png", image))


@pytest.mark.parametrize(("content", "message"), [(None, "does not exist"), (b"no", "cannot be read: ")])
def test_missing_and_damaged_masks_are_explained(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"the mask .*x\.png {message}"):
        read_index_mask(path)
