"""What a client sealed to this party, opened and checked."""

from moiety_party.party import Party
from moiety_party.results import check_recipients
from moiety_party.store import Model
from moiety_shared.crypto import handshake
from moiety_shared.crypto.handshake import SEALED_BYTES, Handshake
from moiety_shared.crypto.tokens import Grant
from moiety_shared.messages.wire import Request, Secret, malformed, share_bytes


async def opened(party: Party, number: int, model: Model, request: Request, grant: Grant | None, token: str) -> Secret:
    """The content of the envelope to party `number`, made by who holds the key that the token is bound to.

    Raises Problem SEALED_FOR_ANOTHER, KEY_RETIRED, MALFORMED or UNAUTHORIZED.
    """
    envelope, binding = request.envelopes[number], request.binding
    begun = party.identity.keyring.open_kept(bytes(envelope[:SEALED_BYTES]), handshake.context(number))
    shaken = Handshake.unpack(begun)
    if abs(binding.time - shaken.time) > handshake.MAX_SECONDS:
        raise malformed("the handshake was made for another time than the request")
    party.admission.check_holder(grant, shaken, number, token)
    content = await party.threads.run_if_large(len(envelope), shaken.open, envelope, binding.context("input", number))
    secret = Secret.unpack(content, binding, request.rows, share_bytes(model.plan, number, request.rows))
    check_recipients(model.plan, secret)
    return secret
