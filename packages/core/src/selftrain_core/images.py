"""Reading image files: photographs, and masks of class indices or colours."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from selftrain_core.errors import DataError
from selftrain_core.labels import IGNORE

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})

_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC = 258, 262


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return the picture as uint8 RGB [H, W, 3], turned upright by its EXIF tag.

    Of 16 bits the upper 8 are kept; of several pages or frames the first. Transparency and colour profiles are left
    out of account, as by other tools that train on images: a transparent pixel has the colour that is stored for it.

    Raises:
        DataError: The file is missing, empty, truncated, no image, of pixels without a known range, or so large that
            Pillow takes it for a decompression bomb.
    """
    return np.array(read_picture(path))


def read_picture(path: Path) -> Image.Image:
    """Return what `read_image` does as a Pillow image of mode RGB, which costs no copy.

    Raises:
        DataError: As `read_image`.
    """
    with _opened(path, "") as image:
        if image.mode in ("I", "F"):
            raise DataError(f"{path} has pixels of mode '{image.mode}', whose range is not known; save it with 8 bits")
        tags = getattr(image, "tag_v2", {})
        image.load()  # a file that breaks off is found here
        ImageOps.exif_transpose(image, in_place=True)
        upright = _eight_bits(image, tags)
        if upright.mode == "RGB":
            return upright
        if "transparency" in upright.info and upright.mode == "P":
            upright = upright.convert("RGBA")  # Pillow warns of the direct way
        return upright.convert("RGB")


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Image.Image]:
    """Give an opened image; whatever is wrong with the file is a `DataError` that calls it `what`."""
    try:
        _refuse_pipe(path, what)
        with warnings.catch_warnings(), _whole_files():
            warnings.simplefilter("ignore")  # of damaged metadata; the picture counts
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # A file, not its name: grey TIFF that Pillow maps from the disk by name, it turns wrongly by the EXIF tag.
            with path.open("rb") as file, Image.open(file) as image:
                yield image
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{what}{path} does not exist") from error
    except UnidentifiedImageError as error:
        reason = "it is empty" if path.stat().st_size == 0 else "it is in no image format that Pillow knows"
        raise DataError(f"{what}{path} cannot be read: {reason}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{what}{path} cannot be read: it claims to be larger than {Image.MAX_IMAGE_PIXELS} pixels; scale it down, "
            "or cut it into tiles"
        ) from error
    except Exception as error:  # Pillow's decoders let through whatever a damaged file makes them stumble over
        raise DataError(f"{what}{path} cannot be read: {str(error) or type(error).__name__}") from error


def _refuse_pipe(path: Path, what: str) -> None:
    if stat.S_ISFIFO(path.stat().st_mode):
        raise DataError(f"{what}{path} cannot be read: it is a pipe")  # opening it would wait for ever


@contextmanager
def _whole_files() -> Iterator[None]:
    """Have Pillow refuse truncated files, whatever another library told it: half a picture is grey, not empty."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _eight_bits(image: Image.Image, tiff_tags: Mapping[int, Any]) -> Image.Image:
    # Pillow's own conversion cuts every value above 255 down to 255: a 16-bit image would come out white.
    if not image.mode.startswith("I;16"):
        return image
    bits = int(np.max(tiff_tags.get(_TIFF_BITS_PER_SAMPLE, 16)))  # a camera's 12 bits come in 16, at the lower end
    grey_HW = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(~grey_HW if tiff_tags.get(_TIFF_PHOTOMETRIC) == 0 else grey_HW)  # 0: white is zero


def read_index_mask(path: Path) -> NDArray[np.uint8]:
    """Return an index mask as uint8 [H, W]: an image whose pixel values are class indices, 255 for ignore.

    Accepted are grey images of 1, 8, 16 or 32 bits whose values are at most 255, palette images (the palette's indices
    count, not its colours), and RGB images whose three channels are equal.

    Raises:
        DataError: The file is missing or damaged, a JPEG, or holds colours or larger values.
    """
    with _opened(path, "the mask ") as image:
        _refuse_lossy(image, path)
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in ("1", "L", "P", "I", "RGB") and not upright.mode.startswith("I;16"):
            raise DataError(f"{path} is a '{upright.mode}' image; {_INDEX_MASK}")
        values = np.array(upright)
    if values.ndim == 3:
        coloured = (values != values[:, :, :1]).any(2)
        if coloured.any():
            row, column = first_of(coloured)
            raise DataError(
                f"{path} holds colours, such as {values[row, column].tolist()} at column {column}, row {row}; "
                f"{_INDEX_MASK}. Masks of colours are read by the data source 'segmentation/colour-masks'"
            )
        values = values[:, :, 0]
    wrong = (values < 0) | (values > IGNORE)
    if wrong.any():
        row, column = first_of(wrong)
        raise DataError(
            f"{path} holds the value {int(values[row, column])} at column {column}, row {row}; {_INDEX_MASK}"
        )
    return np.ascontiguousarray(values.astype(np.uint8))


_INDEX_MASK = f"an index mask is a grey or palette image whose pixel values are class indices, {IGNORE} for ignore"


def read_colour_mask(path: Path) -> NDArray[np.uint8]:
    """Return a mask of colours as uint8 [H, W, 3]: an 8-bit image of any kind but JPEG, without transparency.

    Raises:
        DataError: The file is missing or damaged, a JPEG, of more bits, or transparent somewhere.
    """
    with _opened(path, "the mask ") as image:
        _refuse_lossy(image, path)
        if image.mode not in ("1", "L", "P", "RGB", "RGBA"):
            raise DataError(f"{path} is a '{image.mode}' image; a mask of colours is an 8-bit RGB or palette image")
        rgba_HW4 = np.array(ImageOps.exif_transpose(image).convert("RGBA"))
    transparent = rgba_HW4[:, :, 3] != 255
    if transparent.any():
        row, column = first_of(transparent)
        raise DataError(
            f"{path} is transparent at column {column}, row {row}; a pixel of a mask has one colour: save it without "
            "transparency"
        )
    return np.ascontiguousarray(rgba_HW4[:, :, :3])


def first_of(found_HW: NDArray[np.bool_]) -> tuple[int, int]:
    """Return row and column of the first true pixel."""
    row, column = np.unravel_index(int(found_HW.argmax()), found_HW.shape)
    return int(row), int(column)


def _refuse_lossy(image: Image.Image, path: Path) -> None:
    if image.format in ("JPEG", "MPO"):
        raise DataError(
            f"{path} is a JPEG, which changes pixel values when it is written: classes would be wrong along every "
            "outline; export the mask as PNG"
        )


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of what `read_image` returns, from the file's header: no pixel is decoded.

    The one exception is PNG that has its EXIF tags behind its pixels, which Pillow finds there only after decoding.

    Raises:
        DataError: The file is missing, empty, no image, or larger than Pillow trusts. Damaged pixels are not seen.
    """
    with _opened(path, "") as image:
        if isinstance(image, PngImagePlugin.PngImageFile) and not _has_tags_behind_pixels(path):
            exif = Image.Image.getexif(image)  # its own decodes the pixels first, in search of tags behind them
        else:
            exif = image.getexif()
        width, height = image.size
        # Pillow gives the size of TIFF as it is once turned.
        is_turned = image.format != "TIFF" and exif.get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
        return (width, height) if is_turned else (height, width)


_ON_ITS_SIDE = (5, 6, 7, 8)
"""The values of the EXIF tag that exchange width and height."""
_PNG_TAGS = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif")


def _has_tags_behind_pixels(path: Path) -> bool:
    """Return whether a PNG file has a chunk behind its pixels that may say how the picture is turned."""
    is_behind = False
    with path.open("rb") as file:
        file.seek(8)  # the signature
        while len(header := file.read(8)) == 8:
            length, kind = int.from_bytes(header[:4], "big"), header[4:]
            keyword = file.read(min(length, 32))
            if is_behind and (kind if kind == b"eXIf" else keyword.partition(b"\0")[0]) in _PNG_TAGS:
                return True
            is_behind = is_behind or kind == b"IDAT"
            file.seek(length - len(keyword) + 4, 1)  # the rest, and the checksum
    return False
