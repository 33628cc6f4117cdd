"""From a picture to the pixels that a model takes: its colours, its size, its cut. Pillow alone, so no torch is needed.

Done as torchvision's transforms do it, to the pixel, so that a model gets what it was trained on.
"""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from moiety_client.errors import InvalidInput
from moiety_shared.catalogue import Preprocessing

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
MAX_PIXELS = 50_000_000
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def read(file: Path | bytes, how: Preprocessing, formats: tuple[str, ...] = FORMATS) -> npt.NDArray[np.uint8]:
    """Pixels (height, width), or (height, width, 3), of a picture file or its content. Raises InvalidInput."""
    name = "this" if isinstance(file, bytes) else str(file)
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=formats) as picture:
            return fit(picture, how)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise InvalidInput(f"{name} cannot be opened ({error.strerror}): name a picture file that is there") from None
    except InvalidInput:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError):
        raise InvalidInput(f"{name} is no picture file that can be read: {', '.join(formats)} are") from None


def fit(picture: Image.Image, how: Preprocessing) -> npt.NDArray[np.uint8]:
    """Pixels (height, width), or (height, width, 3), of a picture. Raises InvalidInput."""
    if picture.width * picture.height > MAX_PIXELS:  # known from its header: nothing is unpacked yet
        raise InvalidInput(f"the picture has more than {MAX_PIXELS:,} pixels: make it smaller")
    upright = ImageOps.exif_transpose(picture)
    if upright.has_transparency_data:  # what shines through is paper
        paper = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(paper, upright.convert("RGBA"))
    coloured = upright.convert("RGB" if how.channels == 3 else "L")
    return np.asarray(_cut(_resized(coloured, how), how))


def _resized(picture: Image.Image, how: Preprocessing) -> Image.Image:
    height, width = how.size
    if how.resize is not None:  # the shorter side; the longer one in proportion, rounded down
        shorter = min(picture.size)
        width, height = (max(how.resize * side // shorter, 1) for side in picture.size)
    return picture if picture.size == (width, height) else picture.resize((width, height), _FILTERS[how.interpolation])


def _cut(picture: Image.Image, how: Preprocessing) -> Image.Image:
    """The middle of a picture that is at least as large."""
    height, width = how.size
    left, top = (round((has - wanted) / 2) for has, wanted in zip(picture.size, (width, height), strict=True))
    return picture if picture.size == (width, height) else picture.crop((left, top, left + width, top + height))
