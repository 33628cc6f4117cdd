"""A verified model in five real processes: published, asked, and given another key."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from moiety_client.client import Client
from moiety_client.errors import NotVerified
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_shared.crypto.signing import key_from_text
from moiety_shared.messages.statements import SignedStatement

Digits = tuple[np.ndarray, np.ndarray]
NAME = "sure"


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    pools = {"POOL_ROWS": "64", "BUNDLE_BYTES": str(1 << 21), "MAX_ROWS": "32"}
    with Deployment(tmp_path_factory.mktemp("verified"), extra={"alice": pools, "bob": pools}) as running:
        running.run("publish", "mnist", "--name", NAME, "--verified", "--open")
        yield running


def test_a_checked_answer_is_that_of_the_model(verified: Deployment, digits: Digits) -> None:
    images = digits[0][:20]
    with Client.from_access(verified.access_file, timeout=60, require_verified=True) as client:
        entry = client.model(NAME)
        assert entry.plan.verified is not None and "cheats is caught" in entry.describe()
        one = client.predict(NAME, images[:1])
        assert one.rounds == entry.plan.rounds == 10
        answer = client.predict(NAME, images)
        assert (answer.labels == mnist.float_outputs(images).argmax(axis=1)).all()
        assert np.abs(answer.outputs - mnist.float_outputs(images)).max() < 0.5


def test_a_model_that_is_not_verified_is_not_asked(deployment: Deployment, digits: Digits) -> None:
    asking = Client.from_access(deployment.access_file, timeout=60, require_verified=True)
    with asking as client, pytest.raises(NotVerified):
        client.predict("mnist", digits[0][:1])


def test_a_model_goes_on_under_another_key(verified: Deployment, digits: Digits) -> None:
    verified.run("rekey", NAME)
    with verified.client(timeout=60) as client:
        assert len(client.predict(NAME, digits[0][:2])) == 2


def test_its_runs_are_audited(verified: Deployment, tmp_path: Path) -> None:
    """The three that the command sends, and what alice and bob signed of each is shown."""
    verified.run("publish", "mnist", "--name", "watched", "--verified", "--auditable")
    evidence = tmp_path / "runs.jsonl"
    told = verified.run("audit", "watched", "--runs", "3", "--evidence", str(evidence), "--json")
    assert [json.loads(line)["findings"] for line in told.splitlines()] == [[], [], []]
    head, *runs = map(json.loads, evidence.read_text().splitlines())
    assert len(runs) == 3
    for run in runs:
        alice, bob = (
            SignedStatement.model_validate(run["signed"][name]).verify(party, key_from_text(head[name]))
            for party, name in enumerate(("alice", "bob"))
        )
        assert alice.pieces == bob.heard and bob.pieces == alice.heard
        assert alice.binding.request_id.hex() == run["request"]


def test_what_it_costs_is_told_before_it_is_published(verified: Deployment) -> None:
    found = json.loads(verified.run("inspect", "mnist", "--verified", "--json"))
    assert found["total"]["rounds"] == 10 and found["total"]["offline_bytes"] == 60_446


def test_a_count_is_checked_by_whoever_reads_it(verified: Deployment, digits: Digits, tmp_path: Path) -> None:
    """The client, and the owner, who opens what clients hand on, of the version that is gone from sight since."""
    publish = ("publish", "mnist", "--name", "counting", "--verified", "--reveal", "count", "--open")
    verified.run(*publish)
    images, labels = digits[0][:48], digits[1][:48]  # two requests
    with Client.from_access(verified.access_file, timeout=60, require_verified=True) as client:
        told = client.evaluate("counting", images, labels)
        assert told.correct == (mnist.float_outputs(images).argmax(axis=1) == labels).sum() and not told.for_owner
        both, owners = (client.evaluate("counting", images, labels, reveal_to=who) for who in ("both", "owner"))
    assert both.correct == told.correct and owners.correct is None
    verified.run(*publish)
    for handed_on in (both.for_owner, owners.for_owner):
        files = [tmp_path / str(number) for number in range(2)]
        for file, count in zip(files, handed_on, strict=True):
            file.write_bytes(count)
        assert json.loads(verified.run("count", "counting", *map(str, files), "--json"))["correct"] == told.correct
    for version in "12":
        verified.run("withdraw", "counting", version)
