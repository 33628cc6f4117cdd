"""`moiety doctor`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from moiety_service import roles
from moiety_service.cli.terminal import Exit, Json, ended, example, line, table

if TYPE_CHECKING:
    from moiety_service.cli.diagnosis import Finding, Patient

_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "wrong": ("✗", "red")}


def register(app: typer.Typer) -> None:
    shown = example("moiety doctor", "moiety doctor alice --json")
    app.command("doctor", rich_help_panel="Operators", epilog=shown)(doctor)


def doctor(
    role: Annotated[
        list[str] | None,
        typer.Argument(
            help="alice, bob, crypto_provider, server (the owner) or client. Default: the roles whose secrets are "
            "here. With the secrets of all roles: the owner and the client, as one environment has one party's "
            "settings."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look for what may be wrong here, and say how to fix it.

    The doctor checks settings, ports, keys, certificates, clocks, versions and disk space. It also checks, from each
    role's side, whether the services that the role depends on answer. It changes nothing.

    The exit code is 1 when something is wrong. A line marked ! works today and needs attention.
    """
    from rich.text import Text

    from moiety_service.cli.diagnosis import examine, machine

    def to_fix(finding: "Finding") -> Text:
        return Text(f"\n→ {finding.fix}" if finding.fix else "", _SIGNS[finding.status][1])

    patients = {patient.role: patient for patient in _patients()}
    unknown = [name for name in role or () if name not in patients]
    if unknown:
        raise typer.BadParameter(f"choose from {', '.join(patients)}", param_hint="ROLE")
    chosen = [patients[name] for name in role] if role else _here(list(patients.values()))
    findings: list[Finding] = []
    for part in (machine({patient.extra for patient in chosen}), *map(examine, chosen)):
        for finding in part:
            findings.append(finding)
            if as_json:
                line(asdict(finding))
    if not chosen:
        findings.append(_nobody())
        if as_json:
            line(asdict(findings[-1]))
    if not as_json:
        rows = [(Text(*_SIGNS[f.status]), f.role, f.check, Text(f.found) + to_fix(f)) for f in findings]
        table(("", "role", "check", "found"), rows)
    wrong = sum(finding.status == "wrong" for finding in findings)
    if wrong:
        raise ended(Exit.FAILED, f"{wrong} of {len(findings)} checks failed")


def _patients() -> list["Patient"]:
    """How the installed roles describe themselves."""
    return [patient for role in roles.modules() if hasattr(role, "patients") for patient in role.patients()]


def _here(patients: list["Patient"]) -> list["Patient"]:
    present = []
    for patient in patients:
        try:
            if patient.present(patient.settings()):
                present.append(patient)
        except ValueError:  # its settings are wrong: `examine` reports that
            present.append(patient)
    services = [patient for patient in present if patient.role != "client"]
    if len(services) > 1 and any(patient.role == "server" for patient in services):
        return [patient for patient in present if patient.role in ("server", "client")]
    return present


def _nobody() -> "Finding":
    from moiety_service.cli.diagnosis import Finding

    fix = "clients: ask the owner for an access file, name it in MOIETY_CLIENT_ACCESS_FILE; operators: moiety keys init"
    return Finding("", "roles", "wrong", "neither a role's secrets nor an access file is here", fix)
