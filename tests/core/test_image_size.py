"""The size of an image, from its header."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile, PngImagePlugin

from selftrain_core.errors import DataError
from selftrain_core.images import image_size, read_image
from selftrain_core.testing.samples import picture

PICTURE = Image.fromarray(picture((20, 30), 1))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_is_that_of_the_upright_picture(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a.{suffix}"
    PICTURE.save(path, exif=exif(orientation))
    assert image_size(path) == read_image(path).shape[:2] == ((30, 20) if orientation >= 5 else (20, 30))


@pytest.mark.parametrize(
    ("suffix", "mode"), [("gif", "P"), ("bmp", "RGB"), ("tiff", "I;16"), ("png", "1"), ("png", "LA")]
)
def test_of_other_kinds_of_images(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"a.{suffix}"
    (Image.new("I;16", (30, 20)) if mode == "I;16" else PICTURE.convert(mode)).save(path)
    assert image_size(path) == read_image(path).shape[:2] == (20, 30)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
BEHIND = {
    "exif": chunk(b"eXIf", exif(6).tobytes()[6:]),
    "xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "comment": chunk(b"tEXt", b"Comment\0" + b"Orientation " * 100),
}


@pytest.mark.parametrize("kind", BEHIND)
def test_tags_behind_the_pixels_of_png_count(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    PICTURE.save(path)
    end = chunk(b"IEND", b"")
    path.write_bytes(path.read_bytes().removesuffix(end) + BEHIND[kind] + end)
    assert image_size(path) == read_image(path).shape[:2] == ((20, 30) if kind == "comment" else (30, 20))


@pytest.mark.parametrize("options", [{"exif": exif(6)}, {"pnginfo": PngImagePlugin.PngInfo()}, {}])
def test_decodes_no_pixel(tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 megapixels."""
    paths = [tmp_path / f"a.{suffix}" for suffix in ("png", "jpg", "tif")]
    for path in paths:
        Image.new("L", (8000, 5000)).save(path, **({} if "pnginfo" in options and path.suffix != ".png" else options))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it decodes"))
    sizes = {image_size(path) for path in paths}
    assert sizes == ({(8000, 5000)} if "exif" in options else {(5000, 8000)})


def test_a_file_that_breaks_off_has_a_size(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    PICTURE.save(path)
    path.write_bytes(path.read_bytes()[:60])
    assert image_size(path) == (20, 30)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"a\.png does not exist"),
        (b"", r"a\.png cannot be read: it is empty"),
        (b"hello", r"a\.png cannot be read: it is in no image format that Pillow knows"),
        (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", b""),
            r"a\.png cannot be read: it claims to be larger than \d+ pixels",
        ),
    ],
    ids=["missing", "empty", "text", "bomb"],
)
def test_unusable_files_are_explained(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=message):
        image_size(tmp_path / "a.png")
