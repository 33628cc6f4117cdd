"""Turns what people have into what a model takes.

The client takes inputs in these forms:

numpy array, list of numbers     uint8 values are pixels of pictures, floats are the model's own input; one or a stack
torch tensor                     as an array; pixels may have their channels first, as torchvision reads them
PIL image, picture file          the client makes it fit, as the model's catalogue entry says
.npy file                        an array as above
list, tuple, iterator            of any of these

`rows` turns them into an array with one input in each row. `encode_rows` turns the rows into ring elements: the whole
numbers that the client splits into shares.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_client.errors import InvalidInput
from moiety_service import files
from moiety_shared import fixed_point
from moiety_shared.fixed_point import RingArray
from moiety_shared.messages.catalogue import Entry, Preprocessing
from moiety_shared.plan.plan import Plan

_STEP = 16
_NPY = ".npy"
Rows = npt.NDArray[Any]
"""Pictures as uint8 (n, height, width) or (n, height, width, 3), or numbers (n, *the plan's input shape)."""


def encode(entry: Entry, given: Any) -> RingArray:
    """Encode one input or a stack of them as ring elements (n, input size).

    `given` has any of the forms that this module's text lists. Raises InvalidInput, whose text never contains a value.
    """
    check_predicts(entry)
    return encode_rows(entry, rows(entry, given))


def encode_labelled(entry: Entry, given: Any, labels: npt.ArrayLike) -> RingArray:
    """Encode inputs for a private evaluation as ring elements (n, input size + 1): each input, then its label.

    A label is an int below the number of classes, or a class's name. Raises InvalidInput.
    """
    classes = entry.plan.input.classes
    if not classes or entry.plan.output.kind != "count":
        raise InvalidInput(f"model {entry.name!r} is not published for evaluation: call predict")
    elements = encode_rows(entry, rows(entry, given))
    indices = label_indices(entry, labels, len(elements), classes)[:, None]
    return np.concatenate((elements, indices.astype(elements.dtype)), axis=1)


def check_predicts(entry: Entry) -> None:
    """Raise InvalidInput if the model only counts, and so says nothing about single inputs."""
    if entry.plan.input.classes:
        raise InvalidInput(f"model {entry.name!r} only counts right answers: call evaluate with images and labels")


def label_indices(entry: Entry, labels: npt.ArrayLike, count: int, classes: int) -> npt.NDArray[np.int64]:
    """Return `count` labels as ints. Each is given as an int below `classes` or as a class's name.

    Raises InvalidInput.
    """
    given = np.atleast_1d(np.asarray(_as_array(labels)))
    if given.dtype.kind == "U" and entry.classes:
        index = {name: at for at, name in enumerate(entry.classes)}
        unknown = [name for name in given.ravel().tolist() if name not in index]
        if unknown:
            raise InvalidInput(f"a label is none of the model's {len(index)} classes: see `model.classes`")
        given = np.array([index[name] for name in given.ravel().tolist()], dtype=np.int64).reshape(given.shape)
    if given.dtype.kind not in "iu" or given.shape != (count,):
        raise InvalidInput(f"pass one integer label for each of the {count} inputs")
    if given.min() < 0 or given.max() >= classes:
        raise InvalidInput(f"labels are classes from 0 to {classes - 1}")
    return given.astype(np.int64)


def is_lazy(given: Any) -> bool:
    """Whether `given` yields inputs one after another, as iterators and data loaders do, and may not fit in memory."""
    known = single(given) or hasattr(given, "__array__") or hasattr(given, "__getitem__")
    return not known and (hasattr(given, "__iter__") or hasattr(given, "__aiter__"))


def is_slow(given: Any) -> bool:
    """Whether the client reads files or resizes pictures to encode `given`."""
    if isinstance(given, list | tuple) and given:
        return any(map(is_slow, given))
    return isinstance(given, str | Path) or _is_a("PIL.Image", "Image", given)


def single(given: Any) -> bool:
    """Whether `given` is one thing to read, and not a collection of things."""
    return isinstance(given, str | Path | np.ndarray) or any(_is_a(*kind, given) for kind in _KINDS)


_KINDS = (("torch", "Tensor"), ("PIL.Image", "Image"))


def _is_a(module: str, name: str, given: Any) -> bool:
    """Whether `given` is of that class. The module is not imported: whoever made such an object has imported it."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(given, getattr(loaded, name))


# Anything -> rows


def rows(entry: Entry, given: Any) -> Rows:
    """Turn one input or a stack of them into rows. `given` has any of the forms that this module's text lists.

    Raises InvalidInput.
    """
    if hasattr(given, "__aiter__"):
        raise InvalidInput("an asynchronous iterator is for the predict and stream of AsyncClient: pass its items")
    if is_lazy(given):
        given = list(given)
    if isinstance(given, list | tuple) and any(single(one) for one in given):
        return together([rows(entry, one) for one in given])
    array = _loaded(entry, given)
    if array.dtype == np.uint8:
        return _pictures(_preprocessing(entry), array, channels_first=_is_a("torch", "Tensor", given))
    if array.dtype.kind not in "fiu":
        raise InvalidInput(f"pass uint8 pictures or float inputs, not {_kind(array, given)}")
    return _stacked(array, entry.plan.input.shape)


def together(parts: Sequence[Rows]) -> Rows:
    """Join rows of one kind into one array. Raises InvalidInput if pictures and numbers are mixed."""
    if len({part.dtype == np.uint8 for part in parts}) > 1:
        raise InvalidInput("uint8 pictures and float inputs are mixed: pass one kind")
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _loaded(entry: Entry, given: Any) -> npt.NDArray[Any]:
    if isinstance(given, str | Path):
        path = Path(given)
        if path.suffix.lower() == _NPY:
            return _array_file(path)
        from moiety_client import pictures  # only the `client` extra installs Pillow, and arrays do not need it

        return pictures.read(path, _preprocessing(entry))
    if _is_a("PIL.Image", "Image", given):
        from moiety_client import pictures

        return pictures.fit(given, _preprocessing(entry))
    return _as_array(given)


def _as_array(given: Any) -> npt.NDArray[Any]:
    if _is_a("torch", "Tensor", given):
        tensor = given.detach().cpu()
        # numpy has no bfloat16.
        return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())
    try:
        return np.asarray(given)
    except ValueError:
        raise InvalidInput("the inputs are not all of one shape: pass them one by one, or make them alike") from None


def _array_file(path: Path) -> npt.NDArray[Any]:
    try:
        return files.array(path)
    except OSError as error:
        raise InvalidInput(f"{path} is no .npy file that can be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidInput(f"{path} is no .npy file that can be read: {error}") from None


def _preprocessing(entry: Entry) -> Preprocessing:
    if entry.preprocessing is None:
        raise InvalidInput(f"model {entry.name!r} has no preprocessing for pictures: pass its float input")
    return entry.preprocessing


def _pictures(how: Preprocessing, array: npt.NDArray[np.uint8], *, channels_first: bool) -> Rows:
    grey = how.channels == 1
    if channels_first and array.ndim > 2 and array.shape[-3] == how.channels:
        array = np.moveaxis(array, -3, -1)
    if grey and array.ndim in (3, 4) and array.shape[-1] == 1:
        array = array[..., 0]
    shape = how.size if grey else (*how.size, how.channels)
    if array.shape == shape:
        array = array[None]
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape or not len(array):
        raise InvalidInput(
            f"the model takes pictures of {' x '.join(map(str, shape))}, these are {_text(array)}: "
            "PIL images and picture files are made to fit, arrays are taken as they are"
        )
    return array


def _stacked(array: npt.NDArray[Any], shape: tuple[int, ...]) -> Rows:
    """Give an array the model's input shape, with one input or a stack of them.

    An input may lack axes of length one, or have more of them. If the model takes a flat input, an input may have any
    shape of that size.
    """
    if array.shape == shape:
        return array[None]
    if array.ndim and len(array):
        own, wanted = _long(array.shape[1:]), _long(shape)
        flat = len(shape) == 1 and np.prod(array.shape[1:]) == shape[0]
        if own == wanted or flat:
            return array.reshape(len(array), *shape)
        if _long(array.shape) == wanted or (len(shape) == 1 and array.size == shape[0]):
            return array.reshape(1, *shape)
    raise InvalidInput(f"the model takes inputs of shape {' x '.join(map(str, shape))}, these are {_text(array)}")


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _text(array: npt.NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape)) or "a single number"


def _kind(array: npt.NDArray[Any], given: Any) -> str:
    return type(given).__name__ if array.dtype == object else str(array.dtype)


# Rows -> ring elements


def encode_rows(entry: Entry, given: Rows) -> RingArray:
    """Encode what `rows` made as ring elements (n, input size). Raises InvalidInput."""
    if given.dtype == np.uint8:
        return _encode_pictures(entry.plan, _preprocessing(entry), given)
    return _encode(entry.plan, given.reshape(len(given), -1))


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
    stack = np.moveaxis(pictures, -1, 1) if how.channels > 1 else pictures
    if stack[0].size != plan.input.size:
        raise InvalidInput("the catalogue entry's preprocessing does not make the model's input: tell its owner")
    # A channel has 256 possible values: encode each once, then look up every pixel.
    levels = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    mean, std = (np.array(values, dtype=np.float32) for values in (how.mean, how.std))
    table = _encode(plan, (levels - mean) / std)
    flat = stack.reshape(len(stack), how.channels, -1)
    encoded = np.empty(flat.shape, dtype=table.dtype)
    for channel in range(how.channels):
        column = np.ascontiguousarray(table[:, channel])
        for at in range(0, len(flat), _STEP):  # few at a time: `take` copies its indices, and the copy stays small
            encoded[at : at + _STEP, channel] = column.take(flat[at : at + _STEP, channel], mode="clip")
    return encoded.reshape(len(stack), -1)
