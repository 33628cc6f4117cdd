"""Folds a norm's scale and shift into the matrices that read it. They take a product otherwise, of 2 rounds."""

from dataclasses import replace

from moiety_server.compiler import ir
from moiety_server.compiler.builder import AffineNode
from moiety_server.compiler.norms import NormNode


def fold(nodes: dict[str, ir.Node], output: str) -> dict[str, ir.Node]:
    """Fold each scale and shift of a norm's last axis that matrices alone read, of all tokens or of some."""
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
        matrices = _matrices(readers, affine, output) if along else []
        for matrix in matrices:
            held = found[matrix.name]
            assert isinstance(held, ir.LinearNode)  # noqa: S101  it is one of `matrices`
            scale, shift = (
                None if v is None else v.double().reshape(-1).expand(width) for v in (affine.scale, affine.shift)
            )
            weight, bias = held.weight.double(), held.bias
            if shift is not None:
                bias = weight @ shift if bias is None else weight @ shift + bias.double()
            found[matrix.name] = replace(held, weight=weight if scale is None else weight * scale, bias=bias)
        if matrices:
            del found[affine.name]
            for reader in readers[affine.name]:
                found[reader.name] = replace(found[reader.name], inputs=affine.inputs)
    return found


def _matrices(readers: dict[str, list[ir.Node]], node: ir.Node, output: str) -> list[ir.Node]:
    """Return the matrices that read the node, at once or behind what leaves its last axis alone, if nothing else
    does."""
    found: list[ir.Node] = []
    if node.name == output:
        return []
    for reader in readers[node.name]:
        moved = isinstance(reader, ir.SliceNode) and reader.axis != len(reader.shape) - 1
        shaped = isinstance(reader, ir.ReshapeNode) and reader.shape[-1:] == node.shape[-1:]
        behind: list[ir.Node] = [reader] if isinstance(reader, ir.LinearNode) else []
        if moved or shaped:
            behind = _matrices(readers, reader, output)
        if not behind:
            return []
        found += behind
    return found
