"""Counts that only the owner may read, as clients hand them on."""

import numpy as np

from moiety_server.catalogue import Catalogue
from moiety_service.security.keyring import Keyring
from moiety_shared.crypto.signing import key_from_text
from moiety_shared.messages.catalogue import Entry
from moiety_shared.messages.verified import accept_count
from moiety_shared.messages.wire import OwnerCount
from moiety_shared.plan.layers import ring_bytes, ring_dtype
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.verified.answers import CheckFailed


def counted_model(catalogue: Catalogue, name: str, count: OwnerCount) -> Entry:
    """Return the entry of the version of a model that a count is of. Raises Problem UNKNOWN_MODEL where there is none
    any more: the entry says whether its runs are verified, and nothing that a client hands on may say so."""
    for version in catalogue.versions(name):
        if catalogue.upload_id(name, version) == count.binding.upload_id.hex():
            return catalogue.get(name, version).entry
    raise Problem(ProblemType.UNKNOWN_MODEL, "a count is of another model than that, or of a version that is withdrawn")


def open_count(keyring: Keyring, count: OwnerCount, entry: Entry) -> int:
    """Return the number in a count of that entry's model.

    Raises Problem SEALED_FOR_ANOTHER, KEY_RETIRED or MALFORMED, and of a verified model CHEATING_DETECTED where what
    alice and bob sealed does not hold together.
    """
    plan = entry.plan
    shares = [keyring.open(count.envelopes[p], count.binding.context("count", p)) for p in (0, 1)]
    if entry.record_key is not None:
        try:
            return int(accept_count(shares, plan, entry.upload_id, key_from_text(entry.record_key))[0, 0])
        except CheckFailed:
            what = "what alice and bob say of the count does not hold together, or its client made it up"
            raise Problem(ProblemType.CHEATING_DETECTED, what) from None
    if any(len(share) != ring_bytes(plan.ring_bits) for share in shares):  # anybody may seal to the owner's key
        raise Problem(ProblemType.MALFORMED, "the count does not hold two shares")
    dtype = ring_dtype(plan.ring_bits)
    return int((np.frombuffer(shares[0], dtype=dtype) + np.frombuffer(shares[1], dtype=dtype))[0])
