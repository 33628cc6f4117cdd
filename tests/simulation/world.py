"""A whole deployment in one process: clients, alice, bob and the crypto provider, with links that can be cut, bytes
that can be changed, parties that crash, come back from old copies of their folders, or live twice.

The parties' own code runs unchanged. Only what carries bytes is replaced: the peer link by queues, the provider's and
the clients' connections by httpx transports. See test_invariants.py for what must hold.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from moiety_client import inputs
from moiety_client.client import AsyncClient
from moiety_client.exchange import Call, Sealer, TokenHolder
from moiety_crypto_provider.app import build
from moiety_crypto_provider.settings import ProviderSettings
from moiety_party import hello
from moiety_party.helper.helper import Helper
from moiety_party.lane import Lane
from moiety_party.leader.lanes import Connect
from moiety_party.leader.leader import Leader
from moiety_party.leader.queue import Waiting
from moiety_party.party import Party
from moiety_party.settings import PartySettings
from moiety_server.publication import upload_body
from moiety_service.http.draining import Drain
from moiety_service.security import keys
from moiety_service.security.identity import LINKS, Identity
from moiety_shared.crypto import tokens
from moiety_shared.crypto.channel import Channel
from moiety_shared.crypto.possession import thumbprint
from moiety_shared.crypto.signing import key_text
from moiety_shared.crypto.tokens import Grant
from moiety_shared.messages.catalogue import Access, Entry, PartyEndpoint, SignedEntry, sign
from moiety_shared.messages.upload import Draws, MaskedModel
from moiety_shared.messages.verified import record_key
from moiety_shared.messages.wire import FrameKind
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import PROBLEM_JSON, Problem, ProblemType
from moiety_shared.ring import Array
from tests import days, plans
from tests.databases import Postgres
from tests.simulation.backups import Backups
from tests.simulation.detector import Detector

Role = Literal["alice", "bob", "provider"]
Change = Callable[[str, bytes], bytes]
"""What becomes of a message on its way; it is told which one it is."""

MAX_ROWS = 6
_FRAME_KIND = 0  # the first byte of a frame


def unchanged(_: str, message: bytes) -> bytes:
    return message


def kind_of(frame: bytes, party: int) -> str:
    return f"{FrameKind(frame[_FRAME_KIND]).name} of {('alice', 'bob')[party]}"


class FaultyChannel(Channel):
    """A party's channel: what it seals may have changed in its memory before, under the frame's name; what is sealed is
    changed on the wire, as "sealed" such."""

    def __init__(self, world: "World", secret: bytes, party: int, *transcript: bytes) -> None:
        super().__init__(secret, party, *transcript)
        self._world, self._party = world, party

    def seal(self, *parts: bytes | memoryview) -> bytes | bytearray:
        frame = b"".join(parts)
        name = kind_of(frame, self._party)
        self._world.sealing = f"sealed {name}"
        return super().seal(self._world.change(name, frame))


class Wire:
    """One lane. When it is cut, what was sent before still arrives."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.queues: tuple[asyncio.Queue[bytes | None], asyncio.Queue[bytes | None]] = (
            asyncio.Queue(),
            asyncio.Queue(),
        )
        self.broken = False

    def cut(self) -> None:
        self.broken = True
        for queue in self.queues:
            queue.put_nowait(None)


@dataclass
class End:
    """Party p's end of a wire."""

    wire: Wire
    party: int

    async def send(self, message: bytes | bytearray) -> None:
        if self.wire.broken:
            return  # as on a socket: who sends learns of it when they read
        world = self.wire.world
        name, world.sealing = world.sealing or kind_of(message, self.party), ""
        message = world.change(name, bytes(message))
        if world.is_cut(name):
            self.wire.cut()
            return
        self.wire.queues[1 - self.party].put_nowait(message)
        if world.at_frame is not None and world.frames >= world.at_frame[0]:
            _, act = world.at_frame
            world.at_frame = None
            act()

    async def recv(self) -> bytes:
        message = await self.wire.queues[self.party].get()
        if message is None:
            self.wire.queues[self.party].put_nowait(None)
            raise Problem(ProblemType.PEER_UNAVAILABLE)
        return message

    async def close(self) -> None:
        if not self.wire.broken:
            self.wire.cut()


class ToProvider(httpx.AsyncBaseTransport):
    """A party's connection to whichever provider runs now. Who crashed says nothing more."""

    def __init__(self, world: "World", node: "Node") -> None:
        self._world, self._node = world, node

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        world = self._world
        if world.provider is None or self._node.crashed:
            raise httpx.ConnectError("no provider", request=request)
        name = "bundle" if "/bundles/" in request.url.path else request.url.path.rsplit("/", 1)[-1]
        if request.method == "DELETE":
            name = "end"
        asked = world.change(f"{name} request", await request.aread())
        request = httpx.Request(request.method, request.url, headers=_without_length(request.headers), content=asked)
        transport = httpx.ASGITransport(app=world.provider, raise_app_exceptions=False)
        answer = await transport.handle_async_request(request)
        body = world.change(f"{name} answer" if answer.is_success else "problem", await answer.aread())
        return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(body))


def _without_length(headers: httpx.Headers) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "content-length"}


class WatchedLeader(Leader):
    """Counts the runs that ended well, by request."""

    def __init__(self, party: Party, connect: Connect) -> None:
        super().__init__(party, connect)
        self.completed = Counter[bytes]()
        self.runs: list[int] = []  # how many requests each run had
        run = self._runs.run

        async def counted(lane: Lane, batch: Sequence[Waiting]) -> None:
            await run(lane, batch)
            for waiting in batch:
                answer = waiting.answer
                if answer.done() and not answer.cancelled() and answer.exception() is None:
                    self.completed[waiting.request.binding.request_id] += 1
            self.runs.append(len(batch))

        self._runs.run = counted  # type: ignore[method-assign]


class Node:
    """One life of a party on a state folder."""

    def __init__(self, world: "World", role: Literal["alice", "bob"], folder: Path) -> None:
        self.world, self.folder, self.alive, self.crashed = world, folder, True, False
        self.ended = asyncio.Event()
        settings = PartySettings(
            role=role,
            data_dir=folder,
            database_url=world.backups.url(folder),
            pool_rows=16,
            max_rows=MAX_ROWS,
            lanes=2,
            run_seconds=world.run_seconds,
            bundle_bytes=1 << 16,
        )
        identity = world.identities[role]
        headers = {"authorization": f"Bearer {identity.credential('crypto_provider')}"}
        provider = httpx.AsyncClient(transport=ToProvider(world, self), base_url="http://provider", headers=headers)
        self.party = Party(settings, identity, provider)
        self.wires: list[Wire] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.leader = WatchedLeader(self.party, self._connect) if role == "alice" else None
        self.drain = Drain()
        self.helper = Helper(self.party, self.drain) if role == "bob" else None

    async def _connect(self, _: Party) -> End:
        bob = self.world.a_bob()
        assert bob.helper is not None
        wire = Wire(self.world)
        for node in (self, bob):
            node.wires = [w for w in node.wires if not w.broken] + [wire]
        bob.start(bob.helper.serve(End(wire, 1)))
        return End(wire, 0)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def put_model(self, upload_id: str, body: bytes) -> None:
        body = self.world.change(f"upload {self.party.settings.role}", body)

        async def source() -> AsyncIterator[bytes]:
            for at in range(0, len(body), 1000):
                yield body[at : at + 1000]

        await self.party.models.receive(upload_id, source(), len(body))

    def crash(self) -> None:
        """All that is under way ends where it is."""
        self.alive, self.crashed = False, True
        self.ended.set()
        for wire in self.wires:
            wire.cut()
        for task in self.tasks:
            task.cancel()

    async def stop(self) -> None:
        """Close what is left, after a crash too: then bob has not written what he remembers."""
        self.alive, crashed = False, self.ended.is_set()
        if self.leader:
            await self.leader.close()
        for wire in self.wires:
            wire.cut()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.helper:
            self.helper._answered._fresh = {} if crashed else self.helper._answered._fresh
            await self.helper.close()
        await self.party.close()


class FromClient(httpx.AsyncBaseTransport):
    """The clients' connections: the catalogue, and an alice."""

    def __init__(self, world: "World") -> None:
        self._world = world

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        world = self._world
        if request.url.host == "owner":
            text = world.change("catalogue entry", world.entry.model_dump_json().encode())
            return httpx.Response(200, content=text)
        try:
            body = world.change("prediction request", await request.aread())
            answer = await world.ask(world.an_alice(), body)
        except Problem as problem:
            content = json.dumps(problem.document()).encode()
            return httpx.Response(problem.kind.status, content=content, headers={"content-type": PROBLEM_JSON})
        except (KeyError, ValueError, TypeError, AttributeError):  # what the app answers to anything unexpected
            content = json.dumps(Problem(ProblemType.INTERNAL).document()).encode()
            return httpx.Response(500, content=content, headers={"content-type": PROBLEM_JSON})
        except asyncio.CancelledError:
            raise httpx.RemoteProtocolError("alice went away", request=request) from None
        return httpx.Response(200, content=world.change("result", answer))


@dataclass
class World:
    """Everything, and the switches for what goes wrong."""

    root: Path
    detector: Detector
    backups: Backups
    plan: Plan = field(default_factory=plans.branches)
    weights: dict[str, Array] = field(default_factory=plans.weights)
    run_seconds: float = 3
    provider: FastAPI | None = None
    alices: list[Node] = field(default_factory=list)
    bobs: list[Node] = field(default_factory=list)
    change: Change = unchanged
    sealing: str = ""  # what was sealed and is about to be sent
    frames: int = 0  # frames sent so far on all lanes
    cut_at: int = -1  # the lane that carries this frame is cut
    run_frames: int = 0  # those of runs alone: what alice and bob ask one another besides comes at any time
    cut_run_at: int = -1  # the lane that carries this frame of a run is cut
    at_frame: tuple[int, Callable[[], None]] | None = None
    turns: Counter[str] = field(default_factory=Counter)  # by role
    uploads: int = 0
    lives: list[Node] = field(default_factory=list)
    identities: dict[str, Identity] = field(init=False)
    _owner: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    _entry: SignedEntry | None = None

    def __post_init__(self) -> None:
        keys.init(self.root / "keys", {})
        self.identities = {role: Identity.load(self.root / "keys" / role, role) for role in LINKS}

    @property
    def entry(self) -> SignedEntry:
        assert self._entry is not None
        return self._entry

    # Who lives

    def folder(self, role: Role) -> Path:
        return self.root / role

    def start_provider(self) -> None:
        folder = self.folder("provider")
        settings = ProviderSettings(data_dir=folder, database_url=self.backups.url(folder))
        self.provider = build(settings, self.identities["crypto_provider"])

    def start_party(self, role: Literal["alice", "bob"], folder: Path | None = None) -> Node:
        node = Node(self, role, folder or self.folder(role))
        self.lives.append(node)
        (self.alices if role == "alice" else self.bobs).append(node)
        return node

    async def stop(self, role: Role, *, crash: bool = False) -> None:
        """All lives of a role; those that crash end where they are."""
        if role == "provider":
            if self.provider is not None:
                async with self.provider.router.lifespan_context(self.provider):
                    pass  # it lets go of its database
            self.provider = None
            return
        nodes = self.alices if role == "alice" else self.bobs
        while nodes:
            node = nodes.pop()
            if crash:
                node.crash()
            await node.stop()

    def start(self, role: Role) -> None:
        if role == "provider":
            self.start_provider()
        else:
            self.start_party(role)

    async def restart(self, role: Role, *, crash: bool = False) -> None:
        await self.stop(role, crash=crash)
        self.start(role)

    def copy(self, role: Role, name: str) -> Path:
        """A backup of the role as it is now."""
        target = self.root / "copies" / f"{role}-{name}"
        self.backups.back_up(role, self.folder(role), target)
        return target

    async def restore(self, role: Role, copy: Path) -> None:
        """The role comes back from a backup."""
        await self.stop(role)
        self.backups.restore(role, copy, self.folder(role))
        self.start(role)

    def clone(self, role: Literal["alice", "bob"]) -> Node:
        """The role lives twice: once more, on a folder and a database made from a backup of those it has."""
        folder = self.root / "copies" / f"{role}-lives"
        self.backups.restore(role, self.copy(role, "clone"), folder)
        return self.start_party(role, folder)

    def _next(self, role: str, nodes: list[Node]) -> Node:
        """Lives of one role take turns, as behind one address."""
        if not nodes:
            raise Problem(ProblemType.PEER_UNAVAILABLE)
        self.turns[role] += 1
        return nodes[self.turns[role] % len(nodes)]

    def an_alice(self) -> Node:
        return self._next("alice", [n for n in self.alices if n.alive])

    def a_bob(self) -> Node:
        return self._next("bob", [n for n in self.bobs if n.alive])

    def is_cut(self, name: str) -> bool:
        """Whether the lane that carries the next frame, of that name, is cut."""
        of_run = any(kind in name for kind in ("START", "OPENING", "RESULT"))
        self.frames += 1
        self.run_frames += of_run
        return self.frames == self.cut_at or (of_run and self.run_frames == self.cut_run_at)

    # What the owner and the clients do

    async def publish(self, access: Access = "open") -> str:
        """The model as a new upload, and its entry. Returns the upload's id. Not while a party lives twice."""
        self.uploads += 1
        upload_id = f"{self.uploads:032x}"
        draws = Draws.fresh()
        masked = MaskedModel(upload_id, self.plan, self.weights, draws)
        nodes = (self.an_alice(), self.a_bob())
        for party in (1, 0):
            what = {"name": "small", "version": self.uploads, "access": access}
            keys = nodes[party].party.identity.keyring.public, self.identities["server"].provider_key
            _, body = upload_body(masked, what, party, self._owner, *keys)
            await nodes[party].put_model(upload_id, b"".join(body))
        entry = Entry(
            name="small",
            version=1,
            upload_id=upload_id,
            plan=self.plan,
            parties=tuple(  # type: ignore[arg-type]
                PartyEndpoint(name=n, url=f"https://{n}", sealing_key=node.party.identity.keyring.public.text())
                for n, node in zip(("alice", "bob"), nodes, strict=True)
            ),
            access=access,
            max_rows=MAX_ROWS,
            record_key=key_text(record_key(draws.seeds).public_key()) if self.plan.verified else None,
            **plans.TERM | {"revision": self.uploads},  # type: ignore[arg-type]
        )
        self._entry = sign(entry, self._owner)
        return upload_id

    @asynccontextmanager
    async def client(self, seconds: float = 60) -> AsyncIterator[AsyncClient]:
        # To trust one CA takes a thousandth of a second; to read all of the system's takes twenty, each time.
        ca = self.identities["alice"].folder / "tls" / "ca.pem"
        made = AsyncClient("https://owner", owner_key=self.entry.owner_key, ca=ca, timeout=seconds)
        await made._http.aclose()
        made._http = httpx.AsyncClient(transport=FromClient(self))
        async with made:
            yield made

    async def predict(self, x: Array, seconds: float = 60) -> None:
        """One client's prediction, which must be right if it comes."""
        async with self.client(seconds) as client:
            answer = await client.predict("small", x / 16.0)
        check(x, answer.outputs)

    def call(self, x: Array, holder: TokenHolder | None = None) -> Call:
        """A request to be sent by hand."""
        entry = self.entry.entry
        return Sealer(entry, holder).call(inputs.encode(entry, x / 16.0))

    def holder(self, **members: object) -> TokenHolder:
        """Somebody with a token of the owner, bound to a key of their own."""
        key = Ed25519PrivateKey.generate()
        bound = thumbprint(key.public_key().public_bytes_raw())
        allowed = {"token_id": "ab" * 16, "subject": "clinic", "expires": 1 << 37, "key": bound}
        return TokenHolder(tokens.issue(Grant.model_validate(allowed | members), self._owner), key)

    def token(self, rows: int) -> str:
        """For as many inputs. The model is open, but a token that is shown counts."""
        return self.holder(key=None, quota=days.quota(rows)).token

    async def ask(self, alice: Node, body: bytes, token: str | None = None) -> bytes:
        """What an alice answers to a request. Cancelled when she crashes."""
        assert alice.leader is not None
        answer, _ = await asyncio.shield(alice.start(alice.leader.predict(body, token)))
        return bytes(answer)

    def check_once(self) -> None:
        """No life of alice ran a request to its end twice."""
        for node in self.lives:
            if node.leader:
                assert all(count == 1 for count in node.leader.completed.values())

    def completed(self, request_id: bytes) -> int:
        """How often a request ran to its end, at all lives of alice together."""
        return sum(node.leader.completed[request_id] for node in self.lives if node.leader)


def check(x: Array, outputs: np.ndarray) -> None:
    """The plan's outputs in plain numbers."""
    y = plans.scores(x)
    assert np.array_equal(outputs, np.maximum(y, 0) - 2 * np.maximum(y - 3, 0)), "a wrong answer"


@asynccontextmanager
async def world(root: Path, detector: Detector, postgres: Postgres | None = None, **more: Any) -> AsyncIterator[World]:
    """All roles up, one model published, with `more` members of the world. Their databases are files, or
    PostgreSQL's."""
    made = World(root, detector, Backups(postgres), **more)
    for role in ("provider", "bob", "alice"):
        made.folder(role).mkdir(parents=True)
        made.start(role)
    try:
        with patch.object(hello, "Channel", partial(FaultyChannel, made)):
            await made.publish()
            yield made
    finally:
        for role in ("alice", "bob", "provider"):
            await made.stop(role)
