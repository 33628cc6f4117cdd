"""Turns a picture into the pixels that a model takes: its colours, its size, its middle. It needs Pillow, and no torch.

The pixels are exactly those of torchvision's transforms, so that a model gets what it was trained on. For that reason
the whole picture is resized before its middle is cut out: Pillow rounds differently when it resizes a part.

The client bounds what a picture may cost by its shape, before it unpacks any pixel. It bounds the picture's pixels, the
pixels after resizing, and how much longer than the model's input the picture may be.
"""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from moiety_client.errors import InvalidInput
from moiety_service import files
from moiety_shared.messages.catalogue import Preprocessing

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
MAX_PIXELS = 50_000_000  # the largest photographs of a telephone
MOST_MADE = 1 << 24  # pixels after resizing: 4096 x 4096, where models take 224 x 224
MOST_LONGER = 20  # times as long as what the model takes: it would see less than 1/20 of a longer picture
_BAND = 256  # rows at a time if a picture is transparent
_ORIENTATION, _TILE_WIDTH, _TILE_HEIGHT = 0x0112, 322, 323
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def read(file: Path | bytes, how: Preprocessing, formats: tuple[str, ...] = FORMATS) -> npt.NDArray[np.uint8]:
    """Return the pixels of a picture file, or of its content, as (height, width) or (height, width, 3).

    If the file has several frames, this reads the first. Raises InvalidInput.
    """
    name = "this" if isinstance(file, bytes) else str(file)
    try:
        with (
            io.BytesIO(file) if isinstance(file, bytes) else files.regular(file) as opened,
            Image.open(opened, formats=formats) as picture,
        ):
            return _fitted(picture, how)
    except InvalidInput:
        raise
    except UnidentifiedImageError:
        raise InvalidInput(f"{name} is not a picture file: pass {', '.join(formats)}") from None
    except OSError as error:
        if error.errno is None:  # Pillow raises it without a number for a file that is cut short or broken
            raise InvalidInput(f"{name} cannot be read as a picture: the file is damaged") from None
        raise InvalidInput(f"{name} cannot be opened ({error.strerror}): name an existing picture file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large() from None
    except Exception:  # Pillow's readers raise many kinds of exception for a broken header
        raise InvalidInput(f"{name} cannot be read as a picture: the file is damaged") from None


def fit(picture: Image.Image, how: Preprocessing) -> npt.NDArray[np.uint8]:
    """Return the pixels of a picture as (height, width) or (height, width, 3). Raises InvalidInput."""
    try:
        return _fitted(picture, how)
    except InvalidInput:
        raise
    except Exception as error:  # Pillow may read the picture's file only now
        raise InvalidInput(f"the picture cannot be read ({type(error).__name__}): it is damaged") from None


def _fitted(picture: Image.Image, how: Preprocessing) -> npt.NDArray[np.uint8]:
    tiles = getattr(picture, "tag_v2", {})  # a TIFF's tiles may be larger than the picture
    pixels = max(picture.width * picture.height, tiles.get(_TILE_WIDTH, 1) * tiles.get(_TILE_HEIGHT, 1))
    if pixels > MAX_PIXELS:  # the header says so: nothing is unpacked yet
        raise _too_large()
    if _is_long(picture.size, how) and _is_long(picture.size[::-1], how):
        raise _too_long(picture)
    upright = ImageOps.exif_transpose(picture) if picture.getexif().get(_ORIENTATION, 1) != 1 else picture
    if _is_long(upright.size, how):
        raise _too_long(upright)
    size = _resized_to(upright, how)
    coloured = _coloured(upright, "RGB" if how.channels == 3 else "L")
    resized = coloured if coloured.size == size else coloured.resize(size, _FILTERS[how.interpolation])
    return np.asarray(_cut(resized, how))


def _too_large() -> InvalidInput:
    return InvalidInput(f"the picture has more than {MAX_PIXELS:,} pixels: make it smaller")


def _is_long(size: tuple[int, int], how: Preprocessing) -> bool:
    """Whether a picture of this width and height is so long that the model would see next to nothing of it."""
    height, width = how.size
    across, down = size[0] * height, size[1] * width
    return not min(across, down) or max(across, down) > MOST_LONGER * min(across, down)


def _too_long(picture: Image.Image) -> InvalidInput:
    return InvalidInput(
        f"the picture has {picture.width:,} x {picture.height:,} pixels, more than {MOST_LONGER} times as long as what "
        "the model takes: cut out the part that the model needs"
    )


def _resized_to(picture: Image.Image, how: Preprocessing) -> tuple[int, int]:
    """Return the width and height to resize to. Raises InvalidInput if they would make too many pixels."""
    height, width = how.size
    if how.resize is not None:  # the shorter side; the longer one in proportion, rounded down
        shorter = min(picture.size)
        width, height = (max(how.resize * side // shorter, 1) for side in picture.size)
    if width * height > MOST_MADE:
        raise InvalidInput(
            f"the model wants the picture resized to {width:,} x {height:,}, more than {MOST_MADE:,} pixels: "
            "cut out the part that the model needs, and pass it as an array"
        )
    return width, height


def _coloured(picture: Image.Image, mode: str) -> Image.Image:
    if not picture.has_transparency_data:
        return picture if picture.mode == mode else picture.convert(mode)
    made = Image.new(mode, picture.size)
    for top in range(0, picture.height, _BAND):  # this makes four copies of each band
        band = picture.crop((0, top, picture.width, min(top + _BAND, picture.height))).convert("RGBA")
        paper = Image.new("RGBA", band.size, "white")  # white shows where the picture is transparent
        made.paste(Image.alpha_composite(paper, band).convert(mode), (0, top))
    return made


def _cut(picture: Image.Image, how: Preprocessing) -> Image.Image:
    """Cut the middle out of a picture that is at least as large as the model's input."""
    height, width = how.size
    left, top = (round((has - wanted) / 2) for has, wanted in zip(picture.size, (width, height), strict=True))
    return picture if picture.size == (width, height) else picture.crop((left, top, left + width, top + height))
