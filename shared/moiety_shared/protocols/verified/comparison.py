"""The signs of open values, by the look-ups of ordinary runs, with the claim that a party looked up what was dealt."""

from collections.abc import Generator

from moiety_shared.plan.lookups import Comparison
from moiety_shared.protocols import sign
from moiety_shared.protocols.opening import Kind, Opening
from moiety_shared.protocols.verified.bits import LookedUp, LookUpClaim
from moiety_shared.protocols.verified.layer import ProvableSigns, RunningParty
from moiety_shared.ring import Array


class Signs:
    """A layer's comparisons at one party, in one round or several."""

    def __init__(self, party: RunningParty, layer: Comparison, prepared: ProvableSigns) -> None:
        self._party, self._layer, self._prepared = party, layer, prepared
        self._earlier: list[LookedUp] = []
        self._at = 0

    def of(self, t: Array) -> Generator[Opening, Array, Array]:
        """Open the masked signs (rows, n) of the next n open values t^ (rows, n), and return them. Two openings."""
        layer, party = self._layer, self._party.number
        part = slice(self._at, self._at + t.shape[1])
        tables, words = self._prepared.tables[:, :, part], self._prepared.words[:, part]
        looking = sign.evaluate(party, layer, t, tables, words)
        opening = next(looking)
        bits = yield opening
        masked, self._at, claim = _returned(looking, bits), part.stop, None
        if self._at == layer.comparisons:
            claim = LookUpClaim(layer, party, self._prepared.provable, t, opening.share, bits, tuple(self._earlier))
        signs = yield Opening(masked, Kind.BITS, claim=claim)
        self._earlier.append(LookedUp(t, opening.share, bits, masked, signs))
        return signs


def _returned(looking: Generator[Opening, Array, Array], bits: Array) -> Array:
    try:
        looking.send(bits)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise RuntimeError("a comparison opens its looked-up bits once")
