"""Turns what people have into what a model takes.

The client takes inputs in these forms:

numpy array, list of numbers     uint8 values are pixels of pictures, floats are the model's own input; one or a stack
torch tensor                     as an array; pixels may have their channels first, as torchvision reads them
PIL image, picture file          the client makes it fit, as the model's catalogue entry says
.npy file                        an array as above
dictionary, .npz file            the inputs of a model that takes several, by name: each an array as above
list, tuple, iterator            of any of these
DataFrame, dictionary, .csv ...  rows of a table, for a model that takes these: see `tables.py`
texts, ids of tokens, .txt ...   for a model that takes these: see `tokens.py`

A grey picture that has another polarity than the model's is inverted, with a warning.

`rows` turns them into an array with one input in each row. `encode_rows` turns the rows into ring elements: the whole
numbers that the client splits into shares.
"""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from moiety_client import named, polarity, ranges, tables, tokens
from moiety_client.errors import InvalidInput
from moiety_client.tables import TableRows
from moiety_client.tokens import TokenRows, Vocabulary
from moiety_service import files
from moiety_shared import fixed_point
from moiety_shared.fixed_point import RingArray
from moiety_shared.messages.catalogue import Entry, Preprocessing
from moiety_shared.parts import in_units
from moiety_shared.plan.plan import Plan
from moiety_shared.tabular import Others

_STEP = 16
_NPY, NPZ = ".npy", ".npz"
_Read = TypeVar("_Read")
_CHANGED = "the model takes other inputs now: pass what it takes"
Rows = npt.NDArray[Any] | TableRows | TokenRows
"""Pictures as uint8 (n, height, width) or (n, height, width, 3), numbers (n, *the plan's input shape), rows of a
table, or texts and ids. The numbers of a model with several inputs are in their own ranges still."""


def encode(entry: Entry, given: Any, others: Others = "strict") -> RingArray:
    """Encode one input or a stack of them as ring elements (n, input size).

    `given` has any of the forms that this module's text lists. `others` says what becomes of a table's columns that the
    model does not take. Raises InvalidInput, whose text never contains a value.
    """
    check_predicts(entry)
    return encode_rows(entry, rows(entry, given, others))


def labelled_rows(entry: Entry, given: Any, labels: Any, others: Others = "strict") -> tuple[Rows, Any]:
    """Turn inputs into rows, and return them with their labels.

    For a model of a table, `labels` may be the name of the column of `given` that holds them. Raises InvalidInput.
    """
    if entry.table is not None and isinstance(labels, str):
        found, truth = tables.read_with(entry.table, given, labels, others)
        return found, read_labels(truth.tolist(), entry.classes)
    return rows(entry, given, others), labels


def encode_labelled(
    entry: Entry, given: Rows, labels: npt.ArrayLike, vocabulary: Vocabulary | None = None
) -> RingArray:
    """Encode rows for a private evaluation as ring elements (n, input size + 1): each input, then its label.

    A label is an int below the number of classes, or a class's name. Raises InvalidInput.
    """
    classes = entry.plan.input.classes
    if not classes or entry.plan.output.kind != "count":
        raise InvalidInput(f"model {entry.name!r} is not published for evaluation: call predict")
    elements = encode_rows(entry, given, vocabulary=vocabulary)
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
    if given.dtype.kind == "O" and all(isinstance(label, str) for label in given.ravel().tolist()):
        given = given.astype(np.str_)
    if given.dtype.kind == "U" and entry.classes:
        index = {name: at for at, name in enumerate(entry.classes)}
        unknown = [name for name in given.ravel().tolist() if name not in index]
        if unknown:
            raise InvalidInput(f"a label is not one of the model's {len(index)} classes: see `model.classes`")
        given = np.array([index[name] for name in given.ravel().tolist()], dtype=np.int64).reshape(given.shape)
    if given.dtype.kind not in "iu" or given.shape != (count,):
        raise InvalidInput(f"pass one integer label for each of the {count} inputs")
    if given.min() < 0 or given.max() >= classes:
        raise InvalidInput(f"pass labels from 0 to {classes - 1}")
    return given.astype(np.int64)


def read_labels(labels: Sequence[Any], names: Sequence[str]) -> npt.NDArray[Any]:
    """Return labels as a file has them, texts or numbers, as names of classes where they are names, else as ints.

    Of classes that are numbers, such as 1 to 7, each label is the class of that number, and no place among them. Raises
    InvalidInput if there is no such class.
    """
    texts = [str(int(label)) if isinstance(label, bool) else str(label) for label in labels]
    if set(texts) <= set(names):
        return np.array(texts)
    numbers = {_number(name): name for name in names}
    if numbers and None not in numbers:
        found = [numbers.get(_number(text)) for text in texts]
        if None in found:
            raise InvalidInput(f"a label is not one of the model's {len(names)} classes: see `model.classes`")
        return np.array(found)
    whole = [text.strip().removesuffix(".0") for text in texts]
    return np.array(whole, dtype=np.int64) if all(map(str.isdecimal, whole)) else np.array(labels)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def is_lazy(given: Any) -> bool:
    """Whether `given` yields inputs one after another, as iterators and data loaders do, and may not fit in memory."""
    known = single(given) or hasattr(given, "__array__") or hasattr(given, "__getitem__")
    return not known and (hasattr(given, "__iter__") or hasattr(given, "__aiter__"))


def is_slow(given: Any) -> bool:
    """Whether the client reads files or resizes pictures to encode `given`."""
    if isinstance(given, list | tuple) and given:
        return any(map(is_slow, given[:_STEP]))
    return isinstance(given, str | Path) or _is_a("PIL.Image", "Image", given)


def single(given: Any) -> bool:
    """Whether `given` is one thing to read, and not a collection of things."""
    return isinstance(given, str | Path | np.ndarray | Mapping) or any(_is_a(*kind, given) for kind in _KINDS)


_KINDS = (("torch", "Tensor"), ("PIL.Image", "Image"))


def _is_a(module: str, name: str, given: Any) -> bool:
    """Whether `given` is of that class. The module is not imported: whoever made such an object has imported it."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(given, getattr(loaded, name))


# Anything -> rows


def rows(entry: Entry, given: Any, others: Others = "strict") -> Rows:
    """Turn one input or a stack of them into rows. `given` has any of the forms that this module's text lists.

    `others` says what becomes of a table's columns that the model does not take. Raises InvalidInput.
    """
    if hasattr(given, "__aiter__"):
        raise InvalidInput("only the predict and stream of AsyncClient take an asynchronous iterator: pass its items")
    if is_lazy(given):
        return together([next_rows(entry, one, others) for one in given])
    if entry.table is not None:
        return tables.read(entry.table, given, others)
    if entry.tokens is not None:
        return tokens.read(given)
    if isinstance(given, TableRows | TokenRows):
        raise InvalidInput(_CHANGED)
    if isinstance(given, list | tuple) and any(single(one) for one in given):
        return together([rows(entry, one) for one in given])
    parts = entry.plan.input.parts
    if isinstance(given, Mapping):
        if not parts:
            raise InvalidInput(f"model {entry.name!r} takes one input: pass it as an array, not dict")
        return named.flat_rows(parts, given, lambda one: _loaded(entry, one), _stacked)
    if isinstance(given, str | Path) and Path(given).suffix.lower() == NPZ:
        return rows(entry, _array_file(Path(given), files.arrays))
    array = _loaded(entry, given)
    if parts:
        return named.check_flat(parts, array)
    if array.dtype == np.uint8:
        return _pictures(_preprocessing(entry), array, channels_first=_is_a("torch", "Tensor", given))
    if array.dtype.kind not in "fiu":
        raise InvalidInput(f"pass uint8 pictures or float inputs, not {_kind(array, given)}")
    return _stacked(ranges.forgiven(array, given, entry.plan.input), entry.plan.input.shape)


def next_rows(entry: Entry, item: Any, others: Others = "strict") -> Rows:
    """Turn what an iterator yields into rows: an input or a stack of them. Raises InvalidInput for a pair (x, y)."""
    if isinstance(item, list | tuple) and len(item) > 1 and _is_pair(item, of_table=entry.table is not None):
        raise InvalidInput(
            "the iterator yields pairs such as (x, y), as data loaders do: pass x alone, as in (x for x, y in loader)"
        )
    return rows(entry, item, others)


def _is_pair(item: Sequence[Any], *, of_table: bool) -> bool:
    """Whether these are inputs and their labels, and not inputs one after another."""
    kinds = {_kind_of(one) for one in item}
    if len(item) == 2 and all(map(_is_array, item)):
        return True
    if len(kinds) > 1 and any(kind != "row" for kind in kinds):
        return not of_table or "frame" in kinds or any(map(_is_array, item))
    return False


def _kind_of(given: Any) -> str:
    if _is_array(given):
        return f"array {tuple(given.shape)}"
    if _is_a("pandas", "DataFrame", given):
        return "frame"
    return "file" if single(given) else "row"


def _is_array(given: Any) -> bool:
    return isinstance(given, np.ndarray) or _is_a("torch", "Tensor", given)


def index(given: Rows | None) -> Any:
    """Return the index of the DataFrame that rows came from, or None."""
    return given.index if isinstance(given, TableRows) else None


def together(parts: Sequence[Rows]) -> Rows:
    """Join rows of one kind into one. Raises InvalidInput if pictures and numbers are mixed, or there are none."""
    if not parts:
        raise InvalidInput("there are no inputs: pass one at least")
    named = [part for part in parts if isinstance(part, TableRows)]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if named:
        return TableRows.joined(named)
    if not arrays:
        return TokenRows.joined([part for part in parts if isinstance(part, TokenRows)])
    if len({part.dtype == np.uint8 for part in arrays}) > 1:
        raise InvalidInput("uint8 pictures and float inputs are mixed: pass either kind alone")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _loaded(entry: Entry, given: Any) -> npt.NDArray[Any]:
    if isinstance(given, str | Path):
        path = Path(given)
        if path.suffix.lower() == _NPY:
            return _array_file(path, files.array)
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
        raise InvalidInput(
            "the inputs do not all have the same shape: pass them one by one, or give them the same shape"
        ) from None


def _array_file(path: Path, read: Callable[[Path], _Read]) -> _Read:
    try:
        return read(path)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read as a {path.suffix} file: {error.strerror}") from None
    except ValueError as error:
        raise InvalidInput(f"{path} cannot be read as a {path.suffix} file: {error}") from None


def _preprocessing(entry: Entry) -> Preprocessing:
    if not isinstance(entry.preprocessing, Preprocessing):
        raise InvalidInput(f"model {entry.name!r} does not take pictures: pass float inputs")
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
            f"the model takes pictures of {' x '.join(map(str, shape))}, but got {_text(array)}: pass "
            "PIL images or picture files, which the client resizes, or arrays of that shape"
        )
    array, inverted = polarity.aligned(array, how)
    if inverted:
        warnings.warn(polarity.told(inverted, how), stacklevel=2)
    return array


def _stacked(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
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
    raise InvalidInput(f"the model takes inputs of shape {' x '.join(map(str, shape))}, but got {_text(array)}")


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _text(array: npt.NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape)) or "a single number"


def _kind(array: npt.NDArray[Any], given: Any) -> str:
    return type(given).__name__ if array.dtype == object else str(array.dtype)


# Rows -> ring elements


def encode_rows(entry: Entry, given: Rows, start: int = 0, vocabulary: Vocabulary | None = None) -> RingArray:
    """Encode what `rows` made as ring elements (n, input size).

    `start` is the place of the first row among all inputs of a call, for the errors. `vocabulary` is that of a model
    that takes ids. Raises InvalidInput.
    """
    if isinstance(given, TableRows) and entry.table is not None:
        return given.encode(entry.table, entry.plan, start)
    if isinstance(given, TokenRows) and vocabulary is not None:
        return vocabulary.encode(given, entry.plan, start)
    if isinstance(given, TableRows | TokenRows):
        raise InvalidInput(_CHANGED)
    if given.dtype == np.uint8:
        return _encode_pictures(entry.plan, _preprocessing(entry), given)
    array = given.reshape(len(given), -1)
    if not entry.plan.input.parts:  # each of several inputs has a range of its own
        ranges.check(entry, array, start)
    return _encode(entry.plan, array)


def _encode(plan: Plan, array: npt.NDArray[np.generic]) -> RingArray:
    try:
        if plan.input.parts:
            array = in_units(plan.input.parts, array, grace=0.5 * 2.0**-plan.input.frac_bits)
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
        raise InvalidInput("the model takes pictures of another size now: pass them again")
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
