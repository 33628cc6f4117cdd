"""Picture files become what a model takes: its size and its colours."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from moiety_client.sidecar.tensors import refused
from moiety_shared.catalogue import Entry, Preprocessing

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_MAX_PIXELS = 50_000_000


def preprocessing(entry: Entry) -> Preprocessing:
    """Raises Problem for a model that does not say how pictures become its input."""
    if entry.preprocessing is None:
        raise refused("the model takes numbers, no pictures: send its input as FP32")
    return entry.preprocessing


def decode(raw: bytes, how: Preprocessing, *, invert: bool = False) -> npt.NDArray[np.uint8]:
    """Pixels (height, width), or (height, width, 3). `invert` swaps dark and light. Raises Problem."""
    try:
        picture = Image.open(io.BytesIO(raw), formats=FORMATS)
        if picture.width * picture.height > _MAX_PIXELS:  # known from its header: nothing is unpacked yet
            raise refused(f"the picture has more than {_MAX_PIXELS:,} pixels")
        picture.load()
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError):
        raise refused(f"this is no picture file that can be read: {', '.join(FORMATS)} are") from None
    upright = ImageOps.exif_transpose(picture)
    if upright.has_transparency_data:  # what shines through is paper
        paper = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(paper, upright.convert("RGBA"))
    pixels = upright.convert("RGB" if how.channels == 3 else "L")
    height, width = how.size
    if pixels.size != (width, height):
        pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
    if invert:
        pixels = ImageOps.invert(pixels)
    return np.asarray(pixels)


def decode_all(files: list[bytes], entry: Entry) -> npt.NDArray[np.uint8]:
    """The same for the files of one request, stacked."""
    if len(files) > entry.max_rows:
        raise refused(f"at most {entry.max_rows} picture files in one request")
    if not files:
        raise refused("there is no picture file")
    how = preprocessing(entry)
    return np.stack([decode(raw, how) for raw in files])
