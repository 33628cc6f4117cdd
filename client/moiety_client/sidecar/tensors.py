"""Turns the protocol's tensors, which are JSON lists or raw little-endian bytes, into numpy arrays and back."""

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_client.sidecar.messages import HEADER_LENGTH, RequestInput
from moiety_service.http.clients import whole_number
from moiety_shared.problems import Problem, ProblemType

DTYPES = {
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
BYTES = "BYTES"
_LENGTH = struct.Struct("<I")


def refused(what: str) -> Problem:
    """Return the problem that says why the sidecar refuses an input."""
    return Problem(ProblemType.INVALID_INPUT, what)


def cut(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    """Cut a request's body into its JSON and the binary tensors that follow the JSON. Raises Problem."""
    view = memoryview(body)
    if header_length is None:
        return view, view[:0]
    length = whole_number(header_length)
    if length is None or length > len(body):
        raise refused(f"{HEADER_LENGTH} is not a length that the body can have: set it to the length of the JSON")
    return view[:length], view[length:]


def read_all(tensors: Sequence[RequestInput], binary: memoryview) -> dict[str, npt.NDArray[Any]]:
    """Read a request's tensors into arrays, by name. Their binary parts follow one another. Raises Problem."""
    found: dict[str, npt.NDArray[Any]] = {}
    for tensor, piece in pieces(tensors, binary):
        values = read(tensor, piece)
        if isinstance(values, list):
            raise refused(f"the input {tensor.name!r}: send numbers, such as FP32, and no picture files")
        found[tensor.name] = values
    return found


def pieces(tensors: Sequence[RequestInput], binary: memoryview) -> list[tuple[RequestInput, memoryview]]:
    """Return each tensor with its part of the bytes behind the JSON. Raises Problem unless they have all of them."""
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise refused("two inputs have one name")
    found = []
    for tensor in tensors:
        size = tensor.parameters.get("binary_data_size", 0)
        if type(size) is not int or not 0 <= size <= len(binary):
            raise refused(f"the input {tensor.name!r}: binary_data_size does not match the bytes behind the JSON")
        found.append((tensor, binary[:size]))
        binary = binary[size:]
    if len(binary):
        raise refused(f"there are {len(binary)} bytes behind the JSON that no input claims by binary_data_size")
    return found


def read(tensor: RequestInput, binary: memoryview) -> npt.NDArray[Any] | list[bytes]:
    """Read a tensor of a request into an array of its shape, or the elements of a BYTES tensor into a list. `binary`
    are its bytes behind the JSON.

    Raises Problem, whose text never contains a value.
    """
    if tensor.datatype not in DTYPES and tensor.datatype != BYTES:
        raise refused(f"the datatype is not supported: use one of {', '.join((*DTYPES, BYTES))}")
    data = source(tensor, binary)
    if isinstance(data, list):
        return _from_json(tensor, data)
    return elements(tensor, data) if tensor.datatype == BYTES else numbers(tensor, data, DTYPES[tensor.datatype])


def source(tensor: RequestInput, binary: memoryview) -> list[Any] | memoryview:
    """Return where the data of a tensor are: the list in the JSON, or `binary`, its bytes behind the JSON.

    Raises Problem.
    """
    if "shared_memory_region" in tensor.parameters:
        raise refused("shared memory is not supported: send the data in the body")
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if len(binary):
            raise refused("there are bytes behind the JSON, but the input has no binary_data_size")
        if tensor.data is None:
            raise refused("the input has no data")
        return tensor.data
    if tensor.data is not None:
        raise refused("the input has data both in the JSON and behind it")
    if type(size) is not int or size != len(binary):
        raise refused(f"binary_data_size does not match the {len(binary)} bytes behind the JSON")
    return binary


def _from_json(tensor: RequestInput, data: list[Any]) -> npt.NDArray[Any] | list[bytes]:
    if tensor.datatype == BYTES:
        return _counted(tensor, [_from_base64(text) for text in flat(data)])
    dtype = DTYPES[tensor.datatype]
    try:
        given = np.asarray(data)
    except (ValueError, OverflowError):
        raise refused("the data do not form one array of numbers") from None
    if given.dtype.kind not in ("iu" if dtype.kind in "iu" else "iuf") and given.size:
        raise refused(f"the data are not all numbers of type {tensor.datatype}")
    with np.errstate(all="ignore"):
        array = given.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(array, given):
        raise refused(f"the data do not all fit {tensor.datatype}")
    return _shaped(tensor, array)


def numbers(tensor: RequestInput, binary: memoryview, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Read the bytes of a tensor of numbers into an array of its shape. Raises Problem."""
    if len(binary) != math.prod(tensor.shape) * dtype.itemsize:
        raise refused(f"{len(binary)} bytes do not fit the shape {sizes(tensor)} of {tensor.datatype}")
    return _shaped(tensor, np.frombuffer(binary, dtype=dtype))


def elements(tensor: RequestInput, binary: memoryview) -> list[bytes]:
    """Read the elements of a BYTES tensor. Raises Problem."""
    found, at = [], 0
    while at < len(binary):
        end = at + _LENGTH.size
        length = _LENGTH.unpack_from(binary, at)[0] if end <= len(binary) else len(binary)
        if end + length > len(binary):
            raise refused("an element of BYTES is cut short: put the length of each in 4 bytes before it")
        found.append(bytes(binary[end : end + length]))
        at = end + length
    return _counted(tensor, found)


def _shaped(tensor: RequestInput, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.size != math.prod(tensor.shape):
        raise refused(f"{array.size} values do not fit the shape {sizes(tensor)}")
    return array.reshape(tensor.shape)


def _counted(tensor: RequestInput, elements: list[bytes]) -> list[bytes]:
    if len(elements) != math.prod(tensor.shape):
        raise refused(f"{len(elements)} elements do not fit the shape {sizes(tensor)}")
    return elements


def flat(data: list[Any]) -> list[Any]:
    """Return the values of a list that may be nested."""
    while any(isinstance(element, list) for element in data):
        data = [part for element in data for part in (element if isinstance(element, list) else [element])]
    return data


def _from_base64(text: Any) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "?", validate=True)
    except (binascii.Error, ValueError):
        raise refused("an element of BYTES is not base64: encode each as a base64 string") from None


def sizes(tensor: RequestInput) -> str:
    """Return the shape of a tensor as text."""
    return " x ".join(map(str, tensor.shape)) or "one value"


def pack(values: npt.NDArray[Any]) -> bytes:
    """Return the bytes that follow the JSON, for an array of one of DTYPES or of texts."""
    if values.dtype.kind != "U":
        return values.tobytes()
    encoded = [text.encode() for text in values.ravel().tolist()]
    return b"".join(_LENGTH.pack(len(text)) + text for text in encoded)
