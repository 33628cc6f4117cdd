"""Envelopes made and opened by hand, as clients and parties do it."""

from typing import Protocol

from moiety_shared.crypto import handshake
from moiety_shared.crypto.handshake import SEALED_BYTES, Handshake
from moiety_shared.crypto.sealing import PublicKey
from moiety_shared.messages.wire import Request, Secret, share_bytes
from moiety_shared.plan.plan import Plan


class Opens(Protocol):
    """A sealing key's private half, or a keyring."""

    def open(self, envelope: bytes | memoryview, context: bytes) -> bytes: ...


def opened(key: Opens, request: Request, plan: Plan, party: int) -> tuple[Handshake, Secret]:
    """What a party reads in its own envelope."""
    envelope, binding = request.envelopes[party], request.binding
    begun = Handshake.unpack(key.open(envelope[:SEALED_BYTES], handshake.context(party)))
    content = begun.open(envelope, binding.context("input", party))
    return begun, Secret.unpack(content, binding, request.rows, share_bytes(plan, party, request.rows))


def sealed(key: PublicKey, begun: Handshake, party: int, message: bytes, context: bytes) -> bytes:
    return begun.seal(begun.sealed(key, party), message, context)
