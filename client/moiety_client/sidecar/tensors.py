"""Turns the protocol's tensors, which are JSON lists or raw little-endian bytes, into numpy arrays and back."""

import base64
import binascii
import math
import struct
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
        raise refused(f"{HEADER_LENGTH} is not the length of the JSON at the body's start")
    return view[:length], view[length:]


def read(tensor: RequestInput, binary: memoryview) -> npt.NDArray[Any] | list[bytes]:
    """Read the only tensor of a request into an array of its shape, or the elements of a BYTES tensor into a list.

    Raises Problem, whose text never contains a value.
    """
    if tensor.datatype not in DTYPES and tensor.datatype != BYTES:
        raise refused(f"the datatype is none of {', '.join((*DTYPES, BYTES))}")
    if "shared_memory_region" in tensor.parameters:
        raise refused("shared memory is not taken: send the data in the body")
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if len(binary):
            raise refused("there are bytes behind the JSON that no input claims by binary_data_size")
        if tensor.data is None:
            raise refused("the input has no data")
        return _from_json(tensor, tensor.data)
    if tensor.data is not None:
        raise refused("the input has data in the JSON and behind it")
    if type(size) is not int or size != len(binary):
        raise refused(f"binary_data_size is not the {len(binary)} bytes behind the JSON")
    return _from_binary(tensor, binary)


def _from_json(tensor: RequestInput, data: list[Any]) -> npt.NDArray[Any] | list[bytes]:
    if tensor.datatype == BYTES:
        return _counted(tensor, [_from_base64(text) for text in _flat(data)])
    dtype = DTYPES[tensor.datatype]
    try:
        given = np.asarray(data)
    except (ValueError, OverflowError):
        raise refused("the data are not one array of numbers") from None
    if given.dtype.kind not in ("iu" if dtype.kind in "iu" else "iuf") and given.size:
        raise refused(f"the data are not all numbers of type {tensor.datatype}")
    with np.errstate(all="ignore"):
        array = given.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(array, given):
        raise refused(f"the data do not all fit {tensor.datatype}")
    return _shaped(tensor, array)


def _from_binary(tensor: RequestInput, binary: memoryview) -> npt.NDArray[Any] | list[bytes]:
    if tensor.datatype != BYTES:
        dtype = DTYPES[tensor.datatype]
        if len(binary) != math.prod(tensor.shape) * dtype.itemsize:
            raise refused(f"{len(binary)} bytes are not {_text(tensor)} of {tensor.datatype}")
        return _shaped(tensor, np.frombuffer(binary, dtype=dtype))
    elements, at = [], 0
    while at < len(binary):
        end = at + _LENGTH.size
        length = _LENGTH.unpack_from(binary, at)[0] if end <= len(binary) else len(binary)
        if end + length > len(binary):
            raise refused("an element of BYTES is cut short: each is preceded by its length in 4 bytes")
        elements.append(bytes(binary[end : end + length]))
        at = end + length
    return _counted(tensor, elements)


def _shaped(tensor: RequestInput, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.size != math.prod(tensor.shape):
        raise refused(f"{array.size} values are not the shape's {_text(tensor)}")
    return array.reshape(tensor.shape)


def _counted(tensor: RequestInput, elements: list[bytes]) -> list[bytes]:
    if len(elements) != math.prod(tensor.shape):
        raise refused(f"{len(elements)} elements are not the shape's {_text(tensor)}")
    return elements


def _flat(data: list[Any]) -> list[Any]:
    while any(isinstance(element, list) for element in data):
        data = [part for element in data for part in (element if isinstance(element, list) else [element])]
    return data


def _from_base64(text: Any) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "?", validate=True)
    except (binascii.Error, ValueError):
        raise refused("BYTES in JSON are texts of base64") from None


def _text(tensor: RequestInput) -> str:
    return " x ".join(map(str, tensor.shape)) or "one value"


def pack(values: npt.NDArray[Any]) -> bytes:
    """Return the bytes that follow the JSON, for an array of one of DTYPES or of texts."""
    if values.dtype.kind != "U":
        return values.tobytes()
    encoded = [text.encode() for text in values.ravel().tolist()]
    return b"".join(_LENGTH.pack(len(text)) + text for text in encoded)
