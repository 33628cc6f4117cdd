"""The peer link: frames over a WebSocket, one session at a time, and the driving of a run's openings over it."""

import asyncio
import itertools
import json
from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from fastapi import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.opening import Opening, combine, to_wire, wire_bytes
from moiety_shared.ring import Array, Ring
from moiety_shared.wire import Frame, FrameKind, malformed, pack_frame

MAX_FRAME = 1 << 28  # bytes; an opening of the largest layer must fit
Outcome = TypeVar("Outcome")

_SMALL_BYTES = 48_000
INLINE_WORK = 32_000_000  # multiply-adds that may hold up the event loop: one or two milliseconds


class Link(Protocol):
    """Whole binary messages, in order."""

    async def send(self, message: bytes) -> None: ...

    async def recv(self) -> bytes: ...

    async def close(self) -> None: ...


class ClientLink:
    """The leader's end (websockets)."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, message: bytes) -> None:
        try:
            await self._socket.send(message)
        except WebSocketException as error:
            raise Problem(ProblemType.PEER_UNAVAILABLE) from error

    async def recv(self) -> bytes:
        try:
            message = await self._socket.recv(decode=False)
        except WebSocketException as error:
            raise Problem(ProblemType.PEER_UNAVAILABLE) from error
        return message if isinstance(message, bytes) else message.encode()

    async def close(self) -> None:
        await self._socket.close()


class ServerLink:
    """The helper's end (FastAPI)."""

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
        await self._socket.close()


class Refused(Problem):
    """The peer answered FAILED."""


class Lane:
    """One link with the bytes and rounds counted on it. Any failure in a session ends the lane."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.in_run = False  # openings are under way: after a failure now, the lane is of no more use
        self.rounds = 0
        self.opening_bytes = 0
        self.sent_bytes = 0

    async def send(self, kind: FrameKind, *payload: bytes | memoryview, number: int = 0) -> None:
        message = pack_frame(kind, number, *payload)
        self.sent_bytes += len(message)
        await self._link.send(message)

    async def send_json(self, kind: FrameKind, value: object) -> None:
        await self.send(kind, json.dumps(value).encode())

    async def recv(self) -> Frame:
        """The next frame. Raises Refused, with the peer's problem, when it is FAILED."""
        frame = Frame.unpack(await self._link.recv())
        if frame.kind is FrameKind.FAILED:
            problem = Problem.from_document(read_json(frame))
            raise Refused(problem.kind, problem.detail)
        return frame

    async def expect(self, kind: FrameKind, number: int = 0) -> memoryview | bytes:
        """The payload of the next frame, which must be of that kind and number."""
        frame = await self.recv()
        if frame.kind is not kind or frame.number != number:
            raise malformed(f"the peer sent {frame.kind.name} {frame.number} for {kind.name} {number}")
        return frame.payload

    async def expect_json(self, kind: FrameKind) -> dict[str, Any]:
        return read_json(Frame(kind, await self.expect(kind)))

    async def close(self) -> None:
        await self._link.close()

    async def drive(
        self, ring: Ring, sessions: Sequence[Generator[Opening, Array, Outcome]], executor: Executor
    ) -> list[Outcome]:
        """Run one party's generators to their ends, all of one length: slices of one batch.

        They take turns, so that one computes while another's opening travels; each opening is sent before the peer's
        is awaited. Steps with much work run in `executor`, so that the event loop goes on serving meanwhile.
        """
        outcomes: list[Outcome] = []
        openings = [next(session) for session in sessions]
        sent = received = 0
        for frame in _frames(openings):
            await self._open(frame, sent)
            sent += 1
        while openings:
            self.rounds += 1
            turns, steps = iter(sessions), []
            for frame in _frames(openings):
                peer = memoryview(await self.expect(FrameKind.OPENING, received & 0xFFFF))
                received += 1
                for opening, part in zip(frame, _parts(frame, peer), strict=True):
                    step = await _advance(ring, next(turns), opening, part, executor)
                    if isinstance(step, _Done):
                        outcomes.append(step.outcome)
                        continue
                    steps.append(step)
                    if not _small(steps[0]):
                        await self._open([step], sent)
                        await asyncio.sleep(0)  # lets it out before the next slice computes
                        sent += 1
            if steps and _small(steps[0]):
                await self._open(steps, sent)
                sent += 1
            openings = steps
        return outcomes

    async def _open(self, openings: Sequence[Opening], number: int) -> None:
        shares = [to_wire(opening).data for opening in openings]
        await self.send(FrameKind.OPENING, *shares, number=number & 0xFFFF)
        self.opening_bytes += sum(len(share) for share in shares)


def _small(opening: Opening) -> bool:
    """Whether the slices of this round share one frame: a frame costs more than its bytes. The first slice decides."""
    return wire_bytes(opening) <= _SMALL_BYTES


def _frames(openings: Sequence[Opening]) -> list[Sequence[Opening]]:
    """A round's openings by frame."""
    return [openings] if _small(openings[0]) else [[opening] for opening in openings]


def _parts(openings: Sequence[Opening], payload: memoryview) -> list[memoryview]:
    """A frame's payload by opening. Raises Problem MALFORMED when it is not exactly that long."""
    sizes = [wire_bytes(opening) for opening in openings]
    if len(payload) != sum(sizes):
        raise malformed(f"openings of {sum(sizes)} bytes arrived with {len(payload)}")
    ends = list(itertools.accumulate(sizes))
    return [payload[end - size : end] for end, size in zip(ends, sizes, strict=True)]


@dataclass(frozen=True)
class _Done(Generic[Outcome]):
    outcome: Outcome


async def _advance(
    ring: Ring,
    session: Generator[Opening, Array, Outcome],
    opening: Opening,
    peer: bytes | memoryview,
    executor: Executor,
) -> "Opening | _Done[Outcome]":
    def step() -> "Opening | _Done[Outcome]":
        try:
            return session.send(opened)
        except StopIteration as stop:  # cannot cross an executor
            return _Done(stop.value)

    try:
        opened = combine(ring, opening, peer)
    except ValueError as error:
        raise malformed(str(error)) from None
    if opening.work <= INLINE_WORK:
        return step()
    return await asyncio.get_running_loop().run_in_executor(executor, step)


def read_json(frame: Frame) -> dict[str, Any]:
    try:
        value = json.loads(bytes(frame.payload))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise malformed(f"{frame.kind.name} does not hold a JSON object")
    return value
