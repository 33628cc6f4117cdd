"""One bit of each part of each message is flipped on its way, once, in a running deployment: what happens?

Asserted: whoever gets an answer gets the right one. What is found is written down in docs/security.md, and the test
holds the two together (`make docs-integrity` writes it anew).
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pytest

from moiety_client.errors import CatalogueError, FromProblem, MoietyError, ResultRejected
from moiety_shared.crypto.handshake import SEALED_BYTES
from moiety_shared.crypto.sealing import SEAL_OVERHEAD
from moiety_shared.problems import Problem, ProblemType
from tests import plans
from tests.simulation.detector import Detector
from tests.simulation.world import World, unchanged, world

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"
X = plans.random_inputs(3)
_SECONDS = 120.0  # for one flip, which takes less than one: what hangs ends here
_HEAD = "| message | part | what happens |\n|---|---|---|\n"
Span = tuple[int, int]
Find = Callable[[bytes], Span]
Occasion = Literal["prediction", "alice restarts", "nothing", "publishing", "bad request", "after a bad request"]


def at(start: int, stop: int | None = None) -> Find:
    """Bytes start .. stop - 1; negative ones from the end."""
    return lambda raw: (start % len(raw) if start else 0, len(raw) if stop is None else stop % len(raw))


def member(name: str, index: int = 0) -> Find:
    """The value of that member of a JSON text, without quotation marks."""
    pattern = re.compile(rb'"%s": ?"?([^",}\]]+)' % name.encode())

    def find(raw: bytes) -> Span:
        return list(pattern.finditer(raw))[index].span(1)

    return find


def request_envelope(party: int) -> Find:
    """Its content, which follows the handshake."""

    def find(raw: bytes) -> Span:
        first = int.from_bytes(raw[112:116], "little")
        start, end = (120, 120 + first) if party == 0 else (120 + first, len(raw))
        return start + SEALED_BYTES, end

    return find


def request_handshake(party: int) -> Find:
    def find(raw: bytes) -> Span:
        end, _ = request_envelope(party)(raw)
        return end - SEALED_BYTES, end

    return find


def upload_manifest(raw: bytes) -> Span:
    return 12, 12 + int.from_bytes(raw[4:8], "little")


def upload_plan(raw: bytes) -> Span:
    start = upload_manifest(raw)[1]
    return start, start + int.from_bytes(raw[8:12], "little")


def dealer_envelope(raw: bytes) -> Span:
    start = upload_plan(raw)[1]
    return start, start + SEAL_OVERHEAD + 64


def own_envelope(raw: bytes) -> Span:
    start = dealer_envelope(raw)[1]
    return start, start + SEAL_OVERHEAD + 96


def masked_weights(raw: bytes) -> Span:
    return own_envelope(raw)[1], len(raw)


def sealed_result(party: int) -> Find:
    def find(raw: bytes) -> Span:
        first = int.from_bytes(raw[20:24], "little")
        return (28, 28 + first) if party == 0 else (28 + first, len(raw))

    return find


@dataclass(frozen=True)
class Case:
    """One part of one kind of message. `nth` of that kind after the occasion begins."""

    message: str
    part: str
    find: Find
    on: Occasion = "prediction"
    nth: int = 0
    flips: tuple[tuple[float, int], ...] = ((0.0, 0), (0.5, 2), (1.0, 1))  # where in the part, which bit


def cases() -> Iterator[Case]:
    for part in ("plan", "upload_id", "sealing_key", "max_rows", "signature", "owner_key"):
        find = member("frac_bits") if part == "plan" else member(part)
        yield Case("catalogue entry", part.replace("_", " "), find)
    request = {"magic": (0, 4), "upload": (4, 20), "plan": (20, 52), "id": (52, 68), "digest": (68, 100)}
    for part, span in (request | {"time": (100, 108), "rows": (108, 112), "lengths": (112, 120)}).items():
        yield Case("prediction request", part, at(*span))
    for party, name in enumerate(("alice", "bob")):
        yield Case("prediction request", f"{name}'s handshake", request_handshake(party))
        yield Case("prediction request", f"{name}'s envelope", request_envelope(party))
    for part, span in {"magic": (0, 4), "id": (4, 20), "lengths": (20, 28)}.items():
        yield Case("result", part, at(*span))
    yield Case("result", "alice's share", sealed_result(0))
    yield Case("result", "bob's share", sealed_result(1))
    yield Case("START of alice", "frame header", at(0, 8))
    yield Case("START of alice", "lease", at(8, 24))
    yield Case("START of alice", "first row", at(24, 32), flips=((0.5, 0), (1.0, 7)))
    yield Case("START of alice", "first row, to unused ones", at(24, 25), flips=((0.0, 4),))
    yield Case("START of alice", "number of requests", at(32, 34))
    yield Case("START of alice", "lengths of token and request", at(34, 40))
    yield Case("START of alice", "trace context", at(40, 65))
    yield Case("START of alice", "request header", at(65, 185))
    yield Case("START of alice", "bob's envelope", at(185))
    for who in ("alice", "bob"):
        yield Case(f"OPENING of {who}", "frame header", at(0, 8))
        yield Case(f"OPENING of {who}", "first round", at(8))
        yield Case(f"OPENING of {who}", "second round", at(8), nth=1)
        yield Case(f"OPENING of {who}", "last round", at(8), nth=3)
    yield Case("RESULT of bob", "frame header", at(0, 8))
    yield Case("RESULT of bob", "tag of what was opened", at(8, 40))
    yield Case("RESULT of bob", "kind and length of an outcome", at(40, 45))
    yield Case("RESULT of bob", "sealed share", at(45))
    yield Case("FAILED of bob", "problem document", member("type"), "bad request")
    for message in ("START of alice", "OPENING of alice", "OPENING of bob", "RESULT of bob"):
        yield Case(f"sealed {message}", "anywhere", at(0))
    yield Case("sealed FAILED of bob", "anywhere", at(0), "bad request")
    for part, find in {"frame header": at(0, 8), "lease and first row": at(8, 32), "bob's envelope": at(185)}.items():
        yield Case("CHECK of alice", part, find, "after a bad request")
    yield Case("CHECKED of bob", "frame header", at(0, 8), "after a bad request")
    yield Case("CHECKED of bob", "kind and length of an outcome", at(8, 13), "after a bad request")
    for message in ("CHECK of alice", "CHECKED of bob"):
        yield Case(f"sealed {message}", "anywhere", at(0), "after a bad request")
    yield from _starting()
    yield from _publishing()


def _starting() -> Iterator[Case]:
    on: Occasion = "alice restarts"
    for who in ("alice", "bob"):
        yield Case(f"HELLO of {who}", "version", member("version"), on)
        yield Case(f"HELLO of {who}", "boot", member("boot"), on)
    yield Case("HELLO of alice", "key", member("key"), on)
    yield Case("HELLO of bob", "sealed secret", member("sealed"), on)
    for message in ("PING of alice", "STOCK of bob", "LEASE of alice", "JOINED of bob"):
        yield Case(f"sealed {message}", "anywhere", at(0), on)
    yield Case("PING of alice", "content", at(8), on)
    for part in ("lease", "position", "lost"):
        yield Case("STOCK of bob", part, member(part), "nothing")
    # How many digits it has depends on time: one flip that leaves a number of any length, one that leaves none.
    yield Case("STOCK of bob", "made", member("made"), "nothing", flips=((0.0, 6), (1.0, 0)))
    yield Case("LEASE of alice", "upload", member("upload"), on)
    yield Case("LEASE of alice", "lease", member("lease"), on)
    yield Case("LEASE of alice", "ticket", member("ticket"), on)
    yield Case("JOINED of bob", "content", at(8), on)
    yield Case("leases request", "upload", member("upload_id"), on)
    yield Case("leases request", "rows", member("rows"), on)
    for message in ("leases answer", "join answer"):
        for part in ("seeds", "lease_id", "upload_id", "rows", "ticket"):
            yield Case(message, part.replace("_", " "), member(part), on)
    for message in ("leases request", "join request"):
        yield Case(message, "key", member("key"), on)
    for message in ("join request", "bundle request"):
        yield Case(message, "ticket", member("ticket"), on)
    yield Case("bundle answer", "corrections", at(0, -16), on)
    yield Case("bundle answer", "tag", at(-16), on)


def _publishing() -> Iterator[Case]:
    on: Occasion = "publishing"
    for who in ("alice", "bob"):
        yield Case(f"upload {who}", "magic", at(0, 4), on)
        yield Case(f"upload {who}", "manifest", upload_manifest, on)
        yield Case(f"upload {who}", "plan", upload_plan, on)
        yield Case(f"upload {who}", "provider's envelope", dealer_envelope, on)
        yield Case(f"upload {who}", "own envelope", own_envelope, on)
        yield Case(f"upload {who}", "masked weights", masked_weights, on)
    yield Case("uploads request", "upload", member("upload_id"), on)
    yield Case("uploads request", "plan", member("frac_bits"), on)
    yield Case("uploads request", "seeds", member("seeds"), on)


@dataclass
class Flip:
    """Flips one bit of one message."""

    case: Case
    where: float  # of the part, 0 to 1
    bit: int
    seen: int = 0
    done: bool = False
    happened: asyncio.Event = field(default_factory=asyncio.Event)
    problems: list[ProblemType] = field(default_factory=list)  # raised anywhere since

    def __call__(self, name: str, message: bytes) -> bytes:
        if self.done or name != self.case.message:
            return message
        self.seen += 1
        if self.seen <= self.case.nth:
            return message
        self.done = True
        self.happened.set()
        start, stop = self.case.find(message)
        place = start + int(self.where * (stop - 1 - start))
        return message[:place] + bytes([message[place] ^ 1 << self.bit]) + message[place + 1 :]


async def answer(w: World) -> str:
    """What the client is left with."""
    try:
        await w.predict(X)
    except AssertionError:
        return "wrong"
    except CatalogueError:
        return "refused: CatalogueError"
    except ResultRejected:
        return "refused: ResultRejected"
    except FromProblem as error:
        return f"refused: {error.problem.kind.name}"
    except MoietyError as error:
        return f"refused: {type(error).__name__}"
    return "right"


def bad_request(w: World) -> bytes:
    body = bytearray(w.call(X).body)
    body[-1] ^= 1
    return bytes(body)


async def happens(w: World, flip: Flip) -> str:
    if flip.case.on == "after a bad request":
        with pytest.raises(Problem):
            await w.ask(w.an_alice(), bad_request(w))
    w.change = flip
    match flip.case.on:
        case "alice restarts":
            await w.restart("alice")
        case "nothing":
            await flip.happened.wait()
            await asyncio.sleep(0.1)
        case "publishing":
            try:
                await w.publish()
            except Problem as problem:
                assert flip.done, flip.case
                return f"refused: {problem.kind.name}"
        case "bad request":
            (alice,) = w.alices
            assert alice.leader is not None
            alice.leader._suspects._until.clear()  # otherwise bob is asked before
            try:
                await w.ask(w.an_alice(), bad_request(w))
            except Problem as problem:
                assert flip.done, flip.case
                return f"refused: {problem.kind.name}"
    found = await answer(w)
    assert flip.done, f"{flip.case.message} was not sent"
    if found != "right" or not flip.problems:
        return "right, not noticed" if found == "right" else found
    return f"right, after {flip.problems[0].name}"


async def found_in(root: Path, detector: Detector, patch: pytest.MonkeyPatch) -> dict[tuple[str, str], list[str]]:
    rows: dict[tuple[str, str], list[str]] = {}
    original = Problem.__init__
    flip: Flip | None = None

    def noted(self: Problem, kind: ProblemType, detail: str = "", **options: Any) -> None:
        original(self, kind, detail, **options)
        if flip is not None and flip.done:
            flip.problems.append(kind)

    patch.setattr(Problem, "__init__", noted)
    for number, (_, parts) in enumerate(groupby(cases(), lambda case: case.message)):
        async with world(root / str(number), detector) as w:
            for case in parts:
                for where, bit in case.flips:
                    async with asyncio.timeout(_SECONDS):
                        assert await answer(w) == "right"
                        flip = Flip(case, where, bit)
                        outcome = await happens(w, flip)
                        flip, w.change = None, unchanged
                        rows.setdefault((case.message, case.part), []).append(outcome)
                        if await answer(w) != "right":
                            await w.publish()
    return rows


@pytest.mark.long
def test_one_flipped_bit(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    rows = asyncio.run(found_in(root, detector, monkeypatch))
    assert not [row for row, outcomes in rows.items() if "wrong" in outcomes]
    detector.check()
    text = DOCUMENT.read_text()
    head, _, _ = text.partition(_HEAD)
    found = head + _HEAD + "".join(_line(*row, outcomes) for row, outcomes in rows.items())
    if pytestconfig.getoption("--rewrite"):
        DOCUMENT.write_text(found)
        return
    assert text == found, "make docs-integrity writes what is found now"


# A bit of base64 may leave no base64, or no key, or another one; a bit of a lease's random id may leave no hex digit;
# either end of a lane may be the first to learn that it ended: which problem comes first is chance.
_CHANCE = {"key", "seeds", "sealed secret", "ticket", "lease id"}


def _line(message: str, part: str, outcomes: list[str]) -> str:
    if message.startswith("sealed ") or part in _CHANCE:
        for noticed in ("right, after ", "refused: "):
            if all(outcome.startswith(noticed) for outcome in outcomes):
                outcomes = [f"{noticed}whichever problem came first"]
    return f"| {message} | {part} | {'; '.join(sorted(set(outcomes)))} |\n"
