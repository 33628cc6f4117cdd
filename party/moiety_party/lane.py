"""The link between the parties: sealed frames over a WebSocket, one session at a time, and a run's openings over it."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from fastapi import WebSocket, WebSocketDisconnect

from moiety_shared.crypto.channel import Channel
from moiety_shared.crypto.integrity import Transcript
from moiety_shared.messages.wire import Frame, FrameKind, frame_header
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.opening import Kind, Round, Session, to_wire

MAX_MESSAGE = 1 << 25
"""The most bytes in a WebSocket message."""
INLINE_WORK = 32_000_000
"""The most multiply-adds that are done on the event loop: they hold it up for one or two milliseconds."""

_PART_BYTES = 1 << 23  # an opening that is longer is sent in parts
_SMALL_BYTES = 48_000
_INLINE_BYTES = 1 << 22  # more than this is combined off the event loop
_HASHED_BYTES = 1 << 20  # more than this is hashed off the event loop

Outcome = TypeVar("Outcome")
Numbers = Iterator[int]


class Witness(Protocol):
    """Keeps what both parties send in a run."""

    def sent(self, rounds: Sequence[Round]) -> bytes:
        """This party has sent its next round, slice by slice. Returns what it signs, once that is to be sent."""
        ...

    def heard(self, round_: Round, peer: memoryview) -> None:
        """The peer has sent these bytes in the same round of the next slice."""
        ...

    @property
    def binds(self) -> bool:
        """Whether both parties have to sign now, before this one goes on."""
        ...

    def sign(self) -> bytes:
        """What this party signs of all that both have sent."""
        ...

    def check(self, said: bytes | memoryview) -> None:
        """Check what the peer signs. Raises Problem OPENINGS_DIFFER."""
        ...


class Link(Protocol):
    """Carries whole binary messages, in order. Raises Problem PEER_UNAVAILABLE when it is closed or broken."""

    async def send(self, message: bytes) -> None: ...

    async def recv(self) -> bytes: ...

    async def close(self) -> None: ...


class ServerLink:
    """bob's end under a server that is not our own, such as Ray Serve: through ASGI."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def send(self, message: bytes) -> None:
        try:
            await self._socket.send_bytes(message)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise Problem(ProblemType.PEER_UNAVAILABLE) from error

    async def recv(self) -> bytes:
        try:
            message = await self._socket.receive()
        except RuntimeError as error:
            raise Problem(ProblemType.PEER_UNAVAILABLE) from error
        if message["type"] != "websocket.receive":
            raise Problem(ProblemType.PEER_UNAVAILABLE)
        return message.get("bytes") or b""

    async def close(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # closed by the other side already
            await self._socket.close()


class Refused(Problem):
    """The peer answered FAILED."""


class Lane:
    """A link after its HELLO. Every frame on it is sealed, and its rounds and bytes are counted.

    After a failure the lane is of no more use, unless the peer refused before the run's first opening.
    """

    def __init__(self, link: Link, channel: Channel, peer: str) -> None:
        """`peer` is the boot that the HELLO of the process at the other end named."""
        self._link = link
        self._channel = channel
        self.peer = peer
        self.in_run = False  # the peer opened something, or the link broke: a failure now makes the lane useless
        self.rounds = 0
        self.opening_bytes = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self._counted = (0, 0, 0)

    async def send(self, kind: FrameKind, *payload: bytes | memoryview, number: int = 0) -> None:
        message = self._channel.seal(frame_header(kind, number, sum(map(len, payload))), *payload)
        self.sent_bytes += len(message)
        try:
            await self._link.send(message)
        except Problem as broken:
            self.in_run = True
            await self._last_words()
            raise broken from None

    async def _last_words(self) -> None:
        """Read what the peer sent before the link broke. Raises Refused when the peer said why."""
        try:
            while True:
                await self.recv()
        except Refused:
            raise
        except Problem:
            return

    async def send_json(self, kind: FrameKind, value: object) -> None:
        await self.send(kind, json.dumps(value).encode())

    async def recv(self) -> Frame:
        """Read the next frame. Raises Refused, with the peer's problem, when it is FAILED."""
        message = await self._link.recv()
        self.received_bytes += len(message)
        try:
            frame = Frame.unpack(self._channel.open(message))
        except Problem as error:
            raise garbled(error.detail) from None
        if frame.kind is FrameKind.FAILED:
            problem = Problem.from_document(read_json(frame))
            raise Refused(problem.kind, problem.detail, retry_after=problem.retry_after)
        return frame

    async def expect(self, kind: FrameKind, number: int = 0) -> memoryview | bytes:
        """Read the payload of the next frame. Raises PEER_UNAVAILABLE unless the frame has this kind and number."""
        frame = await self.recv()
        if frame.kind is not kind or frame.number != number:
            raise garbled(f"the peer sent {frame.kind.name} {frame.number} instead of {kind.name} {number}")
        return frame.payload

    async def expect_json(self, kind: FrameKind) -> dict[str, Any]:
        return read_json(Frame(kind, await self.expect(kind)))

    def counted(self) -> tuple[int, int, int]:
        """The rounds, bytes sent and bytes received since the last call."""
        before, self._counted = self._counted, (self.rounds, self.sent_bytes, self.received_bytes)
        rounds, sent, received = (now - then for now, then in zip(self._counted, before, strict=True))
        return rounds, sent, received

    async def close(self) -> None:
        self._channel.close()
        await self._link.close()

    async def drive(
        self,
        sessions: Sequence[Session[Outcome]],
        transcript: Transcript | None,
        executor: Executor,
        *,
        away: Container[int] = (),
        witness: "Witness | None" = None,
    ) -> list[Outcome]:
        """Run one party's sessions to their ends. They are the slices of one batch, and have the same rounds.

        All that is opened goes into the transcript, round by round and slice by slice, in the same order at both
        parties. Verified sessions need none: they compare it in their check. The slices take turns, so that one
        computes while another's opening travels. Each opening is sent before the peer's is awaited. Steps with more
        than `INLINE_WORK` run in `executor`, so that the event loop goes on serving; so do the steps behind the rounds
        of numbers `away`, which may wait for a database. `witness` is told what both parties send, and what it answers
        is sent as SIGNED. It is told of a round while the peer's is on its way. Where it binds, no session goes on
        before the peer has signed as well.
        """
        outcomes: list[Outcome] = []
        sent, received = itertools.count(), itertools.count()
        rounds: list[Round] = []
        for session in sessions:
            try:
                rounds.append(next(session))
            except StopIteration as stop:
                outcomes.append(stop.value)
        for group in _groups(rounds):
            await self._open(group, sent)
        begun = self.rounds
        while rounds:
            inline = self.rounds - begun not in away
            self.rounds += 1
            if witness is not None:
                await self._tell(witness, rounds, executor)
            turns, steps, together = iter(sessions), list[Round](), True
            for group in _groups(rounds):
                peer, at = await self._opened(sum(r.wire_bytes for r in group), received), 0
                self.in_run = True
                for opened in group:
                    part, at = peer[at : at + opened.wire_bytes], at + opened.wire_bytes
                    if witness is not None:
                        witness.heard(opened, part)
                        if witness.binds:
                            await self.send(FrameKind.SIGNED, witness.sign())
                            witness.check(await self.expect(FrameKind.SIGNED))
                    if inline and opened.work <= INLINE_WORK and opened.wire_bytes <= _INLINE_BYTES:
                        step = _step(next(turns), opened, part, transcript)
                    else:
                        loop = asyncio.get_running_loop()
                        step = await loop.run_in_executor(executor, _step, next(turns), opened, part, transcript)
                    if isinstance(step, _Done):
                        outcomes.append(step.outcome)
                        continue
                    steps.append(step)
                    together = steps[0].wire_bytes <= _SMALL_BYTES
                    if not together:
                        await self._open([step], sent)
                        await asyncio.sleep(0)  # lets it out before the next slice computes
            if steps and together:
                await self._open(steps, sent)
            rounds = steps
        return outcomes

    async def _tell(self, witness: "Witness", rounds: Sequence[Round], executor: Executor) -> None:
        """Tell the witness that these rounds were sent. A large round is hashed off the event loop."""
        if sum(r.wire_bytes for r in rounds) > _HASHED_BYTES:
            said = await asyncio.get_running_loop().run_in_executor(executor, witness.sent, rounds)
        else:
            said = witness.sent(rounds)
        if said:
            await self.send(FrameKind.SIGNED, said)

    async def _open(self, rounds: Sequence[Round], numbers: Numbers) -> None:
        shares = [to_wire(opening).data for r in rounds for opening in r.openings]
        size = sum(map(len, shares))
        for parts in [shares] if size <= _PART_BYTES else _parts(shares):
            await self.send(FrameKind.OPENING, *parts, number=next(numbers) & 0xFFFF)
        self.opening_bytes += size

    async def _opened(self, size: int, numbers: Numbers) -> memoryview:
        """Read the peer's shares of openings, `size` bytes. Raises PEER_UNAVAILABLE unless they are exactly as long."""
        if size <= _PART_BYTES:
            return memoryview(await self._part(size, numbers))
        whole = bytearray(size)
        for at in range(0, size, _PART_BYTES):
            end = min(at + _PART_BYTES, size)
            whole[at:end] = await self._part(end - at, numbers)
        return memoryview(whole)

    async def _part(self, size: int, numbers: Numbers) -> memoryview | bytes:
        part = await self.expect(FrameKind.OPENING, next(numbers) & 0xFFFF)
        if len(part) != size:
            raise garbled(f"the peer sent openings of {len(part)} bytes instead of {size}")
        return part


def _groups(rounds: list[Round]) -> list[list[Round]]:
    """The slices' rounds, grouped by the frame, or the sequence of frames, in which they travel.

    Small rounds share one frame, because a frame costs more than so few bytes. The first slice decides.
    """
    return [rounds] if rounds and rounds[0].wire_bytes <= _SMALL_BYTES else [[r] for r in rounds]


def _parts(shares: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """The bytes of all shares, in frames of `_PART_BYTES`; the last one may be shorter."""
    frame, left = list[memoryview](), _PART_BYTES
    for share in shares:
        rest = share
        while len(rest) > left:
            frame.append(rest[:left])
            yield frame
            rest, frame, left = rest[left:], [], _PART_BYTES
        frame.append(rest)
        left -= len(rest)
    yield frame


@dataclass(frozen=True)
class _Done(Generic[Outcome]):
    outcome: Outcome


def _step(
    session: Session[Outcome], opened: Round, peer: memoryview, transcript: Transcript | None
) -> "Round | _Done[Outcome]":
    """Take a session to its next round, or to its end, with the peer's shares of the round before."""
    values = opened.combined(peer)
    if transcript is not None:
        for opening, value in zip(opened.openings, values, strict=True):
            if opening.kind is not Kind.EACH:  # it is not alike for both
                transcript.add(value)
    try:
        return session.send(values)
    except StopIteration as stop:  # cannot cross an executor
        return _Done(stop.value)


def garbled(what: str) -> Problem:
    """The problem of a peer that sends nonsense: as if it were not there, so that what began may begin again."""
    return Problem(ProblemType.PEER_UNAVAILABLE, what)


def read_json(frame: Frame) -> dict[str, Any]:
    try:
        value = json.loads(bytes(frame.payload))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise garbled(f"the {frame.kind.name} frame does not hold a JSON object")
    return value
