"""What interval arithmetic does not see: sums whose terms depend on one another.

Interval arithmetic takes the terms of a sum for independent. So it finds |x| = 2 relu(x) - x to be negative in places,
and the larger of two wires, y + relu(x - y), to be as large as both together, and a mean to be larger than all that it
is of. Such sums are found here and bounded exactly.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.attention import MatMulNode
from moiety_server.compiler.softmax import SoftmaxNode

Box = tuple[Tensor, Tensor]
"""The lower and the upper bound of every element, float64 (1, *shape)."""


@dataclass(frozen=True)
class Relation:
    """A sum that is bounded by more than its terms: `bound` takes the boxes of the wires `reads`, in their order."""

    reads: tuple[str, ...]
    bound: Callable[..., Box]


def find(graph: ir.Graph) -> dict[str, Relation]:
    """Find the sums of a graph that are bounded more tightly than their terms say, by their names."""
    nodes = {node.name: node for node in graph.nodes}
    found: dict[str, Relation] = {}
    for node in graph.nodes:
        if isinstance(node, ir.AddNode):
            relation = _extreme(nodes, node) or _choice(nodes, node) or _bent(nodes, node)
            if relation:
                found[node.name] = relation
        if isinstance(node, MatMulNode):
            weights = nodes[node.inputs[0]]
            if isinstance(weights, SoftmaxNode) and not weights.logarithm:
                found[node.name] = _mean(node)
    return found


def _mean(node: MatMulNode) -> Relation:
    """A mean lies between the least and the largest of its values, whatever the weights are."""

    def bound(x: Box) -> Box:
        low, high = x[0].amin(dim=-1), x[1].amax(dim=-1)
        return low.unsqueeze(-2).expand(1, *node.shape), high.unsqueeze(-2).expand(1, *node.shape)

    return Relation((node.inputs[1],), bound)


def _extreme(nodes: Mapping[str, ir.Node], node: ir.AddNode) -> Relation | None:
    """Recognise y + relu(x - y), the larger of x and y, and x - relu(x - y), the smaller one."""
    if len(node.inputs) != 2 or node.factors not in ((1, 1), (1, -1)):
        return None
    clamp = nodes[node.inputs[1]]
    if not isinstance(clamp, ir.ClampNode) or (clamp.low, clamp.high) != (0, None):
        return None
    pair = _difference(nodes, clamp.inputs[0])
    if pair is None or node.inputs[0] != pair[node.factors[1] == 1] or _differ(nodes, node, *pair):
        return None
    pick = torch.maximum if node.factors[1] == 1 else torch.minimum
    return Relation(pair, lambda x, y: (pick(x[0], y[0]), pick(x[1], y[1])))


def _choice(nodes: Mapping[str, ir.Node], node: ir.AddNode) -> Relation | None:
    """Recognise y + decision * (x - y), which is either x or y."""
    product = nodes[node.inputs[-1]]
    if len(node.inputs) != 2 or node.factors != (1, 1) or not isinstance(product, ir.MulNode):
        return None
    decided, other = (nodes[name] for name in product.inputs)
    pair = _difference(nodes, other.name)
    if not isinstance(decided, ir.DecideNode) or pair is None or node.inputs[0] != pair[1]:
        return None
    if _differ(nodes, node, *pair):
        return None
    return Relation(pair, lambda x, y: (torch.minimum(x[0], y[0]), torch.maximum(x[1], y[1])))


def _difference(nodes: Mapping[str, ir.Node], name: str) -> tuple[str, str] | None:
    """Return (x, y) of a wire x - y."""
    node = nodes[name]
    is_one = isinstance(node, ir.AddNode) and node.factors == (1, -1)
    return (node.inputs[0], node.inputs[1]) if is_one else None


def _differ(nodes: Mapping[str, ir.Node], node: ir.Node, *names: str) -> bool:
    return any(nodes[name].shape != node.shape for name in names)


def _bent(nodes: Mapping[str, ir.Node], node: ir.AddNode) -> Relation | None:
    """Recognise a sum of multiples and clamps of one wire, such as |x|. It is linear between the places where a clamp
    begins or ends, so its least and its largest value lie there or at the ends."""
    terms = [_term(nodes, name) for name in node.inputs]
    roots = {term[0] for term in terms if term}
    if None in terms or len(roots) != 1:
        return None
    root = roots.pop()
    bends = sorted({bend for term in terms if term for bend in term[1]})

    def value(name: str, x: Tensor) -> Tensor:
        if name == root:
            return x
        return nodes[name].forward(*(value(i, x) for i in nodes[name].inputs))

    def bound(x: Box) -> Box:
        places = [x[0], x[1], *(torch.full_like(x[0], bend).clamp(x[0], x[1]) for bend in bends)]
        found = torch.stack([value(node.name, place) for place in places])
        return found.amin(dim=0), found.amax(dim=0)

    return Relation((root,), bound) if bends else None


def _term(nodes: Mapping[str, ir.Node], name: str) -> tuple[str, tuple[float, ...]] | None:
    """Return the wire that a term is a multiple or a clamp of, and where the term bends."""
    node, bends = nodes[name], ()
    if isinstance(node, ir.ScaleNode):
        node = nodes[node.inputs[0]]
    if not isinstance(node, ir.ClampNode):
        return node.name, bends
    source = nodes[node.inputs[0]]
    limits = [limit for limit in (node.low, node.high) if limit is not None]
    if isinstance(source, ir.ScaleNode) and source.factor:
        return source.inputs[0], tuple(limit / source.factor for limit in limits)
    return source.name, tuple(limits)
