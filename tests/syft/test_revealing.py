"""What is revealed, and what is not: `get` opens the value that it is called on, and no other."""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import moiety_syft as sy
from moiety_client import exchange
from moiety_local.deployment import Deployment
from moiety_local.folder import DeploymentError
from moiety_shared.problems import Problem, ProblemType
from moiety_syft import session
from tests.syft.conftest import Share


@dataclass
class Seen:
    """What this program sent and opened: rows of each request, results that were joined, plans that were uploaded."""

    requests: list[int] = field(default_factory=list)
    joined: list[Any] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    found = Seen()
    call, joined, publish = exchange.Sealer.call, exchange.joined, session.publish

    def calling(self: exchange.Sealer, elements: Any, *rest: Any) -> exchange.Call:
        found.requests.append(len(elements))
        return call(self, elements, *rest)

    def joining(plan: Any, shares: Any) -> Any:
        found.joined.append(joined(plan, shares))
        return found.joined[-1]

    def publishing(owner: Any, name: str, *rest: Any, **options: Any) -> Any:
        found.uploads.append(name)
        return publish(owner, name, *rest, **options)

    monkeypatch.setattr(exchange.Sealer, "call", calling)
    monkeypatch.setattr("moiety_client.tasks.joined", joining)
    monkeypatch.setattr(session, "publish", publishing)
    return found


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.fc1 = nn.Linear(12, 20)
        self.fc2 = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x.view(-1, 12))))


@pytest.fixture
def task(share: Share, workers: list[sy.VirtualWorker]) -> tuple[nn.Module, list[Any], list[int]]:
    """A shared network, six private batches of 40, and how many of each are right in the clear."""
    model = Net()
    torch.manual_seed(2)
    batches = [(torch.rand(40, 3, 4) * 2 - 1, torch.randint(5, (40,))) for _ in range(6)]
    with torch.no_grad():
        right = [int((model(x).argmax(dim=1) == y).sum()) for x, y in batches]
    model.fix_precision().share(*workers[:2], crypto_provider=workers[2])
    return model, [(share(x), share(y)) for x, y in batches], right


def hits(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    guess = model(x).argmax(dim=1)
    return guess.eq(y.view_as(guess)).sum()


def number(count: Tensor) -> int:
    return int(count.get().float_precision().long().item())


def test_a_sum_that_is_revealed_at_the_end_reveals_no_part_of_it(task: Any, seen: Seen) -> None:
    model, batches, right = task
    total: Any = 0
    for x, y in batches:
        total += hits(model, x, y)
    assert not seen.requests, "nothing runs before it must"
    assert number(total.copy()) == sum(right)
    assert sum(seen.requests) == 240 and len(seen.requests) == 2, "200 rows in one request, 40 in another"
    (opened,) = seen.joined
    assert opened.tolist() == [sum(right)], "their shares were added before they were joined"


def test_a_sum_that_is_revealed_as_it_grows_runs_each_batch_once(task: Any, seen: Seen) -> None:
    model, batches, right = task
    total: Any = 0
    for index, (x, y) in enumerate(batches):
        total += hits(model, x, y)
        assert number(total.copy()) == sum(right[: index + 1])
    assert seen.requests == [40] * 6 and len(set(seen.uploads)) == len(seen.uploads) <= 1
    assert number(total) == sum(right) and len(seen.requests) == 6


def test_sums_with_factors_and_numbers(task: Any, seen: Seen) -> None:
    model, batches, right = task
    three = [hits(model, x, y) for x, y in batches[:3]]
    assert number(10 + (three[0] + three[1] + three[2]) * 2) == 10 + 2 * sum(right[:3])
    assert len(seen.joined) == 1
    assert number(three[0] - three[1]) == right[0] - right[1]
    assert len(seen.joined) == 2, "what cannot be added up as shares is computed as one plan"


def test_the_same_expression_of_other_values_is_uploaded_once(share: Share, seen: Seen) -> None:
    for values in ([0.25, -1.0, 2.0], [1.0, 1.5, -3.0]):
        found = (share(torch.tensor(values)) * 2 + 0.125).get().float_precision()
        assert torch.allclose(found, torch.tensor(values) * 2 + 0.125, atol=1e-3)
    assert len(seen.uploads) == 1 and len(seen.requests) == 2


def published(services: sy.Services) -> set[str]:
    return {name for name in services.owner.catalogue.names() if name.startswith("syft-")}


def test_expressions_are_withdrawn(
    services: sy.Services, workers: list[sy.VirtualWorker], seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was used longest ago where there are many; all that is left at the end. Used again, it is uploaded again."""
    monkeypatch.setattr(session, "_MOST_UPLOADS", 2)
    hook = sy.TorchHook(torch, services=services)
    hook.session.withdraw()
    bob, alice, dealer = (sy.VirtualWorker(hook, id=worker.id) for worker in workers)
    x = torch.tensor([5, 7]).share(bob, alice, crypto_provider=dealer)
    before, gone = published(services), []
    for number in (1, 2, 1, 3):
        assert (x * 11 + number).get().tolist() == [55 + number, 77 + number]
    one, two, three = seen.uploads
    assert published(services) == before | {one, three}, "the second was used longest ago"
    for name in (one, three):
        gone.append(services.owner.catalogue.get(name).entry.upload_id)
    hook.unhook()
    sy.TorchHook(torch, services=services)
    assert published(services) == before
    for party, upload_id in itertools.product((0, 1), gone):
        with pytest.raises(Problem) as caught:
            services.owner.call(party, "GET", f"/v1/models/{upload_id}")
        assert caught.value.kind is ProblemType.UNKNOWN_MODEL, "its shares are wiped"
    assert (x * 11 + 2).get().tolist() == [57, 79] and seen.uploads[3:] == [two]
    hook.session.withdraw()


def test_what_could_not_be_withdrawn_is_named(
    services: sy.Services, share: Share, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    (share(torch.tensor([1.0])) * 3 - 2).get()
    (name,) = seen.uploads
    withdraw = services.owner.withdraw
    with monkeypatch.context() as patched:

        def away(*_: object) -> None:
            raise Problem(ProblemType.PEER_UNAVAILABLE, "bob does not answer")

        patched.setattr(services.owner, "withdraw", away)
        with pytest.warns(UserWarning, match=f"bob does not answer.*moiety withdraw {name} 1"):
            services.withdraw()
    withdraw(name, 1)


def test_steps_that_are_coarser_than_the_decimals_are_told(share: Share) -> None:
    with pytest.warns(UserWarning, match="in steps of"):
        found = (share(torch.tensor([3000.0, -1.0])) + 1).get()
    assert torch.allclose(found.float_precision(), torch.tensor([3001.0, 0.0]), atol=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (share(torch.tensor([200.0, -1.0])) + 1).get()


def test_the_hook_can_be_taken_off(services: sy.Services, hook: sy.TorchHook) -> None:
    hook.unhook()
    try:
        assert not hasattr(torch.Tensor, "fix_precision") and not hasattr(nn.Module, "share")
    finally:
        sy.TorchHook(torch, services=services)
    assert torch.tensor([0.1239]).fix_prec().float_prec().tolist() == pytest.approx([0.124])


def test_processes_that_the_environment_names_are_used(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (deployment.settings("server") | deployment.settings("client")).items():
        monkeypatch.setenv(name, value)
    hook = sy.TorchHook(torch)
    bob, alice, dealer = (sy.VirtualWorker(hook, id=name) for name in ("bob", "alice", "dealer"))
    x = torch.tensor([1.5, 2.0]).fix_prec().share(bob, alice, crypto_provider=dealer)
    assert (x * x).get().float_prec().tolist() == pytest.approx([2.25, 4.0], abs=1e-3)
    hook.session.services().close()


def test_processes_that_do_not_come_up_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: Deployment) -> None:
        raise DeploymentError("alice does not answer")

    monkeypatch.delenv("MOIETY_SERVER_ALICE_URL", raising=False)
    monkeypatch.setattr(Deployment, "start", failing)
    hook = sy.TorchHook(torch)
    bob, alice, dealer = (sy.VirtualWorker(hook, id=name) for name in ("bob", "alice", "dealer"))
    x = torch.tensor([1, 2]).share(bob, alice, crypto_provider=dealer)
    for _ in range(2):
        with pytest.raises(DeploymentError, match="alice"):
            (x + 1).get()


def test_tensors_of_two_hooks_do_not_mix(services: sy.Services, share: Share) -> None:
    hook = sy.TorchHook(torch, services=services)
    bob, alice, dealer = (sy.VirtualWorker(hook, id=name) for name in ("bob", "alice", "dealer"))
    with pytest.raises(sy.Unsupported, match="different hooks"):
        share(torch.tensor([1.0])) + torch.tensor([1.0]).fix_prec().share(bob, alice, crypto_provider=dealer)
