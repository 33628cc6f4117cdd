"""Folds a norm's scale and shift into the matrices that read it.

Otherwise they take a product in front of the matrices, of 2 rounds. What else reads them, such as a residual, still
does: its product and the matrices then read the norm itself, which is opened once for all of them.
"""

from dataclasses import replace

from moiety_server.compiler import ir
from moiety_server.compiler.builder import AffineNode
from moiety_server.compiler.norms import NormNode


def fold(nodes: dict[str, ir.Node], output: str) -> dict[str, ir.Node]:
    """Fold each scale and shift of a norm's last axis into the matrices that read it, of all tokens or of some. What
    nothing else reads is gone then."""
    readers: dict[str, list[ir.Node]] = {name: [] for name in nodes}
    for node in nodes.values():
        for name in node.inputs:
            readers[name].append(node)
    found = dict(nodes)
    for affine in nodes.values():
        if not isinstance(affine, AffineNode) or not isinstance(nodes[affine.inputs[0]], NormNode):
            continue
        width = affine.shape[-1]
        along = all(v is None or v.numel() in (1, v.shape[-1]) for v in (affine.scale, affine.shift))
        reading = readers[affine.name] if along else []
        behind = {reader.name: _matrices(readers, reader, width, output) for reader in reading}
        for matrix in (matrix for matrices in behind.values() for matrix in matrices):
            held = found[matrix.name]
            assert isinstance(held, ir.LinearNode)  # noqa: S101  it is one of `matrices`
            scale, shift = (
                None if v is None else v.double().reshape(-1).expand(width) for v in (affine.scale, affine.shift)
            )
            weight, bias = held.weight.double(), held.bias
            if shift is not None:
                bias = weight @ shift if bias is None else weight @ shift + bias.double()
            found[matrix.name] = replace(held, weight=weight if scale is None else weight * scale, bias=bias)
        for name in (name for name, matrices in behind.items() if matrices):
            found[name] = replace(found[name], inputs=affine.inputs)
        if behind and all(behind.values()) and affine.name != output:
            del found[affine.name]
    return found


def _matrices(readers: dict[str, list[ir.Node]], node: ir.Node, width: int, output: str) -> list[ir.Node]:
    """Return the node if it is a matrix, or those that alone read it if it leaves the last axis alone."""
    if isinstance(node, ir.LinearNode):
        return [node]
    moved = isinstance(node, ir.SliceNode) and node.axis != len(node.shape) - 1
    shaped = isinstance(node, ir.ReshapeNode) and node.shape[-1:] == (width,)
    if node.name == output or not (moved or shaped):
        return []
    behind = [_matrices(readers, reader, width, output) for reader in readers[node.name]]
    return [matrix for matrices in behind for matrix in matrices] if all(behind) else []
