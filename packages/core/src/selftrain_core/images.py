"""Reading image files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from selftrain_core.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return the picture as uint8 RGB [H, W, 3], turned upright by its EXIF tag; 16-bit grey keeps its upper 8 bits.

    Raises:
        DataError: The file is missing, empty, truncated, no image, of pixels without a known range, or so large that
            Pillow takes it for a decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return np.array(_eight_bits(ImageOps.exif_transpose(image), path).convert("RGB"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except UnidentifiedImageError as error:
        reason = "it is empty" if path.stat().st_size == 0 else "it is in no image format that Pillow knows"
        raise DataError(f"{path} cannot be read: {reason}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{path} cannot be read: it claims to be larger than {Image.MAX_IMAGE_PIXELS} pixels"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise on damaged files
        raise DataError(f"{path} cannot be read: {error}") from error


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    # Pillow's own conversion cuts every value above 255 down to 255: a 16-bit image would come out white.
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(f"{path} has pixels of mode '{image.mode}', whose range is not known; save it with 8 bits")
    return image


def read_index_mask(path: Path) -> NDArray[np.uint8]:
    """Return an index mask as uint8 [H, W]: an 8-bit grey or palette image whose pixel values are class indices.

    Raises:
        DataError: The file is missing or damaged, or holds colours instead of indices.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P"):
                raise DataError(
                    f"{path} is a '{image.mode}' image; an index mask is an 8-bit grey or palette image whose pixel "
                    "values are class indices, 255 for ignore"
                )
            return np.array(image)
    except FileNotFoundError as error:
        raise DataError(f"the mask {path} does not exist") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"the mask {path} cannot be read: {error}") from error
