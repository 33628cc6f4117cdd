"""The ledger issues randomness once: across restarts, among replicas, and with no seed on the disk."""

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import URL, text

from moiety_crypto_provider.issuer import Issuer
from moiety_crypto_provider.ledger import Ledger
from moiety_shared.crypto.channel import TAG_BYTES
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from tests.provider.conftest import HOUR, KEY, SEEDS


def test_what_was_issued_is_remembered_across_a_restart(database: URL, plan: Plan) -> None:
    upload_id = secrets.token_hex(16)
    with closing(Ledger(database, KEY)) as ledger:
        first = Issuer(ledger, 1 << 26, HOUR)
        for _ in range(2):
            first.register_upload(upload_id, plan, SEEDS)
        lease, ticket = first.open_lease(upload_id, 4)
        first.join_lease(lease.lease_id, ticket)
        dealt = [b"".join(first.bundle(lease.lease_id, ticket, number)[1]) for number in (0, 1)]
    with closing(Ledger(database, KEY)) as ledger:
        again = Issuer(ledger, 1 << 26, HOUR)
        assert ledger.upload(upload_id)[1:] == SEEDS, "the weights' masks stay what they were"
        for _ in range(2):
            with pytest.raises(Problem, match="issued before"):
                again.bundle(lease.lease_id, ticket, 1)
            with pytest.raises(Problem, match="bob joined"):
                again.join_lease(lease.lease_id, ticket)
        assert b"".join(again.bundle(lease.lease_id, ticket, 2)[1]) not in dealt, "a restart does not end a lease"


def test_replicas_issue_each_bundle_once(database: URL, plan: Plan) -> None:
    """Four providers, all asked by many at a time for the same join, the same bundles."""
    upload_id = secrets.token_hex(16)
    with ExitStack() as opened, ThreadPoolExecutor(8) as threads:
        issuers = [Issuer(opened.enter_context(closing(Ledger(database, KEY))), 1 << 26, HOUR) for _ in range(4)]

        def race(ask: Callable[[Issuer], object]) -> list[object]:
            """What came of it at all of them, but for those that were told that it was issued before."""

            def one(issuer: Issuer) -> object:
                try:
                    return ask(issuer)
                except Problem as problem:
                    return problem.kind

            return [got for got in threads.map(one, issuers * 2) if got is not ProblemType.ALREADY_ISSUED]

        assert race(lambda d: d.register_upload(upload_id, plan, SEEDS)) == [None] * 8
        lease, ticket = issuers[0].open_lease(upload_id, 4)
        assert [joined.bob for joined in race(lambda d: d.join_lease(lease.lease_id, ticket))] == [lease.bob]  # type: ignore[attr-defined]
        for number in range(3):
            (issued,) = race(lambda d, n=number: d.bundle(lease.lease_id, ticket, n)[0])  # type: ignore[misc]
            assert issued == 4 * plan.bundle_row_bytes + TAG_BYTES
        issuers[1].forget_upload(upload_id)
        for issuer in issuers:
            with pytest.raises(Problem) as caught:
                issuer.bundle(lease.lease_id, ticket, 3)
            assert caught.value.kind in (ProblemType.UNKNOWN_LEASE, ProblemType.UNKNOWN_MODEL), "deleted at once"


def test_both_parties_register_the_same_once_and_for_all(ledger: Ledger, plan: Plan) -> None:
    upload_id, never = secrets.token_hex(16), secrets.token_hex(16)
    for _ in range(2):
        ledger.register_upload(upload_id, plan, SEEDS)
    other = plan.model_copy(update={"output": plan.output.model_copy(update={"scale": 0.5})})
    for theirs, seeds in ((other, SEEDS), (plan, SEEDS[::-1]), (plan, (SEEDS[0], bytes(32)))):
        with pytest.raises(Problem) as caught:
            ledger.register_upload(upload_id, theirs, seeds)
        assert caught.value.kind is ProblemType.UPLOAD_CONFLICT
    assert ledger.upload(upload_id) == (plan, *SEEDS)
    for gone in (upload_id, never):
        for _ in range(2):
            ledger.forget_upload(gone)
        with pytest.raises(Problem, match="deleted"):
            ledger.register_upload(gone, plan, SEEDS)
        with pytest.raises(Problem) as caught:
            ledger.upload(gone)
        assert caught.value.kind is ProblemType.UNKNOWN_MODEL


def test_a_ticket_is_of_one_lease(ledger: Ledger, plan: Plan) -> None:
    issuer = Issuer(ledger, 1 << 26, HOUR)
    upload_id = secrets.token_hex(16)
    issuer.register_upload(upload_id, plan, SEEDS)
    (one, ticket), (_, of_two) = (issuer.open_lease(upload_id, 4) for _ in range(2))
    assert not [seed for seed in (one.alice, one.bob) if seed in ticket]
    changed = [ticket[:at] + bytes([ticket[at] ^ 1]) + ticket[at + 1 :] for at in range(len(ticket))]
    for wrong in (b"", ticket[:-1], of_two, *changed):
        with pytest.raises(Problem) as caught:
            issuer.join_lease(one.lease_id, wrong)
        assert caught.value.kind is ProblemType.UNKNOWN_LEASE
    assert issuer.join_lease(one.lease_id, ticket) == one


def test_the_database_has_no_seed_of_a_lease(tmp_path: Path, plan: Plan) -> None:
    with closing(Ledger(URL.create("sqlite", database=str(tmp_path / "ledger.sqlite")), KEY)) as ledger:
        issuer, upload_id = Issuer(ledger, 1 << 26, HOUR), secrets.token_hex(16)
        issuer.register_upload(upload_id, plan, SEEDS)
        lease, ticket = issuer.open_lease(upload_id, 4)
        issuer.join_lease(lease.lease_id, ticket)
        files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert lease.lease_id.encode() in files
        for secret in (*SEEDS, lease.alice, lease.bob, ticket[12:], ledger.lease_key(lease.lease_id, HOUR)):
            assert secret not in files and secret.hex().encode() not in files


@pytest.mark.parametrize("how", ["a party says so", "the model is deleted", "its time is over", "looked for"])
def test_a_ticket_opens_no_more_when_its_lease_is_over(tmp_path: Path, plan: Plan, how: str) -> None:
    """Not with storage.key, the database's files and the ticket, which a curious alice may have kept."""
    url, now = URL.create("sqlite", database=str(tmp_path / "ledger.sqlite")), [1e9]

    def files() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.iterdir())

    with closing(Ledger(url, KEY, lambda: now[0])) as ledger:
        issuer, upload_id = Issuer(ledger, 1 << 26, HOUR), secrets.token_hex(16)
        issuer.register_upload(upload_id, plan, SEEDS)
        (lease, ticket), (other, of_other) = (issuer.open_lease(upload_id, 4) for _ in range(2))
        with ledger._db.read() as db:
            found = db.execute(text("SELECT key FROM leases WHERE lease_id = :id"), {"id": lease.lease_id})
            stored = found.scalar_one()
        assert issuer._lease(lease.lease_id, ticket) == lease and stored in files()
        match how:
            case "a party says so":
                issuer.end_lease(lease.lease_id)
                assert issuer._lease(other.lease_id, of_other) == other
            case "the model is deleted":
                issuer.forget_upload(upload_id)
            case "its time is over":
                now[0] += HOUR + 1
            case "looked for":
                now[0] += HOUR + 1
                issuer.end_old_leases()
                now[0] -= HOUR + 1
        with pytest.raises(Problem) as caught:
            issuer._lease(lease.lease_id, ticket)
        assert caught.value.kind is ProblemType.UNKNOWN_LEASE
        if how != "its time is over":  # the next look wipes it
            assert stored not in files()
        issuer.end_old_leases()
        kept = files()
    assert (stored in kept) is False and (stored in files()) is False


def test_a_deleted_uploads_seeds_are_in_no_file(tmp_path: Path, plan: Plan) -> None:
    with closing(Ledger(URL.create("sqlite", database=str(tmp_path / "ledger.sqlite")), KEY)) as ledger:
        issuer, upload_id = Issuer(ledger, 1 << 26, HOUR), secrets.token_hex(16)
        issuer.register_upload(upload_id, plan, SEEDS)
        with ledger._db.read() as db:
            sealed = db.execute(text("SELECT seed_0, seed_1 FROM uploads")).one()
        before = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        issuer.forget_upload(upload_id)
        after = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert all(seed in before for seed in sealed)
        assert upload_id.encode() in after and not [seed for seed in sealed if seed in after]


def test_too_large_a_bundle_is_refused(ledger: Ledger, plan: Plan) -> None:
    issuer = Issuer(ledger, 1 << 16, HOUR)
    upload_id = secrets.token_hex(16)
    issuer.register_upload(upload_id, plan, SEEDS)
    with pytest.raises(Problem) as caught:
        issuer.open_lease(upload_id, 64)
    assert caught.value.kind is ProblemType.TOO_LARGE


def test_seeds_are_not_shown(plan: Plan, ledger: Ledger) -> None:
    issuer = Issuer(ledger, 1 << 26, HOUR)
    upload_id = secrets.token_hex(16)
    issuer.register_upload(upload_id, plan, SEEDS)
    lease, _ = issuer.open_lease(upload_id, 1)
    assert not [seed for seed in (lease.alice, lease.bob) if repr(seed) in repr(lease)]
