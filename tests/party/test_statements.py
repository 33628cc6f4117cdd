"""Which keys of statements a party takes with an upload."""

import pytest

from moiety_party.statements import check_manifest
from moiety_service.security.identity import Identity
from moiety_shared.crypto.signing import key_text
from moiety_shared.messages.catalogue import Manifest
from moiety_shared.problems import Problem

NAMES = ("alice", "bob")


def manifest(keys: tuple[str, str] | None) -> Manifest:
    digest = "0" * 64
    members = {"plan_digest": digest, "weights_digest": digest, "seed_digest": digest, "statement_keys": keys}
    return Manifest.model_validate(
        {"upload_id": "ab" * 16, "name": "m", "version": 1, "party": 0, "owner_key": "k"} | members
    )


@pytest.mark.parametrize("party", [0, 1], ids=NAMES)
def test_a_party_signs_with_its_own_key_alone(identities: dict[str, Identity], party: int) -> None:
    """And the other one's must be a key: what nobody can sign with would end each run."""
    alice, bob = (key_text(identities[name].statement_key.public_key()) for name in NAMES)
    own = identities[NAMES[party]]
    assert alice != bob
    check_manifest(manifest((alice, bob)), party, own, verified=False)
    check_manifest(manifest(None), party, own, verified=True)
    bad = ((bob, alice), (alice, alice) if party else (bob, bob), (alice, "no key") if party == 0 else ("no key", bob))
    for keys in bad:
        with pytest.raises(Problem):
            check_manifest(manifest(keys), party, own, verified=False)
    with pytest.raises(Problem):
        check_manifest(manifest((alice, bob)), party, own, verified=True)
