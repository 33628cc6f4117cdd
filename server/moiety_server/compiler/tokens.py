"""Token ids: what a model computes of each id alone is a table, in which the client looks its ids up.

The table begins at an nn.Embedding of the ids, and goes on while nothing but numbers comes in: a factor, a comparison
with the id of padding. A mask of padding tells of each id whether it is one, so it is a column of the same table. The
plan's input is what was looked up, (length, columns). The table is public then: whoever asks has to have it. Where it
is to be secret, the plan's input are the ids, and the parties look them up (`embedding.py`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from moiety_server.compiler import ir
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.embedding import Digits
from moiety_server.compiler.ir import NotServable

_HINT = "read ids by nn.Embedding, and compare them with numbers alone, as ids != 0 does"
# They give one value for each id, whatever stands beside it.
_POINTWISE = {
    *(f"{name}.{kind}" for name in ("add", "sub", "rsub", "mul", "div") for kind in ("Tensor", "Scalar")),
    *(f"{name}.Scalar" for name in ("eq", "ne", "gt", "lt", "ge", "le")),
    *("neg", "logical_not", "bitwise_not", "_to_copy", "to.dtype", "clone", "alias", "detach", "dropout"),
    *("zeros_like", "masked_fill.Scalar", "where.ScalarOther", "where.ScalarSelf", "where.Scalar"),
}
_FAR = 1000.0  # below minus this, a number of an id says that a softmax has to leave it out
AWAY = 24.0
"""Minus this stands for it: e^-24 is 4e-11 of a weight. Scores that reach this much further need another softmax."""


@dataclass(frozen=True)
class IdTable:
    """What a model reads of ids: `values` (vocabulary, width) are looked up, and each of `parts` is a node of the
    exported graph, its shape at one position, and the public factor that its columns are multiplied by."""

    values: Tensor
    parts: tuple[tuple[fx.Node, ir.Shape, float], ...]

    @classmethod
    def of(cls, program: ExportedProgram, ids: str, mask: str, pad_id: int | None) -> "IdTable":
        """Find what an exported program computes of its input `ids`, and of its input `mask` if that has a name.

        Raises NotServable.
        """
        sources = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        nodes = {node.name: node for node in program.graph.nodes}
        weights = {
            node: program.state_dict[sources[node.name].target or ""].detach()
            for node in program.graph.nodes
            if node.op == "placeholder" and sources[node.name].kind == InputKind.PARAMETER
        }
        vocabulary = _vocabulary(nodes[ids], weights)
        one = torch.arange(vocabulary)[:, None]  # every id, at one position
        found = {nodes[ids]: one} | ({nodes[mask]: one.ne(-1 if pad_id is None else pad_id).double()} if mask else {})
        for node in program.graph.nodes:
            if _is_pointwise(node, found) or _is_embedding(node, found):
                found[node] = _computed(node, {**weights, **found})
        read = [node for node in found if any(user not in found and _is_used(user) for user in node.users)]
        if nodes[ids] in read:
            raise NotServable(f"the model: computes with token ids. Instead: {_HINT}")
        tables = {node: _bounded(found[node][:, 0].double()) for node in read}
        return cls(*_packed(tables))

    def check(self, ids: Tensor) -> None:
        """Raise NotServable unless all of these ids are in the table."""
        if int(ids.min()) < 0 or int(ids.max()) >= len(self.values):
            raise NotServable(
                f"the calibration data has ids that are not below {len(self.values):,}, the embedding's size"
            )

    def wires(self, b: Builder, length: int, digits: Digits | None) -> dict[fx.Node, ir.Node]:
        """Append the plan's input of `length` looked-up rows, and return what the model reads of it.

        With `digits` the table is secret, and the plan's input are the ids' digits.
        """
        b.scope = "ids"
        if digits is None:
            x = b.input((length, self.values.shape[1]))
        else:
            x = b.embedding(b.input((length, digits.count)), self.values.float(), digits)
        wires, start = {}, 0
        for node, shape, factor in self.parts:
            stop = start + math.prod(shape)
            part = x if len(self.parts) == 1 else b.slice(x, 1, start, stop)
            wires[node] = b.scale(b.reshape(part, (length, *shape)), 1 / factor)
            start = stop
        return wires


def _bounded(table: Tensor) -> Tensor:
    """Let a bias of minus infinity, or nearly so, be one that a plan can share."""
    return torch.where(table < -_FAR, -AWAY, table) if table.dim() == 1 else table


def _packed(tables: Mapping[fx.Node, Tensor]) -> tuple[Tensor, tuple[tuple[fx.Node, ir.Shape, float], ...]]:
    """Put tables side by side. All reach as far as the largest one does, or a mask would take an embedding's bits."""
    most = max(float(table.abs().max()) for table in tables.values() if table.dim() > 1)
    parts, columns = [], []
    for node, table in tables.items():
        reach = float(table.abs().max()) or most
        factor = 2.0 ** math.floor(math.log2(most / reach)) if most > 0 else 1.0
        parts.append((node, tuple(table.shape[1:]), factor if table.dim() == 1 else 1.0))
        columns.append(table.reshape(len(table), -1) * parts[-1][2])
    return torch.cat(columns, dim=1), tuple(parts)


def _vocabulary(ids: fx.Node, weights: Mapping[fx.Node, Tensor]) -> int:
    """Return how many ids the embeddings of `ids` know."""
    read = [cast(fx.Node, user.args[0]) for user in ids.users if _name(user) == "embedding"]
    sizes = {len(weights[table]) for table in read if table in weights}
    if not sizes:
        raise NotServable(f"the model: takes whole numbers and looks none up. Instead: {_HINT}")
    return min(sizes)


def _is_embedding(node: fx.Node, found: Mapping[fx.Node, Tensor]) -> bool:
    return _name(node) == "embedding" and node.args[1] in found


def _is_pointwise(node: fx.Node, found: Mapping[fx.Node, Tensor]) -> bool:
    return (
        _name(node) in _POINTWISE and bool(node.all_input_nodes) and all(one in found for one in node.all_input_nodes)
    )


def _computed(node: fx.Node, values: Mapping[fx.Node, Tensor]) -> Tensor:
    target = cast(Callable[..., Tensor], node.target)
    arguments, keywords = fx.map_arg((node.args, node.kwargs), lambda one: values[one])
    made = target(*arguments, **keywords)
    return made if made.dtype in (torch.bool, torch.int64) else made.double()


def _is_used(node: fx.Node) -> bool:
    """Whether a node computes something: checks of types that export writes do not."""
    return bool(node.users) or node.op == "output"


def _name(node: Any) -> str:
    target = node.target if isinstance(node, fx.Node) else None
    return str(target).removeprefix("aten.").removesuffix(".default") if isinstance(target, OpOverload) else ""
