"""A network of numbers, as PyTorch makes it, over the columns of a table: the client maps each column's public range to
-1 .. 1, and the first matrices undo that."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown
from moiety_shared.messages.table import Column

_MAPPED = "columns"  # the name of the layer that maps columns back, where the network does not begin with a matrix


def over_columns(graph: ir.Graph, columns: Sequence[Column]) -> ir.Graph:
    """Return a graph that takes elements between -1 and 1 where `graph` takes the columns' numbers, (columns,).

    Raises NotServable unless each column is a number that is never missing, and there are as many as the graph takes.
    """
    given = next(node for node in graph.nodes if isinstance(node, ir.InputNode))
    if given.shape != (len(columns),):
        takes = " x ".join(map(str, given.shape))
        raise NotServable(f"the model: takes {takes} numbers a row, and the table has {len(columns)} columns")
    ends = torch.tensor([_range(column) for column in columns], dtype=torch.float64)
    half, middle = (ends[:, 1] - ends[:, 0]) / 2, (ends[:, 1] + ends[:, 0]) / 2
    readers = [node for node in graph.nodes if given.name in node.inputs]
    if all(isinstance(node, ir.LinearNode) for node in readers) and graph.output != given.name:
        nodes = [_folded(n, half, middle) if isinstance(n, ir.LinearNode) and n in readers else n for n in graph.nodes]
        return replace(graph, nodes=tuple(nodes))
    mapped = ir.LinearNode(
        name=_MAPPED,
        inputs=(given.name,),
        shape=given.shape,
        origin="the table's columns",
        weight=torch.diag(half).float(),
        bias=middle.float(),
    )
    later = [_reading(node, given.name) for node in graph.nodes if node is not given]
    return replace(graph, nodes=(given, mapped, *later))


def _range(column: Column) -> tuple[float, float]:
    """Return the lowest and the highest number of a column. Raises NotServable if it holds others than numbers."""
    if column.kind == "number" and column.missing != "flag" and column.low is not None and column.high is not None:
        return column.low, column.high
    what = "may be missing" if column.kind == "number" else "is no number"
    raise NotServable(
        f"the column {shown(column.name)}: {what}, and a network of numbers takes numbers alone. Instead: give each "
        'category a column of 0 and 1, and a missing number a value that stands for it (--columns, "missing": "fill")'
    )


def _folded(node: ir.LinearNode, half: Tensor, middle: Tensor) -> ir.LinearNode:
    weight = node.weight.double()
    bias = weight @ middle + (0 if node.bias is None else node.bias.double())
    return replace(node, weight=(weight * half).float(), bias=bias.float(), bounds=None)


def _reading(node: ir.Node, given: str) -> ir.Node:
    """Return the node, which reads the mapped columns where it read the input."""
    return replace(node, inputs=tuple(_MAPPED if name == given else name for name in node.inputs))
