"""An auditable model in five real processes: published, and audited by its owner's command."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from moiety_local import audit
from moiety_local.deployment import Deployment
from moiety_server.audits import AuditFinding, AuditVerdict
from moiety_service.cli.terminal import Exit
from moiety_shared.crypto.signing import key_from_text
from moiety_shared.messages.statements import SignedStatement

NAME = "watched"


@pytest.fixture(scope="module")
def audited(deployment: Deployment) -> Iterator[Deployment]:
    deployment.run("publish", "mnist", "--name", NAME, "--auditable")
    yield deployment
    deployment.run("withdraw", NAME, "1")  # others count the models of this deployment


def test_an_owner_audits_and_shows_what_was_signed(audited: Deployment, tmp_path: Path) -> None:
    evidence = tmp_path / "runs.jsonl"
    told = audited.run("audit", NAME, "--runs", "3", "--evidence", str(evidence), "--json")
    found = [json.loads(line) for line in told.splitlines()]
    assert len(found) == 3 and not any(run["findings"] for run in found)
    head, *runs = map(json.loads, evidence.read_text().splitlines())
    assert [run["request"] for run in runs] == [run["request"] for run in found]
    for run in runs:
        for party, name in enumerate(("alice", "bob")):
            signed = SignedStatement.model_validate(run["signed"][name])
            statement = signed.verify(party, key_from_text(head[name]))
            assert statement.binding.request_id.hex() == run["request"]


def test_what_is_found_is_told(
    audited: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in audited.settings("server").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(typer.Exit):
        audit.run("mnist", 1, None, None, False)
    assert "moiety publish --auditable" in capsys.readouterr().err, "its runs are not signed"
    lie = AuditFinding("bob", "lied", "what it sent in round 2 is wrong")
    monkeypatch.setattr(audit, "judge", lambda *_: AuditVerdict("ab" * 16, (lie,)))
    assert audit.run(NAME, 1, audited.access_file, None, False) is Exit.DISHONEST
    assert "bob lied: what it sent in round 2 is wrong" in capsys.readouterr().out
