"""An upload's way in: the owner's half of the weights, and its masking together with the other party."""

from collections.abc import Iterator, Mapping

from safetensors import SafetensorError
from safetensors.numpy import load

from moiety_shared.layers import Conv, Linear, ring_dtype
from moiety_shared.plan import Plan
from moiety_shared.prg import Stream
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import graph, product
from moiety_shared.protocols.opening import Session
from moiety_shared.protocols.product import Weights
from moiety_shared.ring import Array


def read_shares(plan: Plan, raw: bytes) -> dict[str, Array]:
    """Weight shares out of a safetensors blob. Raises MALFORMED unless names, shapes, type are the plan's."""
    expected = dict(plan.weights())
    try:
        tensors = load(raw)
    except (SafetensorError, ValueError, KeyError) as error:
        raise Problem(ProblemType.MALFORMED, "the weights are not a safetensors file") from error
    if {name: tuple(t.shape) for name, t in tensors.items()} != expected:
        raise Problem(ProblemType.MALFORMED, "the weights' names or shapes are not those of the plan")
    if any(t.dtype != ring_dtype(plan.ring_bits) for t in tensors.values()):
        raise Problem(ProblemType.MALFORMED, "the weights are not ring elements of the plan's size")
    return tensors


def masking(plan: Plan, party: int, shares: Mapping[str, Array], seed: bytes) -> Session[dict[str, Weights]]:
    """Party p's session that opens every weight under its mask, from the upload's seed."""
    return graph.mask_model(plan, party, shares, _Masks(plan, Stream(seed, "upload")))


class _Masks(Mapping[str, Array]):
    """[s]_p by layer, expanded when it is asked for: all at once would be one more copy of the model."""

    def __init__(self, plan: Plan, upload: Stream) -> None:
        self._layers = {layer.name: layer for layer in plan.layers if isinstance(layer, Linear | Conv)}
        self._ring, self._upload = graph.ring_of(plan), upload

    def __getitem__(self, name: str) -> Array:
        return product.weight_mask(self._ring, self._upload.at(name), self._layers[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)
