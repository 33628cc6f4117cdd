"""A ledger, the plan of what is registered in it, and an upload's seeds."""

from collections.abc import Iterator

import pytest
from sqlalchemy import URL

from moiety_crypto_provider.ledger import Ledger
from moiety_shared.messages.catalogue import Entry
from moiety_shared.plan.plan import Plan

KEY = bytes(range(32))
SEEDS = bytes(range(32)), bytes(range(32, 64))
HOUR = 3600.0


@pytest.fixture
def plan(entry: Entry) -> Plan:
    return entry.plan


@pytest.fixture
def ledger(database: URL) -> Iterator[Ledger]:
    made = Ledger(database, KEY)
    yield made
    made.close()
