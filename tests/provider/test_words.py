"""Words of rows, for audits: a party has the provider seal its own to the owner, and gets nothing that it has not."""

import secrets

import pytest

from moiety_crypto_provider.issuer import Issuer
from moiety_crypto_provider.ledger import Ledger
from moiety_shared.crypto.channel import open_words
from moiety_shared.crypto.integrity import check_key
from moiety_shared.crypto.prg import Stream
from moiety_shared.messages import statements
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import graph
from moiety_shared.protocols.words import GivenSource, row_bytes
from tests.provider.conftest import HOUR, SEEDS

ROWS = 4
OWNER = check_key(SEEDS, "words")


def test_the_words_deal_the_rows_that_bob_was_sent(ledger: Ledger, plan: Plan) -> None:
    issuer, upload_id = Issuer(ledger, 1 << 26, HOUR), secrets.token_hex(16)
    issuer.register_upload(upload_id, plan, SEEDS)
    lease, ticket = issuer.open_lease(upload_id, ROWS)
    _, masks = issuer._masks(upload_id)
    place = lease.lease_id, 2 * ROWS - 1, 2, bytes(16)  # the last row of one bundle, and the first of the next
    given = [
        GivenSource(open_words(OWNER, p, *place, issuer.words(lease.lease_id, ticket, p, *place[1:]))) for p in (0, 1)
    ]
    again = [array for _, array in graph.deal(plan, 2, masks, given[0], given[1])]
    assert all(source.is_used_up for source in given)
    for row, (bundle, place_there) in enumerate(((1, ROWS - 1), (2, 0))):
        streams = (Stream(seed, "bundle", bundle) for seed in (lease.alice, lease.bob))
        for sent, (_, whole) in zip(again, graph.deal(plan, ROWS, masks, *streams), strict=True):
            assert (sent[row] == whole[place_there]).all()


def test_what_is_refused(ledger: Ledger, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer, upload_id = Issuer(ledger, 1 << 26, HOUR), secrets.token_hex(16)
    issuer.register_upload(upload_id, plan, SEEDS)
    (lease, ticket), (other, _) = issuer.open_lease(upload_id, ROWS), issuer.open_lease(upload_id, ROWS)
    with pytest.raises(Problem) as caught:
        issuer.words(other.lease_id, ticket, 0, 0, 1, bytes(16))
    assert caught.value.kind is ProblemType.UNKNOWN_LEASE, "another lease's ticket"
    monkeypatch.setattr("moiety_crypto_provider.issuer.MOST_WORDS", row_bytes(plan))
    issuer.words(lease.lease_id, ticket, 0, 0, 1, bytes(16))
    with pytest.raises(Problem) as caught:
        issuer.words(lease.lease_id, ticket, 0, 0, 2, bytes(16))
    assert caught.value.kind is ProblemType.TOO_LARGE
    issuer.end_lease(lease.lease_id)
    with pytest.raises(Problem) as caught:
        issuer.words(lease.lease_id, ticket, 0, 0, 1, bytes(16))
    assert caught.value.kind is ProblemType.UNKNOWN_LEASE, "the lease is over"
    assert statements.MOST_WORDS == 1 << 26
