"""Expressions: what the program wrote and nobody has computed yet. A node has an operation, or a known value.

The program knows the values of what it shared itself, and of what it has revealed. It knows no others.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Operation:
    """An ATen operation on nodes, constants and numbers, in the order of its schema.

    `place` is the line of the program that wrote it.
    """

    target: OpOverload
    arguments: tuple[Any, ...]
    place: str

    @property
    def name(self) -> str:
        """The name, such as "add.Tensor". It leaves out the overload if that is the default one."""
        return name_of(self.target)

    @property
    def nodes(self) -> list["TensorNode"]:
        """The nodes among the arguments."""
        leaves = pytree.tree_leaves(self.arguments, is_leaf=lambda leaf: isinstance(leaf, TensorNode))
        return [leaf for leaf in leaves if isinstance(leaf, TensorNode)]

    def with_nodes(self, change: Any) -> list[Any]:
        """Return the arguments with each node replaced by what `change` makes of it."""
        return [pytree.tree_map_only(TensorNode, change, argument) for argument in self.arguments]

    def argument(self, name: str) -> Any:
        """Return the argument that has this name in the schema."""
        names = [a.name for a in self.target._schema.arguments]
        return self.arguments[names.index(name)]


@dataclass(eq=False)
class TensorNode:
    """A secret tensor. `fixed` is how many decimals it keeps; it is None for plain whole numbers.

    Either `operation` says how to compute it, as result number `index`, or the program knows its `value`, in float64 or
    int64. `parameter` marks a tensor that belongs to a model, and so to the model's owner.
    """

    shape: Shape
    dtype: torch.dtype
    fixed: int | None
    operation: Operation | None = None
    index: int = 0
    value: Tensor | None = field(default=None, repr=False)
    parameter: bool = False

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return not self.dtype.is_floating_point

    @property
    def tolerance(self) -> float:
        """Half of the last decimal. Values that differ by less count as equal."""
        return 0.5 if self.whole else 0.5 * 10.0 ** -(self.fixed or 0)

    def settle(self, value: Tensor) -> None:
        """Record the value, which the program knows from now on, and forget how it was computed."""
        self.value, self.operation = value, None

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of a known value."""
        assert self.value is not None  # noqa: S101  callers ask only nodes with a known value
        return hashlib.sha256(self.value.contiguous().numpy().tobytes()).hexdigest()


def known(value: Tensor, dtype: torch.dtype, fixed: int | None, parameter: bool = False) -> TensorNode:
    """Make a node whose value the program knows."""
    wide = value.double() if dtype.is_floating_point else value.long()
    return TensorNode(tuple(value.shape), dtype, fixed, value=wide.contiguous(), parameter=parameter)


def name_of(target: OpOverload) -> str:
    return str(target).removeprefix("aten.").removesuffix(".default")


def ordered(root: TensorNode) -> Iterator[TensorNode]:
    """Yield the nodes that the root depends on, each after those that it reads, and the root last.

    This does not recurse, because a sum may have more terms than Python's stack allows.
    """
    done: set[int] = set()
    stack: list[tuple[TensorNode, bool]] = [(root, False)]
    while stack:
        node, read = stack.pop()
        if id(node) in done:
            continue
        if read or node.operation is None:
            done.add(id(node))
            yield node
            continue
        stack.append((node, True))
        stack.extend((before, False) for before in reversed(node.operation.nodes))


@dataclass(frozen=True, eq=False)
class Term:
    """`factor` times the sum over the first axis of `rows`. Each row is computed on its own."""

    factor: float
    rows: TensorNode


@dataclass(frozen=True, eq=False)
class Sums:
    """A known tensor plus terms."""

    known: Tensor
    terms: Sequence[Term]


def sums(root: TensorNode) -> Sums | None:
    """Write the root as a sum of sums over rows, or return None if that is not possible.

    The parties compute the sums of several batches in one request. So the program learns their sum, and not the sum of
    each batch.
    """
    total, terms = torch.zeros(root.shape, dtype=torch.float64), list[Term]()
    open_: list[tuple[float, TensorNode]] = [(1.0, root)]
    while open_:
        factor, node = open_.pop()
        if torch.Size(node.shape).numel() != torch.Size(root.shape).numel():
            return None
        if node.value is not None:
            total = total + factor * node.value.double().reshape(root.shape)
            continue
        parts = _parts(node, factor)
        if parts is None:
            return None
        for part in parts:
            match part:
                case Term():
                    terms.append(part)
                case Tensor() if part.numel() in (1, total.numel()):
                    total = total + part.double().reshape(root.shape if part.numel() > 1 else ())
                case (share, inner):
                    open_.append((share, inner))
                case _:  # one plain row that is added to each of several rows
                    return None
    return Sums(total, terms) if terms else None


_Part = Term | Tensor | tuple[float, TensorNode]
_SAME = {"view", "_unsafe_view", "reshape", "clone", "alias", "detach", "squeeze", "squeeze.dim", "unsqueeze"}


def _parts(node: TensorNode, factor: float) -> list[_Part] | None:
    operation = node.operation
    assert operation is not None  # noqa: S101  callers ask only nodes without a known value
    first, *rest = operation.arguments
    match operation.name.partition(".")[0], rest:
        case ("add" | "sub") as name, [other, alpha]:
            weight = factor * float(alpha) * (1 if name == "add" else -1)
            return [_side(first, factor), _side(other, weight)]
        case "rsub", [other, alpha]:
            return [_side(first, -factor * float(alpha)), _side(other, factor)]
        case "neg", _:
            return [(-factor, first)]
        case "mul", [int() | float() as number]:
            return [(factor * number, first)]
        case "div", [int() | float() as number]:
            return [(factor / number, first)]
        case (("sum" | "mean"), _):
            return _over_rows(node, operation, factor)
    return [(factor, first)] if operation.name in _SAME else None


def _side(value: Any, factor: float) -> _Part:
    if isinstance(value, TensorNode):
        return factor, value
    return factor * torch.as_tensor(value, dtype=torch.float64)


def _over_rows(node: TensorNode, operation: Operation, factor: float) -> list[_Part] | None:
    """Split a sum or mean that includes the first axis: first within each row, then over the rows."""
    x: TensorNode = operation.arguments[0]
    axes = len(x.shape)
    given = operation.argument("dim") if operation.name in ("sum.dim_IntList", "mean.dim") else None
    dims = sorted({dim % axes for dim in given or range(axes)}) if axes else []
    if not dims or dims[0] != 0:
        return None
    if operation.name.startswith("mean"):
        factor /= torch.Size([x.shape[dim] for dim in dims]).numel()
    if len(dims) == 1:
        return [Term(factor, x)]
    rest = dims[1:]
    shape = tuple(n for axis, n in enumerate(x.shape) if axis not in rest)
    per_row = Operation(torch.ops.aten.sum.dim_IntList, (x, rest, False, None), operation.place)
    return [Term(factor, TensorNode(shape, node.dtype, node.fixed, per_row))]
