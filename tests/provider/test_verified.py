"""Keys of uploads whose runs are verified: drawn once for each name, and gone with the upload."""

import secrets

import pytest

from moiety_crypto_provider.issuer import Issuer, Lease
from moiety_crypto_provider.ledger import Ledger
from moiety_shared.crypto.channel import TAG_BYTES
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.verified import layout
from tests import plans
from tests.provider.conftest import HOUR, SEEDS

PLAN = layout.verified(plans.two_layers())


@pytest.fixture
def upload_id(ledger: Ledger) -> str:
    made = secrets.token_hex(16)
    Issuer(ledger, 1 << 26, HOUR).register_upload(made, PLAN, SEEDS)
    return made


@pytest.fixture
def issuer(ledger: Ledger) -> Issuer:
    return Issuer(ledger, 1 << 26, HOUR)


def tags(issuer: Issuer, lease: Lease, ticket: bytes) -> bytes:
    length, content = issuer.tags(lease.lease_id, ticket)
    whole = b"".join(content)
    assert len(whole) == length
    return whole


def test_a_key_is_drawn_once_for_each_name(ledger: Ledger, issuer: Issuer, upload_id: str) -> None:
    first = ledger.key(upload_id)
    issuer.register_upload(upload_id, PLAN, SEEDS)
    assert ledger.key(upload_id) == first and first.key_id == upload_id
    names = [secrets.token_hex(16) for _ in range(2)]
    found = [first]
    for name in names:
        for _ in range(2):  # both parties ask
            issuer.rekey(upload_id, name)
            found.append(ledger.key(upload_id))
    assert [key.key_id for key in found] == [upload_id, names[0], names[0], names[1], names[1]]
    assert len({key.seeds for key in found}) == 3


def test_leases_end_with_their_key(issuer: Issuer, upload_id: str) -> None:
    lease, ticket = issuer.open_lease(upload_id, 4)
    assert issuer.seeds(lease, 0)[:64] == lease.alice + lease.check and len(issuer.seeds(lease, 0)) == 96
    assert issuer.seeds(lease, 0)[64:] != issuer.seeds(lease, 1)[64:]
    length, content = issuer.bundle(lease.lease_id, ticket, 0)
    assert len(b"".join(content)) == length == 4 * PLAN.bundle_row_bytes + TAG_BYTES
    assert tags(issuer, lease, ticket) == tags(issuer, lease, ticket)
    issuer.rekey(upload_id, secrets.token_hex(16))
    for asked in (lambda: issuer.bundle(lease.lease_id, ticket, 1), lambda: issuer.tags(lease.lease_id, ticket)):
        with pytest.raises(Problem) as caught:
            asked()
        assert caught.value.kind is ProblemType.UNKNOWN_LEASE


def test_a_deleted_upload_has_no_key(ledger: Ledger, issuer: Issuer, upload_id: str) -> None:
    issuer.forget_upload(upload_id)
    for asked in (lambda: ledger.key(upload_id), lambda: issuer.rekey(upload_id, secrets.token_hex(16))):
        with pytest.raises(Problem) as caught:
            asked()
        assert caught.value.kind is ProblemType.UNKNOWN_MODEL


def test_other_uploads_have_none(ledger: Ledger, issuer: Issuer, plan: Plan) -> None:
    upload_id = secrets.token_hex(16)
    issuer.register_upload(upload_id, plan, SEEDS)
    with pytest.raises(Problem):
        ledger.key(upload_id)
    lease, _ = issuer.open_lease(upload_id, 4)
    assert not lease.key_id and len(issuer.seeds(lease, 0)) == 64


def test_a_plan_that_states_another_size_is_refused(issuer: Issuer) -> None:
    assert PLAN.verified is not None
    less = PLAN.verified.model_copy(update={"row_bytes": PLAN.verified.row_bytes - 1})
    with pytest.raises(Problem, match="another size"):
        issuer.register_upload(secrets.token_hex(16), PLAN.model_copy(update={"verified": less}), SEEDS)
