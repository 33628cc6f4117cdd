"""alice's lanes: her connections to bob, kept open and lent to one session at a time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import websockets

from moiety_party.hello import call
from moiety_party.lane import MAX_MESSAGE, Lane, Link, Refused
from moiety_party.party import Party
from moiety_service.http import clients
from moiety_service.http.websocket import WebSocketLink
from moiety_service.observability.logs import log
from moiety_shared.problems import Problem, ProblemType

_CONNECT_SECONDS = 3.0
_PING_INTERVAL = 5.0

Connect = Callable[[Party], Awaitable[Link]]


async def connect(party: Party) -> Link:
    """Open a WebSocket to bob. Raises Problem PEER_UNAVAILABLE."""
    settings = party.settings
    try:
        socket = await websockets.connect(
            f"{settings.peer_url}/v1/peer",
            additional_headers={"authorization": f"Bearer {party.identity.credential('bob')}"},
            ssl=party.tls if settings.peer_url.startswith("wss:") else None,
            compression=None,
            proxy=None,
            open_timeout=_CONNECT_SECONDS,
            ping_interval=None,  # the link sends pings
            write_limit=MAX_MESSAGE,
        )
    except (OSError, TimeoutError, websockets.WebSocketException) as error:
        raise Problem(ProblemType.PEER_UNAVAILABLE) from error
    transport = socket.transport
    transport.get_extra_info("socket").setsockopt(*clients.SOCKET_BUFFER)
    # alice reads what bob sends at once, and he is a round ahead at most. He never waits for her, so the two cannot
    # deadlock. He reads nothing while he computes or waits for rows, so he may be silent for as long as a run.
    link = WebSocketLink(
        transport, MAX_MESSAGE, client=True, ping_seconds=_PING_INTERVAL, silent_seconds=settings.run_seconds
    )
    transport.set_protocol(link)  # bob says nothing before alice's HELLO
    return link


class Lanes:
    """Lends lanes: `settings.lanes` of them at a time. It opens one when no lane is idle."""

    def __init__(self, party: Party, connect: Connect = connect) -> None:
        self._party = party
        self._connect = connect
        self._idle: list[Lane] = []
        self._free = asyncio.Semaphore(party.settings.lanes)

    async def close(self) -> None:
        await asyncio.gather(*map(self._end, self._idle), return_exceptions=True)

    @property
    def all_lent(self) -> bool:
        return self._free.locked()

    @property
    def idle_peers(self) -> set[str]:
        """The boots of bob's processes to which an idle lane leads."""
        return {lane.peer for lane in self._idle}

    @asynccontextmanager
    async def lend(self, prefer: Callable[[Lane], int] = lambda _: 0) -> AsyncIterator[Lane]:
        """Lend a lane for one session: of the idle ones, the one that `prefer` ranks highest.

        The lane is kept for the next session only if this one ends cleanly. Raises Problem PEER_UNAVAILABLE when bob
        cannot be reached or the session takes longer than `settings.run_seconds`.
        """
        await self._free.acquire()
        lane: Lane | None = None
        clean = False
        try:
            async with asyncio.timeout(self._party.settings.run_seconds):
                if self._idle:
                    lane = max(self._idle, key=prefer) if len(self._idle) > 1 else self._idle[0]
                    self._idle.remove(lane)
                else:
                    lane = await self._open()
                try:
                    yield lane
                    clean = True
                except Refused:
                    clean = not lane.in_run
                    raise
                except Problem as problem:
                    if problem.kind is ProblemType.PEER_UNAVAILABLE:
                        await self._end_idle(lane.peer)
                    raise
        except TimeoutError as error:
            raise Problem(ProblemType.PEER_UNAVAILABLE, "the run took too long") from error
        finally:
            self._free.release()
            if lane is not None:
                self._party.metrics.session(*lane.counted())
            if lane is not None and clean:
                self._idle.append(lane)
            elif lane is not None:
                await self._end(lane)

    async def _open(self) -> Lane:
        """Open a lane to any of bob's processes: several may share his address."""
        lane = await call(await self._connect(self._party), self._party.boot)
        self._party.pools.lane_opened(lane.peer)
        log().info("peer", peer=lane.peer)
        return lane

    async def _end(self, lane: Lane) -> None:
        self._party.pools.lane_ended(lane.peer)
        await lane.close()

    async def _end_idle(self, peer: str) -> None:
        """End the idle lanes to a peer because another lane to it broke.

        They are most likely broken too, and each would cost a run to find out.
        """
        broken = [lane for lane in self._idle if lane.peer == peer]
        self._idle = [lane for lane in self._idle if lane.peer != peer]
        for lane in broken:
            await self._end(lane)
