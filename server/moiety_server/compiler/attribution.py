"""Which layer costs a plan its accuracy.

The plan runs in plain fixed point on a few inputs. Each layer's own error is the difference between what the plan made
of the layer's inputs and what the float layer makes of the same inputs. That error is added to the float network at
this place, and what becomes of it at the outputs is what the layer costs.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.lowering.wires import ScaledWire
from moiety_shared import reference
from moiety_shared.plan.plan import Plan
from moiety_shared.ring import Array

_ROWS = 16
_TRIED = 8  # layers whose own errors are the largest parts of what they compute


@torch.inference_mode()
def costliest(
    graph: ir.Graph, plan: Plan, weights: Mapping[str, Array], wires: Mapping[str, ScaledWire], inputs: Tensor
) -> str:
    """Name the layer, by its origin, whose own error moves the outputs most.

    `inputs` are real (n, ...), of which the first 16 are taken. `wires` has the wire of the plan that each node became.
    """
    rows = inputs[:_ROWS]
    exact = graph.run(rows)
    own = _own_errors(graph, _decoded(plan, weights, wires, rows, graph))
    relative = {name: _size(error) / max(_size(exact[name]), 1e-30) for name, error in own.items()}
    tried = sorted(relative, key=relative.__getitem__, reverse=True)[:_TRIED]
    cost = {name: _moved(graph, exact, name, own[name]) for name in tried}
    worst = max(tried, key=cost.__getitem__)
    return next(node.origin for node in graph.nodes if node.name == worst)


def _decoded(
    plan: Plan, weights: Mapping[str, Array], wires: Mapping[str, ScaledWire], rows: Tensor, graph: ir.Graph
) -> dict[str, Tensor]:
    """Return what the plan computes for each node, as real numbers."""
    encoded = np.rint(rows.reshape(len(rows), -1).double().numpy() * 2.0**plan.input.frac_bits)
    seen: dict[str, Array] = {plan.input.name: encoded}
    reference.run(plan, encoded.astype(f"<i{plan.ring_bits // 8}"), weights, watch=seen.__setitem__)
    found: dict[str, Tensor] = {}
    for node in graph.nodes:
        wire = wires[node.name]
        half = 2.0 ** (wire.bits - 1)
        signed = (seen[wire.name].astype(np.float64) + half) % (2 * half) - half
        found[node.name] = torch.from_numpy(signed * wire.unit).reshape(len(rows), *node.shape).float()
    return found


def _own_errors(graph: ir.Graph, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        node.name: values[node.name] - node.forward(*(values[name] for name in node.inputs))
        for node in graph.nodes
        if node.inputs
    }


def _moved(graph: ir.Graph, exact: Mapping[str, Tensor], name: str, error: Tensor) -> float:
    """Return by how much the outputs move when the error is added to one node's value."""
    changed = {name: exact[name] + error}
    for node in graph.nodes:
        if node.name != name and not changed.keys().isdisjoint(node.inputs):
            changed[node.name] = node.forward(*(changed.get(i, exact[i]) for i in node.inputs))
    return _size(changed.get(graph.output, exact[graph.output]) - exact[graph.output])


def _size(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())
