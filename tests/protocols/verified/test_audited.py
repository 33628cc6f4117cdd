"""What an owner computes again of a verified run: the openings of one request, whoever shared its run, from words that
say nothing of the upload's key."""

from collections.abc import Iterable
from itertools import accumulate, chain
from typing import Any, ClassVar

import numpy as np
import pytest

from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.protocols.dealing import Addressed
from moiety_shared.protocols.sent import SentDigests
from moiety_shared.protocols.verified import bits, claims, dealing, graph, proofs
from moiety_shared.protocols.verified.answers import PartyAnswer
from moiety_shared.protocols.verified.layout import RowStream
from moiety_shared.protocols.verified.recomputing import AuditedVerifiedModel
from moiety_shared.protocols.words import words_of
from moiety_shared.ring import Array
from tests.protocols.running import integers
from tests.protocols.test_sent import watched
from tests.protocols.verified.running import Upload
from tests.protocols.verified.test_layers import PLANS

REQUESTS = [2, 1, 3]
TOTAL = sum(REQUESTS)


@pytest.fixture(scope="module", params=PLANS)
def up(request: pytest.FixtureRequest) -> Upload:
    plan = PLANS[request.param]
    return Upload(plan, {name: integers(shape, 4) for name, shape in plan.weights()})


class Rows:
    """A bundle of `TOTAL` rows."""

    def __init__(self, up: Upload) -> None:
        self.up, self.seeds = up, (new_seed(), new_seed())

    def streams(self, first: int, count: int) -> tuple[RowStream, RowStream]:
        one, other = (RowStream.of(seed, TOTAL, range(first, first + count)) for seed in self.seeds)
        return one, other

    def words(self, first: int, count: int) -> tuple[bytes, bytes]:
        """Both parties' words of some rows, as the provider hands them over."""

        def deal(alice: Addressed, bob: Addressed) -> Iterable[object]:
            return graph.deal(self.up.plan, count, self.up.keys, self.up.masks, (alice, bob))

        one, other = (words_of(deal, self.streams(first, count), party) for party in (0, 1))
        return one, other


def test_openings_are_computed_again_of_one_requests_rows(up: Upload) -> None:
    plan, rows = up.plan, Rows(up)
    streams = rows.streams(0, TOTAL)
    sent = dict(graph.deal(plan, TOTAL, up.keys, up.masks, streams))
    x = np.resize(integers((TOTAL, plan.input.shared_size), 4), (TOTAL, plan.input.shared_size))
    one = integers(x.shape)
    shares = one, (x - one).astype(one.dtype)
    sessions: list[list[Any]] = [
        [graph.evaluate(plan, up.keys[p], shares[p], ready, up.models[p], REQUESTS)]
        for p in (0, 1)
        for ready in [graph.prepare(plan, up.keys[p], TOTAL, up.models[p], streams[p], sent if p else {})]
    ]
    digests = [SentDigests([(0, TOTAL)], REQUESTS) for _ in (0, 1)]
    answers: list[list[PartyAnswer]] = [outcome for (outcome,) in watched(sessions, digests)]  # type: ignore[misc]
    owner = Stream(up.seeds[0], "upload"), Stream(up.seeds[1], "upload")
    model = AuditedVerifiedModel.of(plan, up.masked, owner)
    for number, (count, end) in enumerate(zip(REQUESTS, accumulate(REQUESTS), strict=True)):
        first = end - count
        mine = shares[0][first:end], shares[1][first:end]
        again = model.recompute(rows.words(first, count), mine)
        assert list(again.sent) == [digests[p].of(number, peer=False) for p in (0, 1)]
        assert list(again.sent) == [digests[1 - p].of(number, peer=True) for p in (0, 1)]
        for p in (0, 1):
            told = answers[p][number]
            for got, want in ((again.answers[p], told), (again.answers[p].counted, told.counted)):
                assert (got is None) == (want is None)
                if got is not None and want is not None:
                    assert (got.opened, got.keys) == (want.opened, want.keys)
                    assert np.array_equal(got.result, want.result)
        with pytest.raises(ValueError, match="words"):
            model.recompute(rows.words(0, TOTAL), mine)


class Recorder:
    """A source that records what is drawn of it while `secrets` is open."""

    secrets: ClassVar[list[bytes] | None] = None

    def __init__(self, source: RowStream) -> None:
        self._source = source

    def at(self, *address: str | int) -> "Recorder":
        return Recorder(self._source.at(*address))

    def words(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        drawn = self._source.words(name, shape, dtype)
        if Recorder.secrets is not None:
            Recorder.secrets.append(drawn.tobytes())
        return drawn


def test_words_say_nothing_of_the_key(up: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the words that its tags, proofs and verdicts are made of is handed over, to whoever else has bob's part
    of them. And an upload under another key has the same words."""
    secrets = dict[str, list[bytes]]()

    def noting(module: Any, name: str) -> None:
        draw = getattr(module, name)

        def noted(*given: Any) -> Array:
            Recorder.secrets = secrets.setdefault(name, [])
            try:
                out: Array = draw(*given)
            finally:
                Recorder.secrets = None
            return out

        monkeypatch.setattr(module, name, noted)

    for module, name in (
        (bits, "_pads"), (bits, "_tau"), (claims, "_drawn"), (proofs, "_mask"), (dealing.AuthenticHolder, "tag"),
    ):  # fmt: skip
        noting(module, name)
    rows = Rows(up)
    one, other = (Recorder(stream) for stream in rows.streams(0, TOTAL))
    sent = dict(graph.deal(up.plan, TOTAL, up.keys, up.masks, (one, other)))
    for p, stream in enumerate((one, other)):
        graph.prepare(up.plan, up.keys[p], TOTAL, up.models[p], stream, sent if p else {})
    words = rows.words(0, TOTAL)
    assert secrets["tag"] and secrets["_drawn"] and secrets["_mask"]
    for secret in chain.from_iterable(secrets.values()):
        pieces = [secret[at : at + 8] for at in range(0, len(secret) - 7, 8)]
        assert not any(piece in part for piece in pieces[:20] for part in words)
    rows.up = Upload(up.plan, up.weights, [*up.seeds[:2], new_seed(), new_seed()])
    assert rows.words(0, TOTAL) == words
