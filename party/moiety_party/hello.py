"""How a lane begins: alice says HELLO with a fresh public key, and bob says HELLO with a secret sealed to that key.

Everything after that is sealed under keys of the lane (`moiety_shared/crypto/channel.py`).
"""

import asyncio
import base64
import json
import secrets
from typing import Any

from moiety_party.lane import Lane, Link, garbled, read_json
from moiety_shared.crypto.channel import SECRET_BYTES, Channel
from moiety_shared.crypto.sealing import PrivateKey, PublicKey
from moiety_shared.formats import PEER
from moiety_shared.messages.wire import Frame, FrameKind
from moiety_shared.problems import Problem, ProblemType

HELLO_SECONDS = 5.0
_CONTEXT = b"moiety/v1 lane\0"


async def call(link: Link, boot: str) -> Lane:
    """alice's part, to any of bob's processes. Closes the link if no lane comes of it.

    Raises Problem PEER_VERSION when bob speaks another version, PEER_UNAVAILABLE when he says nothing, or nothing that
    makes sense.
    """
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            key = PrivateKey.generate()
            mine = _hello(boot, key=key.public.text())
            await link.send(mine)
            theirs = await _answer(link)
        hello = _read(theirs)
        if hello.get("version") != PEER:
            raise _other_version(alice=PEER, bob=hello.get("version"))
        try:
            sealed = base64.b64decode(hello["sealed"], validate=True)
            channel = Channel(key.open(sealed, _CONTEXT + mine), 0, mine, theirs)
        except (KeyError, TypeError, ValueError, Problem):
            raise garbled("bob's HELLO does not answer alice's") from None
        return Lane(link, channel, str(hello.get("boot")))
    except TimeoutError as error:
        await link.close()
        raise Problem(ProblemType.PEER_UNAVAILABLE, "bob accepted the link but did not say HELLO") from error
    except BaseException:  # cancelled as well: the link is nobody's
        await link.close()
        raise


async def answer(link: Link, boot: str) -> Lane:
    """bob's part.

    Raises Problem PEER_VERSION when alice speaks another version, and tells her so; PEER_UNAVAILABLE when what she says
    makes no sense; TimeoutError when she says nothing for `HELLO_SECONDS`.
    """
    async with asyncio.timeout(HELLO_SECONDS):
        theirs = await link.recv()
        hello = _read(theirs)
        if hello.get("version") != PEER:
            await link.send(_hello(boot))
            raise _other_version(alice=hello.get("version"), bob=PEER)
        secret = secrets.token_bytes(SECRET_BYTES)
        try:
            sealed = PublicKey.from_text(hello["key"]).seal(secret, _CONTEXT + theirs)
        except (KeyError, TypeError, ValueError):
            raise garbled("alice's HELLO has no key") from None
        mine = _hello(boot, sealed=base64.b64encode(sealed).decode())
        await link.send(mine)
    return Lane(link, Channel(secret, 1, theirs, mine), str(hello.get("boot")))


async def _answer(link: Link) -> bytes:
    try:
        return await link.recv()
    except Problem as problem:
        what = "bob closed the link at HELLO: his log says why (release 0.1 closes it for any other release)"
        raise Problem(problem.kind, problem.detail or what) from problem


def _hello(boot: str, **more: str) -> bytes:
    return Frame(FrameKind.HELLO, json.dumps({"version": PEER, "boot": boot, **more}).encode()).pack()


def _read(message: bytes) -> dict[str, Any]:
    try:
        frame = Frame.unpack(message)
    except Problem as problem:
        raise garbled(problem.detail) from None
    if frame.kind is not FrameKind.HELLO:
        raise garbled(f"a lane cannot begin with {frame.kind.name}")
    return read_json(frame)


def _other_version(alice: object, bob: object) -> Problem:
    """A version that is not a number is not repeated."""
    told = (str(version) if isinstance(version, int) else "unknown" for version in (alice, bob))
    return Problem(ProblemType.PEER_VERSION, "alice speaks version {} of the peer protocol, bob {}".format(*told))
