"""Translates an expression into the compiler's graph.

A request has rows, and a plan computes each row on its own. If the first axis of every result is that of the inputs,
and no row reads another, each row of the tensors becomes a row of the request. So an expression over 50 pictures
becomes a plan for one picture, which runs on 50 rows. Any other expression becomes a plan of one row, which holds all
secrets.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from moiety_server.compiler import ir
from moiety_server.compiler.aten import LIKE, OPS, RESHAPES
from moiety_server.compiler.aten_batched import MOVING, moved
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.hints import hint_for
from moiety_server.compiler.simplification import finish
from moiety_shared.ring import Array
from moiety_syft.expression import Operation, Shape, TensorNode, ordered
from moiety_syft.handlers import HANDLERS, At

_ELEMENTWISE = {
    *("add", "sub", "rsub", "mul", "div", "gt", "lt", "ge", "le", "eq", "ne", "maximum", "minimum", "where"),
    *("bitwise_and", "bitwise_or", "bitwise_xor", "logical_and", "logical_or", "logical_xor"),
}
_ALL_AXES = {"sum": "sum.dim_IntList", "mean": "mean.dim", "max": "amax", "min": "amin"}
_LEAST_BOUND, _LEAST_WHOLE_BOUND = 4.0, 256.0
_INPUT_BITS = 18  # how many bits of a shared number's magnitude are kept
_MOST_WHOLE = 1 << _INPUT_BITS


def bound_of(node: TensorNode) -> float:
    """Return a power of four that a known value does not exceed, at least 256 for whole numbers. It is public."""
    assert node.value is not None  # noqa: S101  only known values are bounded
    largest = float(node.value.abs().max()) if node.value.numel() else 0.0
    if not math.isfinite(largest):
        raise ir.NotServable("a shared tensor contains NaN or infinity: replace these values before you share it")
    bound = _LEAST_WHOLE_BOUND if node.whole else _LEAST_BOUND
    if node.whole and largest > _MOST_WHOLE:
        raise ir.NotServable(f"whole numbers beyond {_MOST_WHOLE} would not be exact. Instead: share floats")
    while largest > bound:
        bound *= 4
    return bound


@dataclass(frozen=True, eq=False)
class Expression:
    """A root, and how it is read: its first axis as the `rows` of a request or, if `rows` is None, all as one row."""

    root: TensorNode
    rows: int | None

    @cached_property
    def nodes(self) -> list[TensorNode]:
        """The nodes that the root depends on, each after those that it reads, and the root last."""
        return list(ordered(self.root))

    @cached_property
    def inputs(self) -> list[TensorNode]:
        """The known tensors that a request shares. The other known tensors belong to the model."""
        known = [node for node in self.nodes if node.value is not None]
        if self.rows is None:
            secrets = [node for node in known if not node.parameter]
            return secrets or known
        return [n for n in known if not n.parameter and n.shape[:1] == (self.rows,)]

    def shape_of(self, node: TensorNode) -> Shape:
        """Return the shape of one row. It has at least one axis, because a plan has no tensors without axes."""
        return (node.shape if self.rows is None else node.shape[1:]) or (1,)

    @cached_property
    def signature(self) -> str:
        """A digest. It is equal for expressions that one plan with one set of weights computes."""
        numbers: dict[int, int] = {}
        text: list[Any] = ["one" if self.rows is None else "rows"]
        inputs = {id(node) for node in self.inputs}
        for node in self.nodes:
            numbers[id(node)] = len(numbers)
            line: list[Any] = [str(node.dtype), node.fixed, list(self.shape_of(node)), node.index]
            if id(node) in inputs:
                line += ["input", bound_of(node)]
            elif node.value is not None:
                line += ["weight", node.digest, list(node.shape)]
            elif node.operation is not None:
                line += [node.operation.name, len(node.shape), self._arguments(node.operation, numbers)]
            text.append(line)
        return hashlib.sha256(json.dumps(text).encode()).hexdigest()

    def _arguments(self, operation: Operation, numbers: dict[int, int]) -> list[str]:
        """Describe an operation's arguments for the signature.

        For a reshape this leaves out the shape, because the signature has the shape of the result already.
        """
        given = operation.nodes[:1] if operation.name in RESHAPES else operation.arguments
        described: list[str] = []
        for leaf in pytree.tree_leaves(given, is_leaf=lambda leaf: isinstance(leaf, TensorNode) or leaf is None):
            if isinstance(leaf, TensorNode):
                described.append(f"node {numbers[id(leaf)]}")
            elif isinstance(leaf, Tensor):
                content = leaf.detach().contiguous().cpu().numpy()
                described.append(f"{content.dtype} {content.shape} {hashlib.sha256(content.tobytes()).hexdigest()}")
            else:
                described.append(repr(leaf))
        return [str(pytree.tree_structure(list(given))), *described]

    def values(self) -> Array:
        """Return what a request shares, (rows, values): each tensor divided by its public bound, so from -1 to 1."""
        rows = self.rows or 1
        parts = [
            node.value.double().reshape(rows, -1) / bound_of(node) for node in self.inputs if node.value is not None
        ]
        return torch.cat(parts, dim=1).numpy()

    def calibration(self, uniform: Array) -> Tensor:
        """Make inputs such as a program could share from numbers between 0 and 1, (n, values)."""
        columns = [
            np.round((2 * part - 1) * bound_of(node)) / bound_of(node) if node.whole else 2 * part - 1
            for node, part in zip(self.inputs, np.split(uniform, self._ends[:-1], axis=1), strict=True)
        ]
        return torch.from_numpy(np.concatenate(columns, axis=1)).float()

    @cached_property
    def _ends(self) -> list[int]:
        return [int(end) for end in np.cumsum([math.prod(self.shape_of(node)) for node in self.inputs])]

    @property
    def size(self) -> int:
        """How many values one row has."""
        return self._ends[-1]

    def translate(self) -> "Translated":
        """Translate the expression. Raises NotServable if it cannot be computed in this way."""
        if not self.inputs:
            raise ir.NotServable("the expression reads no secret data in rows")
        for node in self.inputs:
            unit = bound_of(node) * 2.0**-_INPUT_BITS
            if not node.whole and unit > 10.0 ** -(node.fixed or 0):
                warnings.warn(f"values up to {bound_of(node):g} are shared in steps of {unit:.2g}", stacklevel=2)
        return _Translation(self).result()


@dataclass(frozen=True)
class Translated:
    """A translated expression. `whole` names the wires that hold whole numbers, so that nothing cuts off their bits."""

    graph: ir.Graph
    whole: frozenset[str]


class _Translation:
    def __init__(self, expression: Expression) -> None:
        self._expression, self._rows = expression, expression.rows is not None
        self._builder = Builder()
        self._whole: set[str] = set()
        self._results: dict[int, Any] = {}  # of operations
        self._values: dict[int, ir.Node | Tensor] = {}  # of nodes

    def result(self) -> Translated:
        self._read_inputs()
        for node in self._expression.nodes:
            if id(node) not in self._values:
                self._values[id(node)] = node.value if node.value is not None else self._computed(node)
        output = self._values[id(self._expression.root)]
        if not isinstance(output, ir.Node):
            raise ir.NotServable("the expression reads no secret data in rows")
        return Translated(finish(self._builder.nodes.values(), output.name), frozenset(self._whole))

    def _read_inputs(self) -> None:
        b, start = self._builder, 0
        given = b.input((self._expression.size,))
        for node in self._expression.inputs:
            shape = self._expression.shape_of(node)
            end = start + math.prod(shape)
            value = b.reshape(b.scale(b.slice(given, 0, start, end), bound_of(node)), shape)
            self._values[id(node)] = self._marked(node, value)
            start = end

    def _marked(self, node: TensorNode, value: ir.Node) -> ir.Node:
        if node.whole:
            self._whole.add(value.name)
        return value

    def _computed(self, node: TensorNode) -> ir.Node | Tensor:
        operation, b = node.operation, self._builder
        assert operation is not None  # noqa: S101  its value is not known
        b.scope, b.origin = operation.name.partition(".")[0].strip("_"), operation.place + operation.name
        if id(operation) not in self._results:
            self._results[id(operation)] = self._applied(node, operation)
        result = self._results[id(operation)]
        value: ir.Node | Tensor = result[node.index] if isinstance(result, list | tuple) else result
        if isinstance(value, Tensor):
            return value
        shape = self._expression.shape_of(node)
        b.require(math.prod(value.shape) == math.prod(shape), f"gives the shape {value.shape} instead of {shape}")
        return self._marked(node, b.reshape(value, shape))

    def _applied(self, node: TensorNode, operation: Operation) -> Any:
        b, name = self._builder, operation.name
        arguments = operation.with_nodes(lambda n: self._values[id(n)])
        wires = [leaf for leaf in pytree.tree_leaves(arguments, is_leaf=_is_wire) if _is_wire(leaf)]
        if name in LIKE and len(wires) == 1 and wires[0] is arguments[0]:  # reads nothing but the shape
            arguments[0], wires = torch.zeros((1,) * len(node.shape)), []
        if not wires:
            found = self._constant(operation, arguments)
            return found.expand(node.shape) if name in LIKE else found
        self._check_rows(node, operation)
        if name in RESHAPES:
            return b.reshape(arguments[0], self._expression.shape_of(node))
        if name.partition(".")[0] in _ELEMENTWISE:
            axes = len(self._expression.shape_of(node))
            arguments = [self._with_axes(a, axes) if isinstance(a, ir.Node) else a for a in arguments]
        if not self._rows:
            name, arguments = self._behind(name, operation, arguments)
        if name in MOVING:
            result = moved(b, name, arguments)
            if not isinstance(result, ir.Node):
                b.refuse("mixes rows")
            return result
        if name in HANDLERS:
            return HANDLERS[name](b, At(node, operation, self._rows), *arguments)
        if name not in OPS:
            b.refuse("is not supported on secrets", hint_for("", name))
        return OPS[name](b, *arguments)

    def _check_rows(self, node: TensorNode, operation: Operation) -> None:
        """If there are rows, check that every result has them as its first axis.

        Elementwise operations must also pair row with row.
        """
        if not self._rows:
            return
        b, rows = self._builder, self._expression.rows
        b.require(node.shape[:1] == (rows,), "mixes rows")
        for read in operation.nodes:
            if isinstance(self._values[id(read)], ir.Node) and operation.name.partition(".")[0] in _ELEMENTWISE:
                b.require(len(read.shape) == len(node.shape), "pairs rows with values that are not in rows")

    def _with_axes(self, x: ir.Node, axes: int) -> ir.Node:
        return self._builder.reshape(x, (1,) * (axes - len(x.shape)) + x.shape)

    def _behind(self, name: str, operation: Operation, arguments: list[Any]) -> tuple[str, list[Any]]:
        """Rewrite the operation as if there were one more axis in front, because the handlers count axes so."""
        if name == "t":
            return "permute", [arguments[0], [0, *range(len(arguments[0].shape), 0, -1)]]
        if name in _ALL_AXES:
            x = arguments[0]
            return _ALL_AXES[name], [x, list(range(1, len(x.shape) + 1)), False]
        shifted = []
        for schema, value in zip(operation.target._schema.arguments, arguments, strict=True):
            if schema.name in ("dim", "dim0", "dim1", "dims"):
                if isinstance(value, int):
                    value = value + (value >= 0)
                elif value is None and name in ("sum.dim_IntList", "mean.dim"):
                    value = list(range(1, len(arguments[0].shape) + 1))
                elif value is not None:
                    value = [v + (v >= 0) for v in value]
                if name == "permute":
                    value = [0, *value]
            elif schema.name in ("size", "repeats") and name in ("expand", "repeat"):
                value = [1, *value]
            shifted.append(value)
        return name, shifted

    def _constant(self, operation: Operation, arguments: Sequence[Any]) -> Any:
        """Compute an operation on the model's own tensors alone, in float64."""
        names = operation.target._schema.arguments
        wide = [_wide(value) for value in arguments]
        positional = [value for value, a in zip(wide, names, strict=True) if not a.kwarg_only]
        keywords = {a.name: value for value, a in zip(wide, names, strict=True) if a.kwarg_only}
        return operation.target(*positional, **keywords)


def _wide(tree: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, tree)


def _is_wire(leaf: Any) -> bool:
    return isinstance(leaf, ir.Node)
