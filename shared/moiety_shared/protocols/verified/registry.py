"""Which module runs each layer of a verified run: each has `deal`, `prepare` and `evaluate` (layer.py)."""

from types import ModuleType

from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.layers import Bias, Conv, Layer, Linear, MatMul, Mul, Open, Reshare
from moiety_shared.plan.local import Local
from moiety_shared.plan.lookups import Decide, MaxPool, OneHot, ReLU, Table, TopK, Truncate
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.pieces import Pieces
from moiety_shared.plan.waves import Waves
from moiety_shared.protocols.verified import (
    approximate,
    decide,
    local,
    max_pool,
    mul,
    normalise,
    one_hot,
    product,
    relu,
    table,
    top_k,
    truncation,
)

_PROTOCOLS: dict[type[Layer], ModuleType] = {
    Linear: product, Conv: product, Open: local, Bias: local, ReLU: relu, MaxPool: max_pool, Truncate: truncation,
    Reshare: truncation, Decide: decide, TopK: top_k, Table: table, Mul: mul, MatMul: mul,
    OneHot: one_hot, Waves: approximate, Exp2: approximate, Pieces: approximate, Normalise: normalise,
}  # fmt: skip


def protocol_of(layer: Layer) -> ModuleType:
    """The module of a layer. Raises ValueError where verified runs have none."""
    protocol = local if isinstance(layer, Local) else _PROTOCOLS.get(type(layer))
    if protocol is None:
        raise ValueError(f"layer {layer.name!r} cannot be verified yet")
    return protocol
