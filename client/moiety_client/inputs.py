"""From what people have to what the plan takes: encoded ring elements, a row for each input."""

import numpy as np
import numpy.typing as npt

from moiety_client.errors import InvalidInput
from moiety_shared import fixed_point
from moiety_shared.catalogue import Entry, Preprocessing
from moiety_shared.fixed_point import RingArray
from moiety_shared.plan import Plan

_STEP = 16


def encode(entry: Entry, images: npt.ArrayLike) -> RingArray:
    """uint8 arrays are pictures and get the model's own preprocessing; float arrays are the model's input as it is.

    One input or a stack of them. Raises InvalidInput, whose text never contains a value.
    """
    if entry.plan.input.classes:
        raise InvalidInput(f"model {entry.name!r} only counts right answers: call evaluate with images and labels")
    return _encode_inputs(entry, images)


def encode_labelled(entry: Entry, images: npt.ArrayLike, labels: npt.ArrayLike) -> RingArray:
    """The same for a private evaluation: each input is followed by the one-hot row of its label, an int below the
    number of classes."""
    classes = entry.plan.input.classes
    if not classes or entry.plan.output.kind != "count":
        raise InvalidInput(f"model {entry.name!r} is not published for evaluation: call predict")
    elements = _encode_inputs(entry, images)
    given = np.atleast_1d(np.asarray(labels))
    if given.dtype.kind not in "iu" or given.shape != (len(elements),):
        raise InvalidInput(f"pass one integer label for each of the {len(elements)} inputs")
    if given.min() < 0 or given.max() >= classes:
        raise InvalidInput(f"labels are classes from 0 to {classes - 1}")
    one_hot = given[:, None] == np.arange(classes)
    return np.concatenate((elements, one_hot.astype(elements.dtype)), axis=1)


def _encode_inputs(entry: Entry, images: npt.ArrayLike) -> RingArray:
    array = np.asarray(images)
    plan = entry.plan
    if array.dtype == np.uint8:
        if entry.preprocessing is None:
            raise InvalidInput(f"model {entry.name!r} has no preprocessing for pictures: pass its float input")
        return _encode_pictures(plan, entry.preprocessing, array)
    if array.dtype.kind not in "fiu":
        raise InvalidInput(f"pass uint8 pictures or float inputs, not {array.dtype}")
    return _encode(plan, _stacked(array, plan.input.shape))


def _encode(plan: Plan, array: npt.NDArray[np.generic]) -> RingArray:
    try:
        return fixed_point.encode(
            array,
            frac_bits=plan.input.frac_bits,
            ring_bits=plan.ring_bits,
            low=plan.input.low,
            high=plan.input.high,
        )
    except fixed_point.NotEncodable as error:
        raise InvalidInput(f"{error}: bring the input into the model's range") from None


def _encode_pictures(plan: Plan, how: Preprocessing, pictures: npt.NDArray[np.uint8]) -> RingArray:
    if how.channels == 1 and pictures.ndim in (3, 4) and pictures.shape[-1] == 1:
        pictures = pictures[..., 0]
    shape = how.size if how.channels == 1 else (*how.size, how.channels)
    stack = np.moveaxis(_pictures(pictures, shape), -1, 1) if how.channels > 1 else _pictures(pictures, shape)
    if stack[0].size != plan.input.size:
        raise InvalidInput("the catalogue entry's preprocessing does not make the model's input: tell its owner")
    # 256 values per channel: encode those once and look every pixel up.
    levels = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    mean, std = (np.array(values, dtype=np.float32) for values in (how.mean, how.std))
    table = _encode(plan, (levels - mean) / std)
    flat = stack.reshape(len(stack), how.channels, -1)
    encoded = np.empty(flat.shape, dtype=table.dtype)
    for channel in range(how.channels):
        column = np.ascontiguousarray(table[:, channel])
        for at in range(0, len(flat), _STEP):  # a few at a time: take's own copies of the indices stay small
            encoded[at : at + _STEP, channel] = column.take(flat[at : at + _STEP, channel], mode="clip")
    return encoded.reshape(len(stack), -1)


def _pictures(pictures: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    if pictures.shape == shape:
        pictures = pictures[None]
    if pictures.ndim != len(shape) + 1 or pictures.shape[1:] != shape or not len(pictures):
        raise InvalidInput(f"the model takes pictures of {' x '.join(map(str, shape))}, these are {_text(pictures)}")
    return pictures


def _stacked(array: npt.NDArray[np.generic], shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    if array.shape == shape:
        array = array[None]
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape or not len(array):
        raise InvalidInput(f"the model takes inputs of shape {' x '.join(map(str, shape))}, these are {_text(array)}")
    return array.reshape(len(array), -1)


def _text(array: npt.NDArray[np.generic]) -> str:
    return " x ".join(map(str, array.shape)) or "a single number"
