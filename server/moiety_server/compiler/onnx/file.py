"""An ONNX file as data. It is bounded before it is parsed, and checked as a whole before `onnx` works on any of it.

A model comes from strangers, and the owner's keys are on this disk. An ONNX tensor may say that its values are in
another file, by name, wherever a tensor may stand; the library reads that file when it evaluates the tensor. So this
module finds every tensor first. Only an initializer of the graph may lie elsewhere, as torch.onnx.export writes it by
default: in a file in the model's own folder. This module reads that file, not the library.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx.inliner
from google.protobuf.message import Message
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, TrainingInfoProto

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.onnx import wire
from moiety_server.compiler.origin import shown, without_paths
from moiety_service import files

_LARGEST = 2 << 30  # bytes: what a protobuf message can hold
_LARGEST_BESIDE = 4 << 30  # bytes of all data files together: a thousand million float32, which no party could serve
_MOST_NODES = 20_000  # with functions written out; a plan has at most 10,000 layers
_MOST_CALLED = 1 << 26  # bytes of functions written out: they hold nodes, hardly a tensor
_MOST_AXES = 64  # numpy's own limit
_DEEPEST = 64  # functions that call one another: modules inside of modules
_SAVE = "Instead: save the model as one file, or its initializers in a file beside it"

# For each type of number: its bits, and the field that holds the numbers where raw_data does not.
_KINDS: dict[int, tuple[int, str]] = {
    TensorProto.FLOAT: (32, "float_data"),
    TensorProto.DOUBLE: (64, "double_data"),
    TensorProto.INT64: (64, "int64_data"),
    TensorProto.UINT64: (64, "uint64_data"),
    TensorProto.UINT32: (32, "uint64_data"),
    TensorProto.INT32: (32, "int32_data"),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16), (16, "int32_data")),
    **dict.fromkeys((TensorProto.INT16, TensorProto.UINT16), (16, "int32_data")),
    **dict.fromkeys((TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL), (8, "int32_data")),
    **dict.fromkeys((TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2), (8, "int32_data")),
    **dict.fromkeys((TensorProto.INT4, TensorProto.UINT4), (4, "int32_data")),
}


@dataclass(frozen=True)
class File:
    """`model` has its functions written out, and in place of each initializer an input of its type and shape.
    `initializers` are the tensors, by name. `elements` is how many numbers all tensors of the file hold."""

    model: ModelProto
    initializers: Mapping[str, TensorProto]
    elements: int


def read(path: Path) -> File:
    """Read a model. Raises NotServable, in one line, for a file that is no readable model."""
    name = shown(path.name)
    try:
        content = files.content(path, _LARGEST)
        wire.check(content, ModelProto.DESCRIPTOR)
        model = ModelProto.FromString(content)
    except OSError as error:
        raise NotServable(f"{name}: cannot be read: {error.strerror}") from None
    except wire.TooMuch as error:
        raise NotServable(f"{name}: {error}") from None
    except files.TooLarge as error:
        raise NotServable(f"{name}: {error}") from None
    except Exception:  # protobuf's own, whose name differs between its versions
        raise NotServable(f"{name}: is not a valid ONNX file") from None
    del content
    try:
        return _checked(model, path.parent)
    except NotServable as error:
        raise NotServable(f"{name}: {error}") from None


def _checked(model: ModelProto, folder: Path) -> File:
    elements = 0
    for owner, tensor in _tensors(model):
        if owner and _is_elsewhere(tensor):
            where = shown(_location(tensor))
            raise NotServable(
                f"the tensor {shown(tensor.name)} of {owner} keeps its values in another file, {where}. {_SAVE}"
            )
        elements += _elements(tensor)
    _check_calls(model)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    if len(initializers) < len(model.graph.initializer):
        raise NotServable("has two initializers of the same name")
    initializers |= _beside(folder, [tensor for tensor in initializers.values() if _is_elsewhere(tensor)])
    declared = {info.name for info in model.graph.input}
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
        for name, tensor in initializers.items()
        if name not in declared
    )
    del model.graph.initializer[:], model.training_info[:]
    try:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        onnx.checker.check_model(model)
    except Exception as error:  # the inliner's and the checker's have no common class
        raise NotServable(f"is not a valid ONNX file: {without_paths(str(error))}") from None
    return File(model, initializers, elements)


# Tensors


def _tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Yield every tensor anywhere, with its owner's name for messages. An initializer of the graph has no owner."""
    yield from (("", tensor) for tensor in model.graph.initializer)
    pending = [("the graph", part) for part in _parts(model.graph, but="initializer")]
    pending += [("the model", part) for part in _parts(model, but="graph")]
    while pending:
        owner, message = pending.pop()
        match message:
            case TensorProto():
                yield owner, message
                continue
            case NodeProto():
                label = message.name or next(iter(message.output), "")
                owner = f"the node {shown(label)} ({shown(message.op_type)})"
            case FunctionProto():
                owner = f"the function {shown(message.name)}"
            case TrainingInfoProto():
                owner = "the training information"
        pending += [(owner, part) for part in _parts(message)]


def _parts(message: Message, but: str = "") -> Iterator[Message]:
    """Yield the messages directly inside this one, except those in the field `but`."""
    for field, value in message.ListFields():
        if field.message_type is not None and field.name != but:
            yield from (value,) if isinstance(value, Message) else value


def _is_elsewhere(tensor: TensorProto) -> bool:
    return bool(tensor.data_location != TensorProto.DEFAULT or len(tensor.external_data))


def _elements(tensor: TensorProto) -> int:
    """Count the tensor's numbers. Raises NotServable unless it holds as many as its shape states. Texts count as
    none."""
    if len(tensor.dims) > _MOST_AXES:  # check this first: a product of a million sizes takes hours
        raise NotServable(f"the tensor {shown(tensor.name)} has {len(tensor.dims)} dimensions, more than {_MOST_AXES}")
    if tensor.data_type not in _KINDS:
        return 0
    count = math.prod(int(n) for n in tensor.dims)
    if _is_elsewhere(tensor):
        return count
    bits, field = _KINDS[tensor.data_type]
    stated, held = _bytes(tensor), len(tensor.raw_data)
    if not tensor.HasField("raw_data"):
        stated, held = (count + 1) // 2 if bits == 4 else count, len(getattr(tensor, field))
    if min(tensor.dims, default=0) < 0 or stated != held:
        raise NotServable(
            f"the tensor {shown(tensor.name)} does not hold as many numbers as its shape {_shape(tensor)}"
        )
    return count


def _bytes(tensor: TensorProto) -> int:
    """Return the bytes of the tensor's values in raw form."""
    return -(-math.prod(int(n) for n in tensor.dims) * _KINDS[tensor.data_type][0] // 8)


def _shape(tensor: TensorProto) -> str:
    return shown(" x ".join(map(str, tensor.dims[:9])) or "of one number")


# Data beside the model


def _location(tensor: TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _beside(folder: Path, tensors: list[TensorProto]) -> dict[str, TensorProto]:
    """Return the tensors by name, with their values, which lie in files beside the model.

    Raises NotServable unless each is a part of a regular file in that folder.
    """
    by_file: dict[str, list[TensorProto]] = {}
    for tensor in tensors:
        by_file.setdefault(_location(tensor), []).append(tensor)
    read: dict[str, TensorProto] = {}
    left = _LARGEST_BESIDE
    for name, parts in by_file.items():
        what = f"the data file {shown(name)} of the tensor {shown(parts[0].name)}"
        if not name or name.startswith(".") or any(c in name for c in "/\\:\0"):
            raise NotServable(f"{what} must lie in the folder of the model. {_SAVE}")
        try:
            with files.regular(folder / name, own=True) as file:
                size = file.seek(0, 2)
                wanted = sum(_bytes(tensor) for tensor in parts if tensor.data_type in _KINDS)
                if wanted > min(size, left):
                    raise NotServable(f"{what} has {size:,} bytes, of which the model asks for {wanted:,}. {_SAVE}")
                left -= wanted
                for tensor in parts:
                    offset, length = _place(tensor, size)
                    file.seek(offset)
                    raw = file.read(length)
                    read[tensor.name] = TensorProto(
                        name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=raw
                    )
                    _elements(read[tensor.name])  # nor has the file become shorter
        except (OSError, ValueError) as error:
            if isinstance(error, NotServable):
                raise
            reason = error.strerror if isinstance(error, OSError) else "it has no name"
            raise NotServable(f"{what} cannot be read: {reason}. Instead: copy it there as a regular file") from None
    return read


def _place(tensor: TensorProto, size: int) -> tuple[int, int]:
    """Return the offset and the length in a file of `size` bytes. Raises NotServable when they do not fit it."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = entries.get("offset", "0"), entries.get("length", "")
    whole = all(text.isascii() and text.isdecimal() and len(text) < 20 for text in (offset, length or "0"))
    fits = False
    if whole and tensor.data_type in _KINDS and min(tensor.dims, default=0) >= 0:
        rest = size - int(offset)
        fits = _bytes(tensor) == int(length or rest) <= rest
    if not fits or len(entries) < len(tensor.external_data) or tensor.data_location != TensorProto.EXTERNAL:
        raise NotServable(
            f"the tensor {shown(tensor.name)} of shape {_shape(tensor)} does not match its offset and length in the "
            f"data file. {_SAVE}"
        )
    return int(offset), _bytes(tensor)


# Functions


class _Size(NamedTuple):
    """How much a call becomes once functions are written out."""

    nodes: int
    bytes: int


def _check_calls(model: ModelProto) -> None:
    """Refuse a model that would grow too large when its functions are written out.

    Functions may call functions twice, and these may call others twice: thirty such functions make a thousand million
    nodes.
    """
    bodies = {(f.domain, f.name, f.overload): f for f in model.functions}
    known: dict[tuple[str, str, str], _Size] = {}
    above: list[tuple[str, str, str]] = []

    def size(message: Message) -> _Size:
        nodes = written = 0
        for node in _nodes(message):
            inside = of((node.domain, node.op_type, node.overload))
            nodes, written = nodes + 1 + inside.nodes, written + inside.bytes
        if nodes > _MOST_NODES or written > _MOST_CALLED:
            raise NotServable(
                f"has more than {_MOST_NODES:,} nodes with its functions written out, the most that are read"
            )
        return _Size(nodes, written)

    def of(name: tuple[str, str, str]) -> _Size:
        if name not in bodies:
            return _Size(0, 0)
        if name in above or len(above) == _DEEPEST:
            raise NotServable(f"its function {shown(name[1])} calls itself, or nests calls more than {_DEEPEST} deep")
        if name not in known:
            above.append(name)
            inside = size(bodies[name])
            known[name] = _Size(inside.nodes, inside.bytes + bodies[name].ByteSize())
            above.pop()
        return known[name]

    for name in bodies:
        of(name)
    size(model.graph)


def _nodes(message: Message) -> Iterator[NodeProto]:
    """Yield the nodes of a graph or a function, and of the graphs inside of these nodes."""
    pending = list(_parts(message))
    while pending:
        part = pending.pop()
        if isinstance(part, NodeProto):
            yield part
        if not isinstance(part, TensorProto):
            pending += _parts(part)
