"""Bundles on their way: dealt in chunks, received layer by layer, prepared as they come, refused when they are not
exactly what the plan says."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, cycle

import httpx
import numpy as np
import pytest

from moiety_crypto_provider import issuer
from moiety_party import bundles
from moiety_party.bundles import prepare_bundle
from moiety_party.provider import LeaseGrant, Provider
from moiety_party.store import Model
from moiety_shared.crypto.channel import TAG_BYTES, bundle_cipher
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import PROBLEM_JSON, Problem, ProblemType
from moiety_shared.protocols import graph
from moiety_shared.protocols.preparation import Preparation, PreparedRows
from tests import plans
from tests.protocols.running import Run

ROWS = 3


class Dealt:
    """A model with the bundle that a provider would send, and a provider that sends it as told."""

    def __init__(self, plan: Plan) -> None:
        run = Run(plan, plans.weights())
        self.plan, self.run = plan, run
        self.grants = [LeaseGrant("ab", "00" * 16, ROWS, "ticket", new_seed(), new_seed()) for _ in range(2)]
        streams = (Stream(seed, "bundle", 7) for seed in (grant.seed for grant in self.grants))
        arrays = (array for _, array in graph.deal(plan, ROWS, run.masks, *streams))
        self.corrections = b"".join(map(bytes, issuer.chunks(arrays)))
        self.content = self.sealed("ab", 7)
        self.asked = 0

    def sealed(self, lease_id: str, number: int) -> bytes:
        encryptor = bundle_cipher(self.grants[1].seed, lease_id, number).encryptor()
        return b"".join(issuer.sealed(iter([self.corrections]), encryptor))

    async def prepare(
        self, party: int, chunks: Iterator[int] | None = None, announced: int | None = None
    ) -> PreparedRows:
        sizes = chunks or cycle([999])

        async def send() -> AsyncIterator[bytes]:
            at = 0
            while at < len(self.content):
                end = at + next(sizes)
                yield self.content[at:end]
                at = end

        def answer(_: httpx.Request) -> httpx.Response:
            self.asked += 1
            length = len(self.content) if announced is None else announced
            return httpx.Response(200, content=send(), headers={"content-length": str(length)})

        model = Model("00" * 16, self.plan, self.run.models[party])
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://provider") as client:
            with ThreadPoolExecutor(1) as offline:
                return await prepare_bundle(model, party, self.grants[party], 7, Provider(client), offline)

    def direct(self, party: int) -> PreparedRows:
        preparation = Preparation(
            self.plan, party, ROWS, Stream(self.grants[party].seed, "bundle", 7), self.run.models[party]
        )
        ends = accumulate(preparation.wanted(layer) for layer in self.plan.layers)
        for layer, end in zip(self.plan.layers, ends, strict=True):
            preparation.add(layer, self.corrections[end - preparation.wanted(layer) : end])
        return preparation.ready


def same(one: PreparedRows, other: PreparedRows) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True)
    )


@pytest.fixture(scope="module")
def dealt() -> Dealt:
    return Dealt(plans.branches())


@pytest.mark.parametrize("sizes", [[1], [7, 1, 300], [1 << 20]], ids=["bytes", "odd", "whole"])
@pytest.mark.parametrize("step", [1, 400, 1 << 20], ids=["layers", "some", "all"])
def test_layers_are_prepared_from_chunks_of_any_size(
    monkeypatch: pytest.MonkeyPatch, dealt: Dealt, sizes: list[int], step: int
) -> None:
    monkeypatch.setattr(bundles, "_STEP_BYTES", step)
    assert len(dealt.content) == ROWS * dealt.plan.bundle_row_bytes + TAG_BYTES
    assert same(asyncio.run(dealt.prepare(1, cycle(sizes))), dealt.direct(1))


def test_no_correction_can_be_read_on_its_way(dealt: Dealt) -> None:
    pieces = {dealt.corrections[at : at + 16] for at in range(0, len(dealt.corrections) - 15, 16)}
    assert not [at for at in range(len(dealt.content)) if dealt.content[at : at + 16] in pieces]
    assert bundle_cipher(dealt.grants[1].seed, "ab", 7).encryptor().update(dealt.content[:64]) != dealt.content[:64]


def test_alice_asks_for_nothing(dealt: Dealt) -> None:
    before = dealt.asked
    assert same(asyncio.run(dealt.prepare(0)), dealt.direct(0)) and dealt.asked == before


@pytest.mark.parametrize(
    ("length", "announced"), [(-1, 0), (-500, 0), (1, 0), (900, 0), (0, -1), (0, 1), (1, 1)], ids=str
)
@pytest.mark.parametrize("sizes", [[1], [64], [1 << 20]], ids=str)
def test_a_bundle_of_another_length_is_refused(dealt: Dealt, length: int, announced: int, sizes: list[int]) -> None:
    wrong = Dealt(dealt.plan)
    right = len(wrong.content)
    wrong.content = wrong.content[: right + length] + bytes(max(length, 0))
    with pytest.raises(Problem) as caught:
        asyncio.run(wrong.prepare(1, cycle(sizes), right + announced))
    assert caught.value.kind is ProblemType.MALFORMED


@pytest.mark.parametrize("place", [0, 1 / 3, 2 / 3, 1.0])
def test_a_bundle_that_was_changed_is_refused_whole(dealt: Dealt, place: float) -> None:
    wrong = Dealt(dealt.plan)
    at = int(place * (len(wrong.content) - 1))
    wrong.content = wrong.content[:at] + bytes([wrong.content[at] ^ 4]) + wrong.content[at + 1 :]
    with pytest.raises(Problem, match="changed in transit") as caught:
        asyncio.run(wrong.prepare(1))
    assert caught.value.kind is ProblemType.MALFORMED


def test_a_bundle_under_another_seed_or_number_is_refused(dealt: Dealt) -> None:
    for lease, number in (("ab", 8), ("ac", 7)):
        wrong = Dealt(dealt.plan)
        wrong.content = wrong.sealed(lease, number)
        with pytest.raises(Problem, match="changed in transit"):
            asyncio.run(wrong.prepare(1))


def test_no_more_than_two_steps_are_on_their_way(monkeypatch: pytest.MonkeyPatch, dealt: Dealt) -> None:
    """The next is received while one is prepared, and then no more is read."""
    monkeypatch.setattr(bundles, "_STEP_BYTES", 1)
    started, go = threading.Event(), threading.Event()
    original = Preparation.add

    def slow(self: Preparation, layer: object, raw: bytes) -> None:
        started.set()
        go.wait(5)
        original(self, layer, raw)  # type: ignore[arg-type]

    monkeypatch.setattr(Preparation, "add", slow)
    sent: list[int] = []

    def chunks() -> Iterator[int]:
        while True:
            sent.append(1)
            yield 1

    async def run() -> PreparedRows:
        task = asyncio.create_task(dealt.prepare(1, chunks()))
        await asyncio.to_thread(started.wait, 5)
        await asyncio.sleep(0.2)
        preparation = Preparation(dealt.plan, 1, ROWS, Stream(new_seed()), {})
        sizes = [size for size in map(preparation.wanted, dealt.plan.layers) if size]
        assert len(sent) <= sum(sizes[:2]) + 1 < sum(sizes)
        go.set()
        return await task

    assert same(asyncio.run(run()), dealt.direct(1))


def test_the_provider_joins_small_arrays_and_cuts_large_ones() -> None:
    sizes = [10, 0, 3 << 20, 1 << 19, 1 << 19, 17 << 20, 5]
    arrays = [np.full(size, i, dtype=np.uint8) for i, size in enumerate(sizes)]
    made = list(issuer.chunks(iter(arrays)))
    assert b"".join(made) == b"".join(array.tobytes() for array in arrays)
    assert [len(chunk) for chunk in made] == [10, 3 << 20, 1 << 20, 8 << 20, 8 << 20, 1 << 20, 5]
    assert len(list(issuer.chunks(np.zeros(100, np.int64) for _ in range(2000)))) == 2


def test_a_provider_of_another_release_is_told_apart_from_a_clients_mistake() -> None:
    """What it does not understand is not the client's input."""

    def answer(_: httpx.Request) -> httpx.Response:
        problem = Problem(ProblemType.INVALID_INPUT, "check: body")
        return httpx.Response(422, json=problem.document(), headers={"content-type": PROBLEM_JSON})

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://provider") as client:
            await Provider(client).open_lease("00" * 16, ROWS)

    with pytest.raises(Problem, match="runs the same release") as caught:
        asyncio.run(run())
    assert caught.value.kind is ProblemType.PROVIDER_UNAVAILABLE
