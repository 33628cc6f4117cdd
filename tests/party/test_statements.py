"""Which keys of statements a party takes with an upload, and how long it keeps what was signed."""

from dataclasses import replace

import pytest

from moiety_party.statements import KEPT_RUNS, KeptRun, KeptRuns, PeersWord, check_manifest
from moiety_service.security.identity import Identity
from moiety_shared.crypto.signing import key_text
from moiety_shared.messages.catalogue import Manifest
from moiety_shared.messages.statements import proof
from moiety_shared.problems import Problem, ProblemType

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
    check_manifest(manifest((alice, bob)), party, own)
    check_manifest(manifest(None), party, own)
    bad = ((bob, alice), (alice, alice) if party else (bob, bob), (alice, "no key") if party == 0 else ("no key", bob))
    for keys in bad:
        with pytest.raises(Problem):
            check_manifest(manifest(keys), party, own)


def test_it_keeps_the_latest_runs_for_a_while() -> None:
    now, upload_id = [0.0], "ab" * 16
    run = KeptRun(upload_id, "cd" * 16, "ticket", 0, 1, bytes(32), PeersWord((), b"", [], b""), 0, expires=10.0)
    kept, shown = KeptRuns(lambda: now[0]), proof(run.key, upload_id)
    kept._runs[b"one"] = run
    now[0] = 10.0
    assert kept.get(upload_id, b"one", shown) is run
    for asked in ((upload_id, b"another", shown), ("ef" * 16, b"one", shown), (upload_id, b"one", bytes(32))):
        with pytest.raises(Problem):
            kept.get(*asked)
    now[0] = 10.1
    with pytest.raises(Problem):
        kept.get(upload_id, b"one", shown)
    kept._runs.update({number.to_bytes(16, "big"): replace(run, expires=20.0) for number in range(KEPT_RUNS + 9)})
    kept._forget_old()
    assert len(kept._runs) == KEPT_RUNS and (8).to_bytes(16, "big") not in kept._runs, "the oldest go first"


class Signing:
    """A run that a party is about to sign, on rows from that one on."""

    def __init__(self, first: int, is_verified: bool = True) -> None:
        self.first, self.is_verified = first, is_verified

    def kept(self, place: int, ticket: str, key: bytes, now: float) -> KeptRun:
        return KeptRun("ab" * 16, "cd" * 16, ticket, self.first + place, 1, key, None, place, now + 10)


def test_it_signs_one_verified_run_of_a_request() -> None:
    """Of another one it could show no words any more, and the other party could show what it signed of it."""
    kept, key = KeptRuns(lambda: 0.0), bytes(32)
    kept.keep(Signing(4), 0, b"one", "ticket", key)  # type: ignore[arg-type]
    kept.keep(Signing(4), 0, b"one", "ticket", key)  # type: ignore[arg-type]  again, with what the other signed
    for other, place in ((Signing(8), 0), (Signing(4), 1)):
        with pytest.raises(Problem) as caught:
            kept.keep(other, place, b"one", "ticket", key)  # type: ignore[arg-type]
        assert caught.value.kind is ProblemType.REQUEST_EXPIRED
    with pytest.raises(Problem):
        kept.check(b"one")
    kept.check(b"another")
    assert kept._runs[b"one"].first_row == 4
    kept.keep(Signing(8, is_verified=False), 0, b"one", "ticket", key)  # type: ignore[arg-type]
    assert kept._runs[b"one"].first_row == 8, "of any other kind the one that was answered"
