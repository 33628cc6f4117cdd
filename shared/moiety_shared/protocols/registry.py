"""Which protocol runs each layer of a plan. Products are not here: they read weights or wires that others opened."""

from types import ModuleType

from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.layers import Layer, Reshare
from moiety_shared.plan.lookups import Decide, MaxPool, OneHot, ReLU, Table, TopK, Truncate
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.pieces import Pieces
from moiety_shared.plan.waves import Waves
from moiety_shared.protocols import (
    decide,
    exp2,
    max_pool,
    normalise,
    one_hot,
    pieces,
    relu,
    reshare,
    table,
    top_k,
    truncation,
    waves,
)

PROTOCOLS: dict[type[Layer], ModuleType] = {
    ReLU: relu, Decide: decide, MaxPool: max_pool, TopK: top_k, Table: table, OneHot: one_hot, Truncate: truncation,
    Reshare: reshare, Waves: waves, Exp2: exp2, Pieces: pieces, Normalise: normalise,
}  # fmt: skip
