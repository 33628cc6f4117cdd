"""`moiety audit`: the owner asks the own model as a client, and then finds out whether alice or bob lied.

This needs both of two roles: the client, whose requests look like every other client's, and the owner, who keeps what
the parties have of the model.
"""

import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_client.client import Client
from moiety_client.errors import CheatingDetected, MoietyError
from moiety_client.exchange import Call, Drawn
from moiety_client.steps import Steps
from moiety_server.audited import AuditableUpload, AuditedRequest
from moiety_server.audits import AuditFinding, AuditVerdict, judge
from moiety_server.cli import management
from moiety_server.owner import Owner
from moiety_server.tokens import new_grant
from moiety_service.cli.steps import steps
from moiety_service.cli.terminal import Exit, ended, lines, say, table
from moiety_shared.crypto.possession import private_pem
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.crypto.signing import key_text
from moiety_shared.crypto.tokens import OUTPUTS
from moiety_shared.fixed_point import RingArray, ring_dtype
from moiety_shared.messages import canary
from moiety_shared.messages.catalogue import Entry
from moiety_shared.problems import Problem

_DAYS = 30.0
_FRACTION = 0.1


class OwnersClient(Client):
    """A client that keeps what it drew for its requests."""

    def send(self, model: str, elements: RingArray) -> AuditedRequest:
        """Send one request, and return it with its answer; without one when the check of its run failed. Raises what
        `predict` raises otherwise."""
        drawn = Drawn.new()
        call, answer = self._do(self._send(model, elements, drawn))
        inputs = call.alice_share, call.bob_share()
        return AuditedRequest(call.entry.plan, call.binding, inputs, drawn.result_keys, answer)

    def _send(self, model: str, elements: RingArray, drawn: Drawn) -> Steps[tuple[Call, bytes]]:
        with self._telemetry.call("predict") as asking:
            sealer = yield from self._sealer(model)
            call = sealer.call(elements, drawn=drawn)
            try:
                response = yield from self._deliver(call, time.monotonic() + self._timeout, asking)
            except CheatingDetected:
                return call, b""
            return call, response.content


def run(name: str, count: int, access: Path | None, evidence: Path | None, as_json: bool) -> Exit:
    """Audit `count` requests. Prints a verdict for each, and writes what the parties signed to the file `evidence`."""
    with management.owner() as owner, steps() as tell:
        entry = owner.catalogue.get(name).entry
        upload = AuditableUpload.read(owner.auditable, entry.upload_id, entry.plan)
        with _asking(owner, entry, access) as client:
            tell("asking as a client", 0, 0)
            asked = _asked(client, entry, count)
        if any(one.binding.upload_id.hex() != entry.upload_id for one in asked):
            raise ended(Exit.FAILED, f"{name} got another version meanwhile: run the same command again")
        tell("comparing what alice and bob sent with what they had to send", 0, 0)
        with owner.audit.event("audit", subject="owner", model=name, upload=entry.upload_id, rows=count):
            verdicts = [judge(owner.call, upload, one) for one in asked]
        if evidence is not None:
            _write(evidence, entry, [key_text(key) for key in upload.keys], verdicts)
    _show(verdicts, as_json)
    return Exit.DISHONEST if any(verdict.findings for verdict in verdicts) else Exit.OK


def _asked(client: OwnersClient, entry: Entry, count: int) -> list[AuditedRequest]:
    """Send so many requests, but none after one whose check failed: then the model answers nothing any more."""
    asked = list[AuditedRequest]()
    while len(asked) < count and (not asked or asked[-1].answer):
        asked.append(client.send(entry.name, _input(entry)))
    return asked


@contextmanager
def _asking(owner: Owner, entry: Entry, access: Path | None) -> Iterator[OwnersClient]:
    """A client of the model. Without an access file it has a token that was never seen before, if it needs one."""
    try:
        with OwnersClient.from_access(access) if access else _stranger(owner, entry) as client:
            yield client
    except Problem as problem:
        raise ended(Exit.FAILED, f"{problem}. {problem.kind.hint}") from None
    except MoietyError as error:
        raise ended(Exit.FAILED, f"a request got no answer, so it proves nothing: {error}") from None


def _stranger(owner: Owner, entry: Entry) -> OwnersClient:
    signer, ca, key = owner.identity.signing_key, owner.identity.ca_file, Ed25519PrivateKey.generate()
    token = ""
    if entry.access == "token":
        grant = new_grant(
            f"client-{secrets.token_hex(4)}",
            models=(entry.name,),
            outputs=OUTPUTS,
            days=_DAYS,
            rows_per_day=None,
            key=key.public_key(),
        )
        with owner.audit.event("token", subject=grant.subject):
            token = owner.issued.issue(grant, signer)
    pem = private_pem(key) if token else None
    known = {"owner_key": key_text(signer.public_key()), "token": token, "key": pem, "ca": ca}
    return OwnersClient(owner.settings.url, **known)  # type: ignore[arg-type]


def _input(entry: Entry) -> RingArray:
    """Draw one input of the model's input range, and a label where the model takes one."""
    plan = entry.plan
    elements = np.zeros((1, plan.input.shared_size), ring_dtype(plan.ring_bits))
    elements[0, : plan.input.size] = canary.expand(new_seed(), plan, entry.table)
    if plan.input.classes:
        elements[0, plan.input.size :] = Stream(new_seed(), "label").words("label", (1,), np.uint64) % np.uint64(
            plan.input.classes
        )
    return elements


def _write(path: Path, entry: Entry, keys: Sequence[str], verdicts: Iterable[AuditVerdict]) -> None:
    """Write JSON lines: the keys, then what the parties signed of each request. Nothing of it is a client's secret."""
    head = {"model": entry.name, "version": entry.version, "upload": entry.upload_id, "alice": keys[0], "bob": keys[1]}
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(json.dumps(head) + "\n")
            for one in verdicts:
                shown = {n: json.loads(text) for n, text in zip(("alice", "bob"), one.statements, strict=True) if text}
                file.write(json.dumps(_told(one) | {"signed": shown}) + "\n")
    except OSError as error:
        raise ended(Exit.USAGE, f"{path} cannot be written: {error.strerror}") from None


def _told(verdict: AuditVerdict) -> dict[str, Any]:
    return {"request": verdict.request_id, "findings": [finding._asdict() for finding in verdict.findings]}


def _show(verdicts: Sequence[AuditVerdict], as_json: bool) -> None:
    if as_json:
        lines(map(_told, verdicts))
        return
    rows = [
        (
            number,
            verdict.request_id,
            "; ".join(map(_said, verdict.findings)) or "both were honest",
        )
        for number, verdict in enumerate(verdicts, 1)
    ]
    table(("run", "request", "verdict"), rows, whole="request")
    if not any(verdict.findings for verdict in verdicts):
        missed = (1 - _FRACTION) ** len(verdicts)
        say(f"a party that lies in one run of ten passes {len(verdicts)} audited runs with probability {missed:.2g}")


def _said(found: AuditFinding) -> str:
    what = {"lied": "lied", "silent": "does not answer", "over": "not audited", "unsettled": "not settled"}[found.kind]
    return f"{found.party} {what}: {found.what}" if found.party else f"{what}: {found.what}"
