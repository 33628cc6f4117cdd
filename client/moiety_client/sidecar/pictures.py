"""Turns picture files into what a model takes: its size and its colours."""

from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_client import pictures, polarity
from moiety_client.errors import InvalidInput
from moiety_client.sidecar.tensors import refused
from moiety_shared.messages.catalogue import Entry, Preprocessing

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def preprocessing(entry: Entry) -> Preprocessing:
    """Return how pictures become the model's input. Raises Problem if the model does not say."""
    if not isinstance(entry.preprocessing, Preprocessing):
        raise refused("the model takes numbers, not pictures: send its input as FP32")
    return entry.preprocessing


def decode(raw: bytes, how: Preprocessing) -> npt.NDArray[np.uint8]:
    """Decode a picture file to pixels (height, width) or (height, width, 3). Raises Problem."""
    try:
        return pictures.read(raw, how, FORMATS)
    except InvalidInput as error:
        raise refused(str(error)) from None


def aligned(given: Any, entry: Entry) -> tuple[Any, int]:
    """Invert grey pictures that have another polarity than the model's owner declares. Returns how many those are.

    Other inputs stay as they are, and so do arrays of a size that the model does not take.
    """
    how = entry.preprocessing
    if (
        not isinstance(how, Preprocessing)
        or getattr(given, "dtype", None) != np.uint8
        or given.size % np.prod(how.size)
    ):
        return given, 0
    pixels, inverted = polarity.aligned(given.reshape(-1, *how.size), how) if how.channels == 1 else (given, 0)
    return pixels.reshape(given.shape), inverted


def decode_all(files: list[bytes], entry: Entry) -> npt.NDArray[np.uint8]:
    """Decode the picture files of one request to pixels (n, height, width) or (n, height, width, 3).

    Raises Problem.
    """
    if len(files) > entry.max_rows:
        raise refused(f"a request may hold at most {entry.max_rows} picture files")
    if not files:
        raise refused("there is no picture file")
    how = preprocessing(entry)
    return np.stack([decode(raw, how) for raw in files])
