"""The inputs of a model that takes rows of a table, as the Open Inference Protocol v2 has them.

Each column is an input of its own, named like the column and of shape (n) or (n, 1): numbers, BOOL, or BYTES, which are
text in UTF-8. Or one tensor of numbers (n, columns) holds all columns in the model's order. A value is missing where it
is NaN, empty BYTES, or null in JSON, which the protocol itself does not have.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from moiety_client.sidecar import tensors
from moiety_client.sidecar.messages import RequestInput, TensorMetadata
from moiety_client.sidecar.tensors import BYTES, DTYPES, refused
from moiety_shared.messages.table import Column, Tabular
from moiety_shared.tabular import Values

BOOL = "BOOL"
_KNOWN = ("kind", "low", "high", "outside", "unknown", "missing", "unit", "description")


def metadata(table: Tabular) -> tuple[TensorMetadata, ...]:
    """Describe an input for each column. The parameters are what the owner declares of it."""
    return tuple(
        TensorMetadata(name=column.name, datatype=_datatype(column), shape=(-1,), parameters=_parameters(column))
        for column in table.columns
    )


def _datatype(column: Column) -> str:
    if column.kind != "category":
        return "FP64"
    return "INT64" if all(isinstance(category, int) for category in column.categories) else BYTES


def _parameters(column: Column) -> dict[str, Any]:
    told = {name: getattr(column, name) for name in _KNOWN if getattr(column, name) not in (None, "")}
    return told | ({"categories": list(column.categories)} if column.categories else {})


def read(inputs: Sequence[RequestInput], binary: memoryview, table: Tabular) -> Any:
    """Read the inputs of a request into columns by name, or into one array (n, columns).

    Raises Problem, whose text never contains a value.
    """
    pieces = tensors.pieces(inputs, binary)
    names = {column.name for column in table.columns}
    only, rest = pieces[0]
    if len(inputs) == 1 and (only.name not in names or (len(only.shape) == 2 and only.shape[1] > 1)):
        if len(only.shape) != 2 or only.datatype == BYTES:
            raise refused("send an input for each column, named like it, or one tensor of numbers, n x columns")
        return values(only, rest).reshape(only.shape)
    for one in inputs:
        if len(one.shape) != 1 and (len(one.shape) != 2 or one.shape[1] != 1):
            raise refused(f"the input {one.name!r} is no column: its shape is n, or n x 1")
    return {one.name: values(one, piece) for one, piece in pieces}


def values(tensor: RequestInput, piece: memoryview) -> Values:
    """Read a tensor of numbers or texts, flat. Missing values are None, NaN or masked. Raises Problem."""
    if tensor.datatype not in (*DTYPES, BYTES, BOOL):
        raise refused(f"the datatype of {tensor.name!r} is none of {', '.join((*DTYPES, BYTES, BOOL))}")
    data = tensors.source(tensor, piece)
    if isinstance(data, memoryview):
        return _from_binary(tensor, data)
    flat = tensors.flat(data)
    if len(flat) != np.prod(tensor.shape, dtype=object):
        raise refused(f"{len(flat)} values of {tensor.name!r} do not fit the shape {tensors.sizes(tensor)}")
    kinds = {BYTES: str, BOOL: bool}.get(tensor.datatype, int if tensor.datatype[0] in "IU" else (int, float))
    is_number = tensor.datatype in DTYPES
    if not all(one is None or (isinstance(one, kinds) and not (is_number and isinstance(one, bool))) for one in flat):
        raise refused(f"the values of {tensor.name!r} are not all of type {tensor.datatype}")
    if not is_number:
        return _objects(flat)
    return _numbers(tensor, flat)


def _numbers(tensor: RequestInput, flat: list[Any]) -> Values:
    dtype, missing = DTYPES[tensor.datatype], [one is None for one in flat]
    try:
        with np.errstate(over="ignore"):
            values = np.array([0 if one is None else one for one in flat], dtype=dtype)
    except OverflowError:
        raise refused(f"the values of {tensor.name!r} do not all fit {tensor.datatype}") from None
    masked: Values = np.ma.array(values, mask=missing) if any(missing) else values
    return masked


def _from_binary(tensor: RequestInput, raw: memoryview) -> Values:
    if tensor.datatype == BYTES:
        try:
            return _objects([element.decode() for element in tensors.elements(tensor, raw)])
        except UnicodeDecodeError:
            raise refused(f"the BYTES of {tensor.name!r} are no text in UTF-8") from None
    if tensor.datatype == BOOL:
        flags = tensors.numbers(tensor, raw, np.dtype(np.uint8)).ravel()
        if flags.size and flags.max() > 1:
            raise refused(f"a BOOL of {tensor.name!r} is a byte 0 or 1")
        return flags.astype(np.bool_)
    return tensors.numbers(tensor, raw, DTYPES[tensor.datatype]).ravel()


def _objects(values: list[Any]) -> Values:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
