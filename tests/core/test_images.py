"""Reading image files, good and bad, of bytes made here."""

import contextlib
import io
import os
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

from selftrain_core.errors import DataError
from selftrain_core.images import IMAGE_SUFFIXES, read_colour_mask, read_image, read_index_mask
from selftrain_core.testing.samples import picture

PICTURE = picture((20, 30), 1)
DEEP = (np.arange(20 * 30 * 3, dtype=np.uint32) * 36).astype(np.uint16).reshape(20, 30, 3)
READERS = [read_image, read_index_mask, read_colour_mask]


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, format={"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    return buffer.getvalue()


def deep_png(values_HWC: NDArray[np.uint16], colour_type: int) -> bytes:
    """Return a 16-bit PNG, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = values_HWC.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWC)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep_tiff(values_HWC: NDArray[np.uint16], photometric: int) -> bytes:
    """Return a 16-bit TIFF, of one or three channels."""
    height, width, channels = values_HWC.shape
    data = values_HWC.astype("<u2").tobytes()
    bits = struct.pack(f"<{channels}H", *[16] * channels)
    places = {258: 8 + len(data) if channels > 2 else 16, 273: 8}
    tags = {256: width, 257: height, 259: 1, 262: photometric, 277: channels, 278: height, 279: len(data), **places}
    entries = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, channels if tag == 258 else 1, value)
        for tag, value in sorted(tags.items())
    )
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(data) + len(bits)) + data + bits + directory


# --- formats and modes ---


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    image = read_image(saved(tmp_path / f"x{suffix}", Image.fromarray(PICTURE)))
    assert image.shape == (20, 30, 3)
    assert image.dtype == np.uint8
    tolerance = 60 if suffix in {".jpg", ".jpeg", ".webp"} else 0
    assert np.abs(image.astype(int) - PICTURE).mean() <= tolerance / 3


def test_a_wrong_ending_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(encoded("png"))
    assert np.array_equal(read_image(tmp_path / "x.jpg"), PICTURE)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = ".tif" if mode in {"CMYK", "YCbCr"} else ".png"
    image = read_image(saved(tmp_path / f"x{suffix}", Image.fromarray(PICTURE).convert(mode)))
    assert image.shape == (20, 30, 3)
    assert image.dtype == np.uint8
    if mode in {"L", "LA", "1"}:
        assert (image == image[:, :, :1]).all()


@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_a_sixteen_bit_png_keeps_its_upper_bits(tmp_path: Path, channels: int, colour_type: int) -> None:
    values_HWC = np.concatenate([DEEP, DEEP[:, :, :1]], 2)[:, :, :channels]
    (tmp_path / "x.png").write_bytes(deep_png(values_HWC, colour_type))
    colour_HWC = (values_HWC >> 8).astype(np.uint8)[:, :, : 3 if channels > 2 else 1]
    assert np.array_equal(read_image(tmp_path / "x.png"), np.broadcast_to(colour_HWC, (20, 30, 3)))


@pytest.mark.parametrize(("channels", "photometric"), [(1, 0), (1, 1), (3, 2)])
def test_a_sixteen_bit_tiff_keeps_its_upper_bits(tmp_path: Path, channels: int, photometric: int) -> None:
    values_HWC = DEEP[:, :, :channels]
    (tmp_path / "x.tif").write_bytes(deep_tiff(values_HWC, photometric))
    colour_HWC = (values_HWC >> 8).astype(np.uint8)
    expected = 255 - colour_HWC if photometric == 0 else colour_HWC  # 0: white is zero
    assert np.array_equal(read_image(tmp_path / "x.tif"), np.broadcast_to(expected, (20, 30, 3)))


@pytest.mark.parametrize(("dtype", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_pixels_without_a_range_are_explained(tmp_path: Path, dtype: Any, mode: str) -> None:
    path = saved(tmp_path / "x.tif", Image.fromarray(np.ones((4, 4), dtype)))
    with pytest.raises(
        DataError, match=rf"x\.tif has pixels of mode '{mode}', whose range is not known; save it with 8 bits"
    ):
        read_image(path)


@pytest.mark.parametrize("marker", ["adobe", "none"])
def test_inks_of_a_cmyk_jpeg_become_colours(tmp_path: Path, marker: str) -> None:
    """A JPEG's inks are inverted, whether or not Adobe's marker stands in the file."""
    buffer = io.BytesIO()
    inks = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    inks.save(buffer, "JPEG", quality=95)
    content = buffer.getvalue()
    place = content.index(b"\xff\xee\x00\x0eAdobe")
    if marker == "none":
        content = content[:place] + content[place + 16 :]
    (tmp_path / "x.jpg").write_bytes(content)
    image = read_image(tmp_path / "x.jpg")
    assert np.abs(image.astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("kind", ["RGBA", "P", "P, one colour", "L, one colour"])
def test_transparent_pixels_have_their_stored_colour(tmp_path: Path, kind: str) -> None:
    options: dict[str, Any]
    if kind == "RGBA":
        image, options = Image.new("RGBA", (4, 4), (10, 20, 30, 0)), {}
    elif kind == "L, one colour":
        image, options = Image.new("L", (4, 4), 10), {"transparency": 10}
    else:
        image, options = Image.new("P", (4, 4), 1), {"transparency": b"\xff\x00" if kind == "P" else 1}
        image.putpalette([0, 0, 0, 10, 20, 30])
    expected = [10, 10, 10] if image.mode == "L" else [10, 20, 30]
    assert (read_image(saved(tmp_path / "x.png", image, **options)) == expected).all()


def test_colour_profiles_are_left_out_of_account(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = read_image(saved(tmp_path / "x.png", Image.fromarray(PICTURE), icc_profile=profile))
    assert np.array_equal(image, PICTURE)


TURNS = {
    1: PICTURE,
    2: PICTURE[:, ::-1],
    3: PICTURE[::-1, ::-1],
    4: PICTURE[::-1],
    5: PICTURE.transpose(1, 0, 2),
    6: np.rot90(PICTURE, -1),
    7: np.rot90(PICTURE, 2).transpose(1, 0, 2),
    8: np.rot90(PICTURE),
}


@pytest.mark.parametrize("tag", TURNS)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_exif_rotation_is_applied(tmp_path: Path, tag: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    options = {"lossless": True} if suffix == ".webp" else {}
    image = read_image(saved(tmp_path / f"x{suffix}", Image.fromarray(PICTURE), exif=exif, **options))
    assert np.array_equal(image, TURNS[tag])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_exif_rotation_of_grey_images_and_masks(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    deep_HW = DEEP[:, :, 0]
    path = saved(tmp_path / f"x{suffix}", Image.fromarray(deep_HW), exif=exif)
    assert np.array_equal(read_image(path)[:, :, 0], np.rot90((deep_HW >> 8).astype(np.uint8), -1))
    path = saved(tmp_path / f"mask{suffix}", Image.fromarray(INDICES), exif=exif)
    assert np.array_equal(read_index_mask(path), np.rot90(INDICES, -1))
    assert np.array_equal(read_image(path)[:, :, 0], np.rot90(INDICES, -1))


def test_a_damaged_exif_block_does_not_cost_the_picture(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.jpg", Image.fromarray(PICTURE), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xffbroken")
    assert read_image(path).shape == (20, 30, 3)


@pytest.mark.parametrize(("suffix", "options"), [(".tif", {}), (".webp", {"lossless": True}), (".gif", {})])
def test_of_several_pages_the_first_is_read(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    pages = [Image.new("RGB", (6, 4), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    image = read_image(saved(tmp_path / f"x{suffix}", pages[0], save_all=True, append_images=pages[1:], **options))
    assert (image == [250, 0, 0]).all()
    assert image.shape == (4, 6, 3)


# --- damage ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read: it is empty"),
        (b"this is no image", "cannot be read: it is in no image format that Pillow knows"),
        (encoded("jpg")[:300], "cannot be read: .+"),
        (encoded("jpg")[:-30], "cannot be read: image file is truncated"),
        (encoded("png")[:-40], "cannot be read: .+"),
        (encoded("bmp")[:60], "cannot be read: .+"),
        (encoded("webp")[:80], "cannot be read: .+"),
        (encoded("tif")[:200], "cannot be read: .+"),
        (encoded("gif")[:-300], "cannot be read: .+"),
    ],
)
def test_damaged_files_are_explained(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"photo\.jpg {message}"):
        read_image(path)


def test_half_a_picture_is_refused_whatever_another_library_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    (tmp_path / "x.jpg").write_bytes(encoded("jpg")[:-200])
    with pytest.raises(DataError, match="truncated"):
        read_image(tmp_path / "x.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_is_explained(tmp_path: Path, read: Any) -> None:
    with pytest.raises(DataError, match=r"none\.png does not exist"):
        read(tmp_path / "none.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "none.png")
    with pytest.raises(DataError, match=r"link\.png does not exist"):
        read(tmp_path / "link.png")


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(DataError, match=r"x\.jpg cannot be read: .*directory"):
        read_image(tmp_path / "x.jpg")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(DataError, match=r"x\.jpg cannot be read: it is a pipe"):
        read_image(tmp_path / "x.jpg")


def test_a_file_without_permission_is_explained(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(PICTURE))
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # to whom permissions do not apply
            os.seteuid(65534)
        with pytest.raises(DataError, match=r"x\.png cannot be read: .*Permission denied"):
            read_image(path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("factor", [1.5, 3])
def test_a_decompression_bomb_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, read: Any
) -> None:
    """Pillow only warns up to twice its limit, and raises beyond."""
    path = saved(tmp_path / "x.png", Image.fromarray(PICTURE))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(600 / factor))
    with pytest.raises(
        DataError, match=r"x\.png cannot be read: it claims to be larger than \d+ pixels; scale it down"
    ):
        read(path)


@pytest.mark.parametrize("name", ["with space.png", "Über größe.png", "new\nline.png", "x" * 251 + ".png"])
def test_odd_names_are_read(tmp_path: Path, name: str) -> None:
    assert np.array_equal(read_image(saved(tmp_path / name, Image.fromarray(PICTURE))), PICTURE)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif", "gif"])
def test_files_with_wrong_bytes_raise_nothing_else(tmp_path: Path, suffix: str) -> None:
    """Whatever is wrong with a file, it is a DataError or a picture."""
    path, content, draw = tmp_path / "x", encoded(suffix), random.Random(0)
    for _ in range(120):
        damaged = bytearray(content[: len(content) if draw.random() < 0.7 else draw.randrange(len(content))])
        for place in [draw.randrange(min(len(damaged), 300)) for _ in range(draw.randint(1, 4)) if damaged]:
            damaged[place] = draw.randrange(256)
        path.write_bytes(damaged)
        for read in READERS:
            with contextlib.suppress(DataError):
                assert read(path).dtype == np.uint8


def test_whatever_pillow_stumbles_over_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(PICTURE).convert("L"))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: struct.unpack("<I", b""))
    with pytest.raises(DataError, match=r"x\.png cannot be read: unpack requires a buffer"):
        read_image(path)


# --- masks ---

INDICES = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("kind", ["L", "P", "I;16", "I", "RGB", "1"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_masks_of_indices(tmp_path: Path, kind: str, suffix: str) -> None:
    indices = INDICES % 2 if kind == "1" else INDICES
    if kind == "P":
        image = Image.fromarray(indices)
        image.putpalette([255 - n // 3 for n in range(768)])
    elif kind == "1":
        image = Image.fromarray(indices * 255).convert("1")
    elif kind == "RGB":
        image = Image.fromarray(indices).convert("RGB")
    else:
        image = Image.fromarray(indices.astype({"I;16": np.uint16, "I": np.int32}.get(kind, np.uint8)))
    assert image.mode == kind
    if (kind, suffix) == ("I", ".png"):
        pytest.skip("there is no PNG of 32 bits")
    mask = read_index_mask(saved(tmp_path / f"x{suffix}", image))
    assert mask.dtype == np.uint8
    assert mask.flags.c_contiguous
    assert np.array_equal(mask, indices)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "CMYK", "F"])
def test_other_masks_are_explained(tmp_path: Path, mode: str) -> None:
    message = rf"x\.tif is a '{mode}' image; an index mask is a grey or palette image whose pixel values are class"
    with pytest.raises(DataError, match=message):
        read_index_mask(saved(tmp_path / "x.tif", Image.fromarray(INDICES).convert(mode)))


@pytest.mark.parametrize("value", [256, 65535])
def test_a_deep_mask_of_larger_values_is_explained(tmp_path: Path, value: int) -> None:
    deep_HW = INDICES.astype(np.uint16)
    deep_HW[1, 2] = value
    message = rf"x\.png holds the value {value} at column 2, row 1; an index mask is .*, 255 for ignore"
    with pytest.raises(DataError, match=message):
        read_index_mask(saved(tmp_path / "x.png", Image.fromarray(deep_HW)))


def test_a_coloured_index_mask_is_explained(tmp_path: Path) -> None:
    colours = np.zeros((3, 4, 3), np.uint8)
    colours[1, 2] = (0, 128, 0)
    message = (
        r"x\.png holds colours, such as \[0, 128, 0\] at column 2, row 1; an index mask is .* Masks of colours are "
        "read by the data source 'segmentation/colour-masks'"
    )
    with pytest.raises(DataError, match=message):
        read_index_mask(saved(tmp_path / "x.png", Image.fromarray(colours)))


@pytest.mark.parametrize("read", [read_index_mask, read_colour_mask])
def test_a_jpeg_is_no_mask(tmp_path: Path, read: Any) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(INDICES), format="JPEG")
    message = r"x\.png is a JPEG, which changes pixel values .* export the mask as PNG"
    with pytest.raises(DataError, match=message):
        read(path)


@pytest.mark.parametrize("read", [read_index_mask, read_colour_mask])
@pytest.mark.parametrize(("content", "message"), [(None, "does not exist"), (b"no", "cannot be read: ")])
def test_missing_and_damaged_masks_are_explained(
    tmp_path: Path, content: bytes | None, message: str, read: Any
) -> None:
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"the mask .*x\.png {message}"):
        read(path)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1"])
def test_masks_of_colours(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)).convert(mode)
    colours = read_colour_mask(saved(tmp_path / "x.png", image))
    assert colours.dtype == np.uint8
    assert colours.tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_unusable_masks_of_colours_are_explained(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (1, 2, 3, 255))
    image.putpixel((3, 2), (1, 2, 3, 128))
    with pytest.raises(DataError, match=r"x\.png is transparent at column 3, row 2; .*save it without transparency"):
        read_colour_mask(saved(tmp_path / "x.png", image))
    with pytest.raises(DataError, match=r"y\.png is a 'I;16' image; a mask of colours is an 8-bit RGB or palette"):
        read_colour_mask(saved(tmp_path / "y.png", Image.fromarray(INDICES.astype(np.uint16))))
