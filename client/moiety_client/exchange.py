"""One prediction without any I/O: it splits and seals the input, and opens and joins the answer.

The client splits an input into two shares. alice gets one share, and bob gets a 32-byte seed from which he computes the
other. The client seals each for its party: only that party can open it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_client.errors import CheatingDetected, ResultRejected
from moiety_shared import fixed_point
from moiety_shared.crypto import signing
from moiety_shared.crypto.handshake import MAX_SECONDS, Handshake
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.crypto.sealing import PublicKey, open_result
from moiety_shared.fixed_point import RingArray
from moiety_shared.messages import verified
from moiety_shared.messages.catalogue import Entry
from moiety_shared.messages.wire import (
    Binding,
    OwnerCount,
    Recipients,
    Request,
    Secret,
    new_id,
    owner_bytes,
    request_digest,
    unpack_result,
)
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.verified.answers import CheckFailed


@dataclass(frozen=True, repr=False)
class Drawn:
    """The random numbers of one request. With the same elements they make the same request, which the parties run once.

    Never use them with other elements: alice could subtract the two shares that she got, and would learn by how much
    the elements differ.
    """

    request_id: bytes
    seed: bytes
    result_keys: tuple[bytes, bytes]
    time: int
    """When these were drawn, in seconds since 1970. The parties refuse a request that is too old."""

    @classmethod
    def new(cls) -> "Drawn":
        return cls(new_id(), new_seed(), (new_seed(), new_seed()), int(time.time()))


@dataclass(frozen=True, repr=False)
class TokenHolder:
    """Who asks: a token, and the private key that it is bound to. Without a key, the client signs no handshake."""

    token: str = ""
    key: Ed25519PrivateKey | None = None

    def handshake(self, time: int, party: int) -> Handshake:
        """Make a new handshake with a party, signed if there is a key."""
        return Handshake.new(time, party, self.token, self.key if self.token else None)


@dataclass(frozen=True, repr=False)
class _Begun:
    """A handshake, and the bytes that seal it to its party."""

    handshake: Handshake
    sealed: bytes

    def seal(self, message: bytes | bytearray, bound_to: bytes) -> bytes:
        return self.handshake.seal(self.sealed, message, bound_to)


@dataclass(frozen=True, repr=False)
class Call:
    """A sealed request, and the keys that open its answer. You may send `body` again: the parties run it once."""

    entry: Entry
    binding: Binding
    rows: int
    body: bytes
    alice_share: RingArray
    bob_seed: bytes
    _keys: tuple[bytes, bytes]
    recipients: Recipients = Recipients.CLIENT

    def elements(self) -> RingArray:
        """Return the inputs, joined again from their two shares."""
        return fixed_point.join(self.alice_share, self.bob_share())

    def bob_share(self) -> RingArray:
        """Return the share that bob computes from his seed. The client needs it only to show it."""
        return Stream(self.bob_seed, "input").words("share", self.alice_share.shape, self.alice_share.dtype)

    def open(self, answer: bytes) -> npt.NDArray[Any]:
        """Open an answer and return what the plan gives out: see `joined`.

        Raises ResultRejected for anything but an answer to this call.
        """
        return joined(self.entry.plan, self.shares(answer))

    def shares(self, answer: bytes) -> tuple[RingArray, RingArray]:
        """Open an answer and return alice's and bob's shares of it. Both are empty if the client is not a recipient.

        The runs of a verified model have checked shares: the result, and zeros. That a count is of the client's inputs
        is checked even where only the owner may read it. Raises ResultRejected for anything but an answer to this call,
        and CheatingDetected when a party did not compute what it should.
        """
        plan = self.entry.plan
        dtype = np.dtype(np.uint8) if plan.output.kind == "labels" else np.dtype(fixed_point.ring_dtype(plan.ring_bits))
        try:
            sealed = unpack_result(answer, self.binding.request_id, plan, self.rows, self.recipients)
            if Recipients.CLIENT not in self.recipients and self.entry.record_key is None:
                return np.zeros(0, dtype=dtype), np.zeros(0, dtype=dtype)
            own = [part[: len(part) - self._owner_bytes(p)] for p, part in enumerate(sealed)]
            raw = [open_result(self._keys[p], own[p], self.binding.context("result", p)) for p in (0, 1)]
        except Problem as problem:
            raise ResultRejected(
                f"the answer does not belong to this request, or was changed on the way ({problem.kind.title})"
            ) from problem
        if self.entry.record_key is not None:
            y = self._checked(raw, self.entry.record_key).reshape(-1).astype(dtype)
            return y, np.zeros_like(y)
        return np.frombuffer(raw[0], dtype=dtype), np.frombuffer(raw[1], dtype=dtype)

    def _checked(self, said: Sequence[bytes], record_key: str) -> RingArray:
        """Return the result of what both parties said of a verified run. Raises CheatingDetected."""
        entry, dealer = self.entry, signing.key_from_text(record_key)
        try:
            counted = Recipients.CLIENT in self.recipients
            return verified.accept(said, self.elements(), entry.plan, entry.upload_id, dealer, counted)
        except CheckFailed:
            what = "what alice and bob say of the answer does not hold together"
            raise CheatingDetected(Problem(ProblemType.CHEATING_DETECTED, what)) from None

    def for_owner(self, answer: bytes) -> bytes:
        """Return the part of an answer that only the owner can open, for you to hand on.

        It is empty if the request did not name the owner.
        """
        if Recipients.OWNER not in self.recipients:
            return b""
        plan = self.entry.plan
        sealed = unpack_result(answer, self.binding.request_id, plan, self.rows, self.recipients)
        one, other = (part[len(part) - self._owner_bytes(p) :] for p, part in enumerate(sealed))
        return OwnerCount(self.binding, (one, other)).pack()

    def _owner_bytes(self, party: int) -> int:
        """The bytes of party p's share that only the owner can open, behind the client's."""
        return owner_bytes(self.entry.plan, party, self.rows) if Recipients.OWNER in self.recipients else 0


def joined(plan: Plan, shares: tuple[RingArray, RingArray]) -> npt.NDArray[Any]:
    """Join both parties' shares into what a plan gives out. That depends on the kind of its output:

    - logits: the model's outputs without its last function, (rows, *output shape).
    - labels: the rank of each class, from 1, or 0 for a class without a rank, (rows, *output shape).
    - decision: 0 or 1, (rows, *output shape). Raises ResultRejected for anything else.
    - count: the sum over the call's inputs, as whole numbers (output size,).
    """
    if plan.output.kind == "labels":
        return (shares[0] ^ shares[1]).reshape(-1, *plan.output.shape)
    elements = fixed_point.join(*shares)
    if plan.output.kind == "count":
        return elements.astype(np.int64)
    if plan.output.kind == "decision":
        if ((elements != 0) & (elements != 1)).any():
            raise ResultRejected("the answer is no decision, so a party computed wrongly: tell the model's owner")
        return elements.reshape(-1, *plan.output.shape)
    return fixed_point.decode(elements, scale=plan.output.scale).reshape(-1, *plan.output.shape)


def added(shares: Sequence[tuple[RingArray, RingArray]]) -> tuple[RingArray, RingArray]:
    """Add up the shares of several requests. Joined, they give the sum; no single result is ever joined."""
    one, other = (np.stack(halves).sum(axis=0, dtype=halves[0].dtype) for halves in zip(*shares, strict=True))
    return one, other


class Sealer:
    """Makes one client's calls to one model. It holds the parties' keys, parsed once, and a handshake with each."""

    def __init__(self, entry: Entry, holder: TokenHolder | None = None) -> None:
        self.entry = entry
        self._holder = holder or TokenHolder()
        self._keys = [PublicKey.from_text(party.sealing_key) for party in entry.parties]
        self._begun: tuple[_Begun, _Begun] | None = None

    def call(self, elements: RingArray, recipients: Recipients = Recipients.CLIENT, drawn: Drawn | None = None) -> Call:
        """Split and seal encoded inputs (rows, ring elements of each), at most the entry's max_rows of them.

        To make an old request again, pass what was `drawn` for these very elements.
        """
        drawn = drawn or Drawn.new()
        seed, result_keys, request_id, rows = drawn.seed, drawn.result_keys, drawn.request_id, len(elements)
        binding = Binding(
            self.entry.plan.digest,
            bytes.fromhex(self.entry.upload_id),
            request_id,
            request_digest(request_id, drawn.time, rows, result_keys, seed),
            drawn.time,
        )
        shares = b"", seed
        alices, bobs = (Secret(request_id, result_keys[p], rows, shares[p], recipients) for p in (0, 1))
        header = alices.header()
        # This writes alice's share straight into her message: copying a batch costs more than encrypting it.
        content = bytearray(len(header) + elements.nbytes)
        content[: len(header)] = header
        share = np.frombuffer(content, dtype=elements.dtype, offset=len(header)).reshape(elements.shape)
        fixed_point.split(elements, Stream(seed, "input"), share)
        for_alice, for_bob = self._handshakes(drawn.time)
        envelopes = (
            for_alice.seal(content, binding.context("input", 0)),
            for_bob.seal(bobs.pack(), binding.context("input", 1)),
        )
        body = Request(binding, rows, envelopes).pack()
        return Call(self.entry, binding, rows, body, share, seed, result_keys, recipients)

    def _handshakes(self, time: int) -> tuple[_Begun, _Begun]:
        """Return a handshake with each party for a request of that time. Requests of five minutes share them."""
        begun = self._begun
        if begun is None or abs(time - begun[0].handshake.time) > MAX_SECONDS:
            begun = self._begun = self._begin(time, 0), self._begin(time, 1)
        return begun

    def _begin(self, time: int, party: int) -> _Begun:
        fresh = self._holder.handshake(time, party)
        return _Begun(fresh, fresh.sealed(self._keys[party], party))

    def calls(
        self,
        elements: RingArray,
        recipients: Recipients = Recipients.CLIENT,
        draw: Callable[[RingArray], Drawn] = lambda _: Drawn.new(),
    ) -> list[Call]:
        """Make one call for every max_rows inputs. `draw` returns the random numbers of each call."""
        step = self.entry.max_rows
        parts = [elements[at : at + step] for at in range(0, len(elements), step)]
        return [self.call(part, recipients, draw(part)) for part in parts]
