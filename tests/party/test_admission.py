"""Who may ask: the owner's tokens, verified offline; quotas, counted durably; revocation."""

import asyncio
import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import URL

from moiety_party.admission import Admission
from moiety_party.state import State
from moiety_party.store import Model
from moiety_shared.crypto import tokens
from moiety_shared.crypto.signing import key_text
from moiety_shared.crypto.tokens import MAX_EXPIRES, MAX_QUOTA_ROWS, MAX_QUOTA_SECONDS, Grant, Quota
from moiety_shared.messages.catalogue import Manifest
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from tests import plans
from tests.clock import Clock

OWNER = Ed25519PrivateKey.generate()
ID = "ab" * 16


def a_model(
    access: str = "token", name: str = "small", owner: Ed25519PrivateKey = OWNER, plan: Plan | None = None
) -> Model:
    plan = plan or plans.logits()
    manifest = Manifest.model_validate(
        {
            "upload_id": "0" * 32,
            "name": name,
            "version": 1,
            "party": 0,
            "plan_digest": plan.digest.hex(),
            "weights_digest": "0" * 64,
            "seed_digest": "0" * 64,
            "access": access,
            "owner_key": key_text(owner.public_key()),
        }
    )
    return Model(manifest, plan, {})


def grant(**members: object) -> Grant:
    return Grant.model_validate({"token_id": ID, "subject": "clinic", "expires": 2000, **members})


def token(**members: object) -> str:
    return tokens.issue(grant(**members), OWNER)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(database: URL, clock: Clock) -> Iterator[Admission]:
    with a_state(database) as state:
        yield Admission(state, clock)


@contextmanager
def a_state(database: URL) -> Iterator[State]:
    """alice's, as a process that starts now opens it."""
    state = State(database, "alice")
    yield state
    state.close()


def refused(admission: Admission, model: Model, text: str | None) -> ProblemType:
    with pytest.raises(Problem) as caught:
        admission.admit(model, text)
    return caught.value.kind


def test_a_good_token_lets_in(admission: Admission) -> None:
    for allowed in ({}, {"models": ["small"]}, {"models": ["other", "*"]}, {"outputs": ["logits"]}):
        admitted = admission.admit(a_model(), token(**allowed))
        assert admitted is not None and admitted.subject == "clinic"
    assert admission.admit(a_model("open"), None) is None, "an open model needs none"


def test_other_tokens_do_not(admission: Admission, clock: Clock) -> None:
    model, good = a_model(), token()
    stranger = tokens.issue(grant(), Ed25519PrivateKey.generate())
    head, claims, signature = good.split(".")
    more = json.loads(base64.urlsafe_b64decode(claims + "==")) | {"exp": 10**10}
    forged = base64.urlsafe_b64encode(json.dumps(more).encode()).rstrip(b"=").decode()
    unsigned = jwt.encode(more, None, algorithm="none")
    symmetric = jwt.encode(more, key_text(OWNER.public_key()), algorithm="HS256")
    for text in (None, "", "x", "a.b.c", stranger, f"{head}.{forged}.{signature}", unsigned, symmetric, "x" * 9999):
        assert refused(admission, model, text) is ProblemType.UNAUTHORIZED
    assert refused(admission, a_model(owner=Ed25519PrivateKey.generate()), good) is ProblemType.UNAUTHORIZED
    assert refused(admission, model, token(models=["other"])) is ProblemType.FORBIDDEN
    assert refused(admission, model, token(outputs=["labels"])) is ProblemType.FORBIDDEN
    clock.now = 2000
    assert refused(admission, model, good) is ProblemType.UNAUTHORIZED, "its time is over, verified before or not"
    assert refused(admission, a_model("open"), "x") is ProblemType.UNAUTHORIZED, "a bad token is never ignored"


def test_a_token_for_labels_lets_in_to_decisions_and_to_nothing_else(admission: Admission) -> None:
    deciding = a_model(plan=plans.decision())
    for outputs in (["labels"], ["logits", "labels"], ["logits", "labels", "count"]):
        assert admission.admit(deciding, token(outputs=outputs)) is not None
    for outputs in (["logits"], ["count"], []):
        assert refused(admission, deciding, token(outputs=outputs)) is ProblemType.FORBIDDEN
    for plan in (plans.single(task="binary"), plans.count()):
        assert refused(admission, a_model(plan=plan), token(outputs=["labels"])) is ProblemType.FORBIDDEN


def test_who_may_send_a_body_is_seen_by_the_header(admission: Admission, clock: Clock) -> None:
    closed, opened = a_model(), a_model("open", "public")
    other = a_model(owner=Ed25519PrivateKey.generate())
    good = token()
    for models, text in (([], None), ([], "x"), ([closed, opened], None), ([other, closed], good), ([opened], good)):
        admission.check_sender(models, text)
    for models, text in (([closed], None), ([closed], "x"), ([closed, opened], "x"), ([other], good)):
        with pytest.raises(Problem) as caught:
            admission.check_sender(models, text)
        assert caught.value.kind is ProblemType.UNAUTHORIZED
    clock.now = 2000
    with pytest.raises(Problem, match="expired"):
        admission.check_sender([closed], good)
    clock.now = 1000
    admission._state.revoke([ID])
    with pytest.raises(Problem, match="revoked"):
        admission.check_sender([closed], good)


def test_a_revoked_token_stays_revoked(admission: Admission, database: URL, clock: Clock) -> None:
    good = token()
    admission.admit(a_model(), good)
    with a_state(database) as other:
        other.revoke([ID, ID])
    with a_state(database) as restarted:
        assert refused(Admission(restarted, clock), a_model(), good) is ProblemType.UNAUTHORIZED
    admission._state.revoke([ID])
    assert refused(admission, a_model(), good) is ProblemType.UNAUTHORIZED


def test_a_quota_is_counted_across_restarts_and_never_exceeded(database: URL, clock: Clock) -> None:
    allowed = grant(quota=Quota(rows=1000, seconds=100))

    async def spend(admission: Admission, rows: int) -> None:
        await admission.spend(a_model(), allowed, rows)

    async def until_refused(rows: int) -> tuple[int, Problem]:
        spent = 0
        while True:
            with a_state(database) as state:
                admission = Admission(state, clock)  # a crash after every other request
                for _ in range(2):
                    try:
                        await spend(admission, rows)
                    except Problem as problem:
                        return spent, problem
                    spent += rows

    spent, problem = asyncio.run(until_refused(7))
    assert problem.kind is ProblemType.QUOTA_EXCEEDED and problem.retry_after == 101
    assert 900 < spent <= 1000 or spent * 15 / 14 > 900, "a crash may cost a block of a 64th, and never gives one"
    assert spent <= 1000
    clock.now += 100
    with a_state(database) as state:
        asyncio.run(spend(Admission(state, clock), 7))


def test_replicas_count_one_quota(database: URL, clock: Clock) -> None:
    """Four of them, each from threads of its own, until each refuses: what they let in together is the quota."""
    allowed, model, rows = grant(quota=Quota(rows=1000, seconds=100)), a_model(), 7

    def until_refused(state: State) -> int:
        async def run() -> int:
            admission, spent = Admission(state, clock), 0
            while True:
                try:
                    await admission.spend(model, allowed, rows)
                except Problem as problem:
                    assert problem.kind is ProblemType.QUOTA_EXCEEDED
                    return spent
                spent += rows

        return asyncio.run(run())

    with ExitStack() as open_states, ThreadPoolExecutor(4) as threads:
        states = [open_states.enter_context(a_state(database)) for _ in range(4)]
        spent = sum(threads.map(until_refused, states))
    assert 1000 - 4 * 15 <= spent <= 1000, "each may be left with less than a block that it cannot use"


def test_without_crashes_a_quota_is_exact_and_what_failed_comes_back(admission: Admission) -> None:
    allowed, model = grant(quota=Quota(rows=1000, seconds=100)), a_model()

    async def run() -> int:
        spent = 0
        receipts = await asyncio.gather(*(admission.spend(model, allowed, 10) for _ in range(50)))
        await asyncio.gather(*map(admission.refund, receipts))
        await asyncio.gather(*map(admission.refund, receipts))  # each is good for one
        while True:
            try:
                await admission.spend(model, allowed, 10)
            except Problem as problem:
                assert problem.kind is ProblemType.QUOTA_EXCEEDED
                return spent
            spent += 10

    assert asyncio.run(run()) == 1000
    with pytest.raises(Problem) as caught:
        asyncio.run(admission.spend(model, allowed, 1001))
    assert caught.value.kind is ProblemType.FORBIDDEN
    asyncio.run(admission.spend(model, allowed.model_copy(update={"subject": "another"}), 1000))


def test_what_a_window_left_over_is_not_given_to_the_next(admission: Admission, clock: Clock) -> None:
    allowed, model = grant(quota=Quota(rows=1000, seconds=100)), a_model()

    async def run() -> int:
        receipt = await admission.spend(model, allowed, 510)
        await admission.spend(model, allowed, 1)  # the rest of its block is left
        clock.now += 100
        spent = 10
        await admission.spend(model, allowed, 10)
        await admission.refund(receipt)  # a run that failed when its window was over
        with pytest.raises(Problem, match="quota"):
            while True:
                await admission.spend(model, allowed, 10)
                spent += 10
        return spent

    assert asyncio.run(run()) == 1000


def test_what_one_token_reserved_lets_no_other_go_beyond_its_own_limit(admission: Admission) -> None:
    """A subject may have two tokens: its inputs are counted together, and held against the limit of that one."""
    large, small = (grant(quota=Quota(rows=rows, seconds=100)) for rows in (64_000, 100))
    model = a_model()

    async def run() -> int:
        await admission.spend(model, large, 1)  # of a block of 1,000
        spent = 0
        with pytest.raises(Problem, match="quota"):
            while True:
                await admission.spend(model, small, 10)
                spent += 10
        return spent

    assert asyncio.run(run()) == 0


def test_what_failed_is_safe_from_a_crash_and_a_clean_stop_loses_nothing(database: URL, clock: Clock) -> None:
    allowed, model = grant(quota=Quota(rows=1000, seconds=100)), a_model()

    async def left(admission: Admission) -> int:
        count = 0
        with pytest.raises(Problem, match="quota"):
            while True:
                await admission.spend(model, allowed, 1)
                count += 1
        return count

    async def run() -> None:
        with a_state(database) as state:
            crashes = Admission(state, clock)
            receipts = [await crashes.spend(model, allowed, 500) for _ in range(2)]
            for receipt in receipts:
                await crashes.refund(receipt)
        with a_state(database) as state:
            stops = Admission(state, clock)
            await stops.spend(model, allowed, 1)
            late = await stops.spend(model, allowed, 100)
            await stops.close()
            await stops.refund(late)  # it failed while the process was ending
        with a_state(database) as state:
            assert await left(Admission(state, clock)) == 1000 - 1000 // 64 - 1

    asyncio.run(run())


def test_a_quota_is_written_to_the_disk_in_blocks(admission: Admission, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    reserve = State.reserve
    monkeypatch.setattr(State, "reserve", lambda *arguments: written.append(1) or reserve(*arguments))
    allowed = grant(quota=Quota(rows=6400, seconds=100))

    async def run() -> None:
        for _ in range(150):
            await admission.spend(a_model(), allowed, 1)

    asyncio.run(run())
    assert len(written) == 2


def test_the_largest_quota_is_counted(admission: Admission, clock: Clock) -> None:
    allowed = grant(quota=Quota(rows=MAX_QUOTA_ROWS, seconds=MAX_QUOTA_SECONDS))

    async def run() -> None:
        receipt = await admission.spend(a_model(), allowed, MAX_QUOTA_ROWS)
        with pytest.raises(Problem, match="quota"):
            await admission.spend(a_model(), allowed, MAX_QUOTA_ROWS)
        await admission.refund(receipt)
        await admission.spend(a_model(), allowed, MAX_QUOTA_ROWS)

    asyncio.run(run())
    for beyond in ({"rows": MAX_QUOTA_ROWS + 1}, {"seconds": MAX_QUOTA_SECONDS + 1}, {"rows": 0}, {"rows": 2**63}):
        claims = jwt.decode(token(), options={"verify_signature": False})
        text = jwt.encode(claims | {"quota": {"rows": 1, "seconds": 1} | beyond}, OWNER, algorithm="EdDSA")
        assert refused(admission, a_model(), text) is ProblemType.UNAUTHORIZED
    for expires in (MAX_EXPIRES + 1, -1, 2**63):
        text = jwt.encode(claims | {"exp": expires}, OWNER, algorithm="EdDSA")
        assert refused(admission, a_model(), text) is ProblemType.UNAUTHORIZED


def test_a_window_counts_to_its_limit_and_is_forgotten_when_over(database: URL) -> None:
    with a_state(database) as state:
        assert [state.reserve("k", "clinic", 100, rows, 10, 0) for rows in (7, 4, 3, 1)] == [True, False, True, False]
        assert state.reserve("k", "another", 100, 10, 10, 0) and state.reserve("other key", "clinic", 100, 10, 10, 0)
        state.unreserve("k", "clinic", 100, 4)
        assert [state.reserve("k", "clinic", 100, rows, 10, 0) for rows in (5, 4)] == [False, True]
        assert state.reserve("k", "clinic", 200, 10, 10, 150), "the next window"
        assert not state.reserve("k", "clinic", 100, 1, 10, 90), "a clock that is behind does not begin the first again"
        assert state.reserve("k", "clinic", 8000, 10, 10, 7000)
        assert state.reserve("k", "clinic", 100, 10, 10, 7000), "an hour later it is forgotten"


def test_a_token_for_something_else_or_of_any_size_is_none(admission: Admission) -> None:
    claims = jwt.decode(token(), options={"verify_signature": False})
    for wrong in ({"aud": "another service"}, {"sub": "x" * 5000}, {"extra": "x" * 5000}):
        text = jwt.encode(claims | wrong, OWNER, algorithm="EdDSA")
        assert refused(admission, a_model(), text) is ProblemType.UNAUTHORIZED, wrong
    admission.admit(a_model(), jwt.encode(claims | {"extra": "x"}, OWNER, algorithm="EdDSA"))
