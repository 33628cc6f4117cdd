"""Turns picture files into what a model takes: its size and its colours."""

import numpy as np
import numpy.typing as npt

from moiety_client import pictures
from moiety_client.errors import InvalidInput
from moiety_client.sidecar.tensors import refused
from moiety_shared.messages.catalogue import Entry, Preprocessing

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def preprocessing(entry: Entry) -> Preprocessing:
    """Return how pictures become the model's input. Raises Problem if the model does not say."""
    if entry.preprocessing is None:
        raise refused("the model takes numbers, no pictures: send its input as FP32")
    return entry.preprocessing


def decode(raw: bytes, how: Preprocessing, *, invert: bool = False) -> npt.NDArray[np.uint8]:
    """Decode a picture file to pixels (height, width) or (height, width, 3). `invert` swaps dark and light.

    Raises Problem.
    """
    try:
        pixels = pictures.read(raw, how, FORMATS)
    except InvalidInput as error:
        raise refused(str(error)) from None
    return 255 - pixels if invert else pixels


def decode_all(files: list[bytes], entry: Entry) -> npt.NDArray[np.uint8]:
    """Decode the picture files of one request to pixels (n, height, width) or (n, height, width, 3).

    Raises Problem.
    """
    if len(files) > entry.max_rows:
        raise refused(f"at most {entry.max_rows} picture files in one request")
    if not files:
        raise refused("there is no picture file")
    how = preprocessing(entry)
    return np.stack([decode(raw, how) for raw in files])
