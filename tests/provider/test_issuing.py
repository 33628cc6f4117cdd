"""Randomness happens once: the provider's ledger, its HTTP interface, and the parties' pools."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import URL, text

from moiety_crypto_provider.app import build
from moiety_crypto_provider.dealer import Dealer
from moiety_crypto_provider.ledger import Ledger
from moiety_crypto_provider.settings import ProviderSettings
from moiety_party.party import Party
from moiety_party.pool import Pool
from moiety_party.settings import PartySettings
from moiety_service.security.identity import Identity
from moiety_service.security.keys import rotate
from moiety_shared.crypto.channel import TAG_BYTES, lease_context
from moiety_shared.crypto.prg import new_seed
from moiety_shared.crypto.sealing import PrivateKey, PublicKey
from moiety_shared.messages.catalogue import Entry
from moiety_shared.messages.upload import context
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import product
from moiety_shared.protocols.graph import PreparedRows
from tests import plans
from tests.asgi import InProcess

KEY = bytes(range(32))
SEEDS = bytes(range(32)), bytes(range(32, 64))
FRESH = PrivateKey(bytes(range(96)))
PUBLIC = {"key": FRESH.public.text()}
HOUR = 3600.0


@pytest.fixture
def plan(entry: Entry) -> Plan:
    return entry.plan


@pytest.fixture
def alice(identities: dict[str, Identity]) -> dict[str, str]:
    """What alice presents to the provider."""
    return {"authorization": f"Bearer {identities['alice'].credential('crypto_provider')}"}


@pytest.fixture
def bob(identities: dict[str, Identity]) -> dict[str, str]:
    return {"authorization": f"Bearer {identities['bob'].credential('crypto_provider')}"}


@pytest.fixture
def provider(tmp_path: Path, database: URL, identities: dict[str, Identity]) -> Iterator[InProcess]:
    url = SecretStr(database.render_as_string(hide_password=False))
    with InProcess(build(ProviderSettings(data_dir=tmp_path, database_url=url), identities["crypto_provider"])) as made:
        yield made


@pytest.fixture
def ledger(database: URL) -> Iterator[Ledger]:
    made = Ledger(database, KEY)
    yield made
    made.close()


def registration(
    plan: Plan, provider_key: PublicKey, upload_id: str, seeds: tuple[bytes, bytes] = SEEDS
) -> dict[str, object]:
    """What a party hands on."""
    envelope = provider_key.seal(b"".join(seeds), context(plan, bytes.fromhex(upload_id), "dealer"))
    text = base64.b64encode(envelope).decode()
    return {"upload_id": upload_id, "plan": plan.model_dump(mode="json"), "seeds": text}


@pytest.fixture
def provider_key(identities: dict[str, Identity]) -> PublicKey:
    return identities["server"].provider_key


@pytest.fixture
def upload_id(
    provider: InProcess, plan: Plan, alice: dict[str, str], bob: dict[str, str], provider_key: PublicKey
) -> str:
    """Of an upload that both parties have registered, one of them twice."""
    body = registration(plan, provider_key, made := secrets.token_hex(16))
    assert [provider.post("/v1/uploads", json=body, headers=who).status_code for who in (alice, bob, bob)] == [204] * 3
    return made


def kind(response: object) -> ProblemType:
    return Problem.from_document(response.json()).kind  # type: ignore[attr-defined]


def test_a_bundle_is_issued_once_and_has_the_stated_length(
    provider: InProcess, plan: Plan, alice: dict[str, str], bob: dict[str, str], upload_id: str
) -> None:
    lease = provider.post("/v1/leases", json={"upload_id": upload_id, "rows": 8, **PUBLIC}, headers=alice).json()
    shown = {"json": {"ticket": lease["ticket"]}, "headers": bob}
    asked = {"ticket": lease["ticket"], **PUBLIC}
    joined = provider.post(f"/v1/leases/{lease['lease_id']}/join", json=asked, headers=bob).json()
    ours, theirs = (opened(answer, party) for party, answer in enumerate((lease, joined)))
    assert len(ours) == len(theirs) == 64 and ours[:32] != theirs[:32] and ours[32:] == theirs[32:]
    url = f"/v1/leases/{lease['lease_id']}/bundles"
    bundle = provider.post(f"{url}/0", **shown)
    assert len(bundle.content) == 8 * plan.bundle_row_bytes + TAG_BYTES == int(bundle.headers["content-length"])
    assert kind(provider.post(f"{url}/0", **shown)) is ProblemType.ALREADY_ISSUED
    assert provider.post(f"{url}/4", **shown).is_success
    assert kind(provider.post(f"{url}/3", **shown)) is ProblemType.ALREADY_ISSUED
    assert provider.post(f"{url}/5", **shown).content != bundle.content


def test_each_seed_goes_to_its_party_once(
    provider: InProcess, alice: dict[str, str], bob: dict[str, str], upload_id: str
) -> None:
    asked = {"upload_id": upload_id, "rows": 1, **PUBLIC}
    lease = provider.post("/v1/leases", json=asked, headers=alice).json()
    url, shown = f"/v1/leases/{lease['lease_id']}", {"json": {"ticket": lease["ticket"], **PUBLIC}}
    assert kind(provider.post(f"{url}/join", **shown, headers=alice)) is ProblemType.FORBIDDEN
    of_bob = provider.post(f"{url}/bundles/0", json={"ticket": lease["ticket"]}, headers=alice)
    assert kind(of_bob) is ProblemType.FORBIDDEN
    assert kind(provider.post("/v1/leases", json=asked, headers=bob)) is ProblemType.FORBIDDEN
    assert provider.post(f"{url}/join", **shown, headers=bob).is_success
    assert kind(provider.post(f"{url}/join", **shown, headers=bob)) is ProblemType.ALREADY_ISSUED


def test_both_parties_must_register_the_same(
    provider: InProcess,
    plan: Plan,
    bob: dict[str, str],
    upload_id: str,
    provider_key: PublicKey,
    identities: dict[str, Identity],
) -> None:
    members = plan.model_dump()
    other = Plan.model_validate(members | {"output": members["output"] | {"scale": 3.0}})
    sealed = registration(plan, provider_key, upload_id)
    stranger = PrivateKey.generate().public
    cases: list[tuple[dict[str, object], ProblemType]] = [
        (registration(other, provider_key, upload_id), ProblemType.UPLOAD_CONFLICT),
        (registration(plan, provider_key, upload_id, (SEEDS[0], bytes(32))), ProblemType.UPLOAD_CONFLICT),
        (sealed | {"upload_id": "ab" * 16}, ProblemType.SEALED_FOR_ANOTHER),
        (sealed | {"plan": other.model_dump(mode="json")}, ProblemType.SEALED_FOR_ANOTHER),
        (registration(plan, stranger, upload_id), ProblemType.PROVIDER_KEY_RETIRED),
        (sealed | {"seeds": "?"}, ProblemType.MALFORMED),
    ]
    for body, expected in cases:
        assert kind(provider.post("/v1/uploads", json=body, headers=bob)) is expected
    assert provider.post("/v1/uploads", json=sealed, headers=bob).is_success
    rotate(identities["crypto_provider"].folder, timedelta(days=1))
    assert provider.post("/v1/uploads", json=sealed, headers=bob).is_success, "the old key opens for a while"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic alice-secret"}])
def test_strangers_get_nothing(provider: InProcess, plan: Plan, headers: dict[str, str]) -> None:
    for path in ("/v1/uploads", "/v1/leases", "/v1/leases/x/join", "/v1/leases/x/bundles/0"):
        answer = provider.post(path, json={"upload_id": "0" * 32, "rows": 1, "plan": {}}, headers=headers)
        assert answer.status_code == 401 and kind(answer) is ProblemType.UNAUTHORIZED


def opened(answer: dict[str, str], party: int) -> bytes:
    """A party's seed of the lease, and the key of its tags."""
    ticket, sealed = (base64.b64decode(answer[name]) for name in ("ticket", "seeds"))
    context = lease_context(party, answer["lease_id"], answer["upload_id"], int(answer["rows"]), ticket)
    return FRESH.open(sealed, context)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_either_party_ends_a_lease(
    provider: InProcess, alice: dict[str, str], bob: dict[str, str], upload_id: str, who: str
) -> None:
    asked = {"upload_id": upload_id, "rows": 1, **PUBLIC}
    ended, other = (provider.post("/v1/leases", json=asked, headers=alice).json() for _ in range(2))
    url = f"/v1/leases/{ended['lease_id']}"
    assert kind(provider.delete(url)) is ProblemType.UNAUTHORIZED
    shown = {"json": {"ticket": ended["ticket"]}, "headers": bob}
    assert provider.post(f"{url}/bundles/0", **shown).is_success
    for _ in range(2):
        assert provider.delete(url, headers={"alice": alice, "bob": bob}[who]).status_code == 204
    assert kind(provider.post(f"{url}/bundles/1", **shown)) is ProblemType.UNKNOWN_LEASE
    shown["json"]["ticket"] = other["ticket"]
    assert provider.post(f"/v1/leases/{other['lease_id']}/bundles/0", **shown).is_success


@pytest.mark.parametrize("key", ["", "x", "A" * 1624, "é"])
def test_a_seed_is_sealed_to_a_key_or_not_given_out(
    provider: InProcess, alice: dict[str, str], upload_id: str, key: str
) -> None:
    asked = {"upload_id": upload_id, "rows": 1, "key": key}
    assert kind(provider.post("/v1/leases", json=asked, headers=alice)) is ProblemType.INVALID_INPUT


async def chunks() -> AsyncIterator[bytes]:
    yield b"x"


def test_bad_requests_are_problem_documents_without_the_input(
    provider: InProcess, alice: dict[str, str], bob: dict[str, str]
) -> None:
    for body in ({"upload_id": "marker-4711", "rows": 1}, {"rows": "marker-4711"}, ["marker-4711"]):
        answer = provider.post("/v1/leases", json=body, headers=alice)
        assert answer.headers["content-type"] == "application/problem+json"
        assert kind(answer) is ProblemType.INVALID_INPUT and "marker-4711" not in answer.text
    for ticket in ("", "A" * 192, "-" * 192):
        unknown = provider.post("/v1/leases/unknown/bundles/0", json={"ticket": ticket}, headers=bob)
        assert kind(unknown) is ProblemType.UNKNOWN_LEASE
    assert kind(provider.get("/nowhere")) is ProblemType.NOT_FOUND
    assert kind(provider.get("/v1/leases")) is ProblemType.METHOD_NOT_ALLOWED
    large = provider.post("/v1/leases", content=b"x" * (1 << 21), headers=alice)
    assert large.status_code == 413
    packed = provider.post("/v1/leases", content=b"x", headers=alice | {"content-encoding": "gzip"})
    assert kind(packed) is ProblemType.ENCODING_REFUSED
    chunked = provider.post("/v1/leases", content=chunks(), headers=alice)
    assert kind(chunked) is ProblemType.LENGTH_REQUIRED


def test_what_was_issued_is_remembered_across_a_restart(database: URL, plan: Plan) -> None:
    upload_id = secrets.token_hex(16)
    with closing(Ledger(database, KEY)) as ledger:
        first = Dealer(ledger, 1 << 26, HOUR)
        for _ in range(2):
            first.register_upload(upload_id, plan, SEEDS)
        lease, ticket = first.open_lease(upload_id, 4)
        first.join_lease(lease.lease_id, ticket)
        dealt = [b"".join(first.bundle(lease.lease_id, ticket, number)[1]) for number in (0, 1)]
    with closing(Ledger(database, KEY)) as ledger:
        again = Dealer(ledger, 1 << 26, HOUR)
        assert ledger.upload(upload_id)[1:] == SEEDS, "the weights' masks stay what they were"
        for _ in range(2):
            with pytest.raises(Problem, match="issued before"):
                again.bundle(lease.lease_id, ticket, 1)
            with pytest.raises(Problem, match="joined before"):
                again.join_lease(lease.lease_id, ticket)
        assert b"".join(again.bundle(lease.lease_id, ticket, 2)[1]) not in dealt, "a restart does not end a lease"


def test_replicas_issue_each_bundle_once(database: URL, plan: Plan) -> None:
    """Four providers, all asked by many at a time for the same join, the same bundles."""
    upload_id = secrets.token_hex(16)
    with ExitStack() as opened, ThreadPoolExecutor(8) as threads:
        dealers = [Dealer(opened.enter_context(closing(Ledger(database, KEY))), 1 << 26, HOUR) for _ in range(4)]

        def race(ask: Callable[[Dealer], object]) -> list[object]:
            """What came of it at all of them, but for those that were told that it was issued before."""

            def one(dealer: Dealer) -> object:
                try:
                    return ask(dealer)
                except Problem as problem:
                    return problem.kind

            return [got for got in threads.map(one, dealers * 2) if got is not ProblemType.ALREADY_ISSUED]

        assert race(lambda d: d.register_upload(upload_id, plan, SEEDS)) == [None] * 8
        lease, ticket = dealers[0].open_lease(upload_id, 4)
        assert [joined.bob for joined in race(lambda d: d.join_lease(lease.lease_id, ticket))] == [lease.bob]  # type: ignore[attr-defined]
        for number in range(3):
            (issued,) = race(lambda d, n=number: d.bundle(lease.lease_id, ticket, n)[0])  # type: ignore[misc]
            assert issued == 4 * plan.bundle_row_bytes + TAG_BYTES
        dealers[1].forget_upload(upload_id)
        for dealer in dealers:
            with pytest.raises(Problem) as caught:
                dealer.bundle(lease.lease_id, ticket, 3)
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
    dealer = Dealer(ledger, 1 << 26, HOUR)
    upload_id = secrets.token_hex(16)
    dealer.register_upload(upload_id, plan, SEEDS)
    (one, ticket), (_, of_two) = (dealer.open_lease(upload_id, 4) for _ in range(2))
    assert not [seed for seed in (one.alice, one.bob, one.own) if seed in ticket]
    changed = [ticket[:at] + bytes([ticket[at] ^ 1]) + ticket[at + 1 :] for at in range(len(ticket))]
    for wrong in (b"", ticket[:-1], of_two, *changed):
        with pytest.raises(Problem) as caught:
            dealer.join_lease(one.lease_id, wrong)
        assert caught.value.kind is ProblemType.UNKNOWN_LEASE
    assert dealer.join_lease(one.lease_id, ticket) == one


def test_the_database_has_no_seed_of_a_lease(tmp_path: Path, plan: Plan) -> None:
    with closing(Ledger(URL.create("sqlite", database=str(tmp_path / "ledger.sqlite")), KEY)) as ledger:
        dealer, upload_id = Dealer(ledger, 1 << 26, HOUR), secrets.token_hex(16)
        dealer.register_upload(upload_id, plan, SEEDS)
        lease, ticket = dealer.open_lease(upload_id, 4)
        dealer.join_lease(lease.lease_id, ticket)
        files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert lease.lease_id.encode() in files
        for secret in (*SEEDS, lease.alice, lease.bob, lease.own, ticket[12:], ledger.lease_key(lease.lease_id, HOUR)):
            assert secret not in files and secret.hex().encode() not in files


@pytest.mark.parametrize("how", ["a party says so", "the model is deleted", "its time is over", "looked for"])
def test_a_ticket_opens_no_more_when_its_lease_is_over(tmp_path: Path, plan: Plan, how: str) -> None:
    """Not with storage.key, the database's files and the ticket, which a curious alice may have kept."""
    url, now = URL.create("sqlite", database=str(tmp_path / "ledger.sqlite")), [1e9]

    def files() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.iterdir())

    with closing(Ledger(url, KEY, lambda: now[0])) as ledger:
        dealer, upload_id = Dealer(ledger, 1 << 26, HOUR), secrets.token_hex(16)
        dealer.register_upload(upload_id, plan, SEEDS)
        (lease, ticket), (other, of_other) = (dealer.open_lease(upload_id, 4) for _ in range(2))
        with ledger._db.read() as db:
            found = db.execute(text("SELECT key FROM leases WHERE lease_id = :id"), {"id": lease.lease_id})
            stored = found.scalar_one()
        assert dealer._lease(lease.lease_id, ticket) == lease and stored in files()
        match how:
            case "a party says so":
                dealer.end_lease(lease.lease_id)
                assert dealer._lease(other.lease_id, of_other) == other
            case "the model is deleted":
                dealer.forget_upload(upload_id)
            case "its time is over":
                now[0] += HOUR + 1
            case "looked for":
                now[0] += HOUR + 1
                dealer.end_old_leases()
                now[0] -= HOUR + 1
        with pytest.raises(Problem) as caught:
            dealer._lease(lease.lease_id, ticket)
        assert caught.value.kind is ProblemType.UNKNOWN_LEASE
        if how != "its time is over":  # the next look wipes it
            assert stored not in files()
        dealer.end_old_leases()
        kept = files()
    assert (stored in kept) is False and (stored in files()) is False


def test_a_deleted_uploads_seeds_are_in_no_file(tmp_path: Path, plan: Plan) -> None:
    with closing(Ledger(URL.create("sqlite", database=str(tmp_path / "ledger.sqlite")), KEY)) as ledger:
        dealer, upload_id = Dealer(ledger, 1 << 26, HOUR), secrets.token_hex(16)
        dealer.register_upload(upload_id, plan, SEEDS)
        with ledger._db.read() as db:
            sealed = db.execute(text("SELECT seed_0, seed_1 FROM uploads")).one()
        dealer.forget_upload(upload_id)
        files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert upload_id.encode() in files and not [seed for seed in sealed if seed in files]


def test_too_large_a_bundle_is_refused(ledger: Ledger, plan: Plan) -> None:
    dealer = Dealer(ledger, 1 << 16, HOUR)
    upload_id = secrets.token_hex(16)
    dealer.register_upload(upload_id, plan, SEEDS)
    with pytest.raises(Problem) as caught:
        dealer.open_lease(upload_id, 64)
    assert caught.value.kind is ProblemType.TOO_LARGE


# Pools

ROWS = 8


def rows_of(number: int, size: int) -> PreparedRows:
    """Rows that say who they are: bundle * size + index."""
    values = np.arange(number * size, (number + 1) * size)[:, None]
    return {"layer": product.Prepared(values)}


def numbers(prepared: PreparedRows) -> list[int]:
    return [int(n) for n in prepared["layer"][0][:, 0]]


@asynccontextmanager
async def pool(
    target: int = 32, fail: dict[int, ProblemType] | None = None, size: int = ROWS, spread: int = 0
) -> AsyncIterator[Pool]:
    failures = fail if fail is not None else {}

    async def make(number: int) -> PreparedRows:
        if number in failures:
            raise Problem(
                failures.pop(number) if failures[number] is ProblemType.PROVIDER_UNAVAILABLE else failures[number]
            )
        await asyncio.sleep(0)
        return rows_of(number, size)

    made = Pool("lease", b"", size, make, target=target, spread=spread, claim_seconds=5)
    try:
        yield made
    finally:
        await made.close()


def test_rows_leave_the_pool_in_order_and_once() -> None:
    async def run() -> None:
        async with pool() as alice, pool() as bob:
            seen: list[int] = []
            for count in (1, 3, 8, 5, 20, 1, 16, 7):
                first, mine = await alice.take(count)
                theirs = await bob.claim(first, count)
                assert numbers(mine) == numbers(theirs) == list(range(first, first + count))
                seen += numbers(mine)
            assert seen == list(range(len(seen)))
            for first in (0, 5, len(seen) - 1):
                with pytest.raises(Problem) as caught:
                    await bob.claim(first, 1)
                assert caught.value.kind is ProblemType.ROW_USED

    asyncio.run(run())


def test_claims_may_arrive_out_of_order_but_never_twice() -> None:
    async def run() -> None:
        async with pool() as bob:
            assert numbers(await bob.claim(10, 4)) == [10, 11, 12, 13]
            assert numbers(await bob.claim(2, 8)) == list(range(2, 10))
            for first, count in ((9, 2), (13, 1), (0, 3), (-1, 1), (0, 0), (10**9, 1)):
                with pytest.raises(Problem) as caught:
                    await bob.claim(first, count)
                assert caught.value.kind is ProblemType.ROW_USED
            assert numbers(await bob.claim(0, 2)) == [0, 1], "a refused claim takes nothing"

    asyncio.run(run())


def test_burnt_rows_are_gone_and_those_around_them_are_not() -> None:
    async def run() -> None:
        async with pool() as bob:
            await bob.claim(0, 4)
            await bob.burn(2, 8)  # some of them are used already
            await bob.burn(2, 8)
            assert bob.position == 10
            for first, count in ((4, 1), (9, 2), (0, 1)):
                with pytest.raises(Problem) as caught:
                    await bob.claim(first, count)
                assert caught.value.kind is ProblemType.ROW_USED
            assert numbers(await bob.claim(10, 4)) == [10, 11, 12, 13]
            for first, count in ((-1, 2), (0, 0), (10**9, 1)):
                await bob.burn(first, count)
            assert bob.position == 14, "what no honest leader names is left alone"

    asyncio.run(run())


def test_rows_that_are_still_to_be_made_come_burnt() -> None:
    """bob refuses a run whose rows alice has already and he has not."""

    async def run() -> None:
        async with pool(target=ROWS, spread=8 * ROWS) as bob:
            ahead = bob.made + 3 * ROWS
            await bob.burn(ahead - 2, 4)
            assert numbers(await bob.claim(ahead - 4, 2)) == [ahead - 4, ahead - 3]
            for first in range(ahead - 2, ahead + 2):
                with pytest.raises(Problem) as caught:
                    await bob.claim(first, 1)
                assert caught.value.kind is ProblemType.ROW_USED
            assert numbers(await bob.claim(ahead + 2, 2)) == [ahead + 2, ahead + 3]
            assert not bob._burnt, "nothing is remembered of bundles that came"

    asyncio.run(run())


def test_a_bundle_that_never_arrives_is_skipped_by_both() -> None:
    async def run() -> None:
        async with pool() as alice, pool(fail={1: ProblemType.ALREADY_ISSUED}) as bob:
            first, _ = await alice.take(6)
            await bob.claim(first, 6)
            first, _ = await alice.take(6)
            with pytest.raises(Problem):
                await bob.claim(first, 6)
            alice.skip(bob.gaps)
            first, mine = await alice.take(6)
            assert first == 16 and numbers(mine) == numbers(await bob.claim(first, 6))

    asyncio.run(run())


def test_a_bundle_that_came_changed_is_a_gap_and_never_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moiety_party.pool._RETRY_SECONDS", 0.01)
    asked: list[int] = []

    async def make(number: int) -> PreparedRows:
        asked.append(number)
        if number == 1:
            raise Problem(ProblemType.MALFORMED)
        return rows_of(number, ROWS)

    async def run() -> None:
        bob = Pool("lease", b"", ROWS, make, target=32, spread=0, claim_seconds=5)
        assert numbers(await bob.claim(16, 3)) == [16, 17, 18] and bob.gaps == [1]
        with pytest.raises(Problem):
            await bob.claim(8, 1)
        await bob.close()

    asyncio.run(run())
    assert asked == sorted(set(asked)) and 1 in asked


def test_the_same_bundle_is_asked_for_again_while_the_provider_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moiety_party.pool._RETRY_SECONDS", 0.01)

    async def run() -> None:
        async with pool(fail={0: ProblemType.PROVIDER_UNAVAILABLE}) as bob:
            assert numbers(await bob.claim(0, 3)) == [0, 1, 2] and bob.gaps == []

    asyncio.run(run())


def test_a_pool_without_its_lease_gives_what_it_has_and_then_says_so() -> None:
    async def run() -> None:
        async with pool(fail={2: ProblemType.UNKNOWN_LEASE}) as alice:
            assert len(numbers((await alice.take(16))[1])) == 16
            with pytest.raises(Problem) as caught:
                await alice.take(1)
            assert caught.value.kind is ProblemType.RANDOMNESS_EXHAUSTED and alice.lost

    asyncio.run(run())


def test_rows_that_were_lost_on_the_way_do_not_pile_up() -> None:
    async def run() -> None:
        async with pool(target=16) as bob:
            for first in range(0, 400, 20):  # the leader took more than it named
                await bob.claim(first, 4)
                await asyncio.sleep(0.001)
            assert bob.stock <= 24 and len(bob._bundles) <= 6

    asyncio.run(run())


def test_a_pool_of_one_row_serves_runs_side_by_side() -> None:
    """Whatever the order in which the rows are named, each reaches both parties once."""

    async def run() -> None:
        async with pool(target=1, size=1) as alice, pool(target=1, size=1, spread=12) as bob:
            seen: list[int] = []

            async def one(count: int, delay: float) -> None:
                first, mine = await alice.take(count)
                await asyncio.sleep(delay)
                assert numbers(mine) == numbers(await bob.claim(first, count))
                seen.extend(numbers(mine))

            for _ in range(5):
                await asyncio.gather(*(one(count, 0.004 * (4 - i)) for i, count in enumerate((1, 3, 1, 2))))
            assert sorted(seen) == list(range(35)) and seen != sorted(seen)
            await asyncio.sleep(0.01)
            assert alice.stock == bob.stock == 1 and alice.full and bob.full
            assert len(alice._bundles) == len(bob._bundles) == 1

    asyncio.run(asyncio.wait_for(run(), 10))


def test_a_pool_makes_the_rows_that_are_wanted_of_it() -> None:
    async def run() -> None:
        async with pool(target=1, size=1, spread=8) as alice, pool(target=1, size=1, spread=8) as bob:
            assert await alice.want(6) == 6
            await bob.want_until(6)
            await bob.want_until(10**9)  # nonsense is not followed
            await asyncio.sleep(0.05)
            assert (alice.made, bob.made) == (6, 6)
            first, mine = await alice.take(6)
            assert numbers(await bob.claim(first, 6)) == numbers(mine)

    asyncio.run(asyncio.wait_for(run(), 10))


def test_a_pool_of_one_row_goes_on_after_a_bundle_that_never_came() -> None:
    async def run() -> None:
        lost = {0: ProblemType.ALREADY_ISSUED, 2: ProblemType.ALREADY_ISSUED}
        async with pool(target=1, size=1) as alice, pool(target=1, size=1, spread=8, fail=lost) as bob:
            await asyncio.sleep(0.01)
            assert bob.gaps == [0] and bob.stock == 1, "another is made in its place"
            alice.skip(bob.gaps)
            end = await alice.want(2)
            await bob.want_until(end)
            await asyncio.sleep(0.01)
            assert bob.gaps == [0, 2]
            alice.skip(bob.gaps)
            end = await alice.want(2)
            await bob.want_until(end)
            first, mine = await alice.take(2)
            assert numbers(mine) == numbers(await bob.claim(first, 2)) == [3, 4]

    asyncio.run(asyncio.wait_for(run(), 10))


@pytest.mark.parametrize(
    ("pool_bytes", "expected"),
    [(1 << 30, (512, 64, 2048)), (1 << 22, (32, 16, 32)), (1 << 18, (2, 1, 2)), (1000, (1, 1, 1))],
)
def test_rows_are_as_many_as_their_bytes_allow(
    identities: dict[str, Identity], tmp_path: Path, pool_bytes: int, expected: tuple[int, int, int]
) -> None:
    """Inputs in a request, rows in a bundle, rows ready."""
    settings = PartySettings(data_dir=tmp_path, pool_bytes=pool_bytes)
    plan = plans.logits()
    wide = plan.model_copy(
        update={"layers": (plan.layers[0], plan.layers[1].model_copy(update={"out_features": 1 << 15}))}
    )
    assert wide.bundle_row_bytes == 1 << 17

    async def run() -> tuple[int, int, int]:
        party = Party(settings, identities["alice"])
        try:
            return party.max_rows(wide), party.bundle_rows_for(wide), party._pool_rows(wide)
        finally:
            await party.close()

    assert asyncio.run(run()) == expected


def test_seeds_are_not_shown(plan: Plan, ledger: Ledger) -> None:
    dealer = Dealer(ledger, 1 << 26, HOUR)
    upload_id = secrets.token_hex(16)
    dealer.register_upload(upload_id, plan, SEEDS)
    lease, _ = dealer.open_lease(upload_id, 1)
    assert repr(lease.alice) not in repr(lease) and len(new_seed()) == 32
