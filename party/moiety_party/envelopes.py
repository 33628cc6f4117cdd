"""A client's envelope to this party: opened, and checked."""

from moiety_party.party import Party
from moiety_party.results import check_recipients
from moiety_party.store import Model
from moiety_shared.crypto import handshake
from moiety_shared.crypto.handshake import SEALED_BYTES, Handshake
from moiety_shared.crypto.tokens import Grant
from moiety_shared.messages.wire import Request, Secret, malformed, share_bytes


async def open_envelope(
    party: Party, number: int, model: Model, request: Request, grant: Grant | None, token: str
) -> Secret:
    """Open the request's envelope to party `number`, 0 for alice and 1 for bob.

    Raises Problem UNAUTHORIZED unless whoever made the envelope holds the key that the token is bound to; KEY_RETIRED
    when it is sealed to a key that this party has no more, SEALED_FOR_ANOTHER when that key does not open it, and
    MALFORMED when its content does not fit the request.
    """
    envelope, binding = request.envelopes[number], request.binding
    sealed, context = bytes(envelope[:SEALED_BYTES]), handshake.context(number)
    shaken = party.identity.keyring.open_kept(sealed, context, Handshake.unpack)
    if abs(binding.time - shaken.time) > handshake.MAX_SECONDS:
        raise malformed("the handshake's time is too far from the request's")
    party.admission.check_holder(grant, shaken, number, token)
    content = await party.threads.run_if_large(len(envelope), shaken.open, envelope, binding.context("input", number))
    secret = Secret.unpack(content, binding, request.rows, share_bytes(model.plan, number, request.rows))
    check_recipients(model.plan, secret)
    return secret
