"""`moiety versions | activate | withdraw | uploads | refresh` and `moiety token issue | list | revoke`."""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moiety_service.cli.terminal import Exit, Json, ended, example, lines, say, table

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from moiety_server.owner import Owner

PANEL = "Model owner"
Name = Annotated[str, typer.Argument(help="The model's name in the catalogue.")]
Version = Annotated[int, typer.Argument(help="The model's version, as `moiety versions` lists it.")]


def register(app: typer.Typer) -> None:
    for command, *how in (
        (versions, "mnist"),
        (activate, "mnist 2"),
        (withdraw, "mnist 1", "--upload 5f0e6c1f9b6f4b0f8d3a2c1b0a9e8d7c"),
        (rekey, "mnist"),
        (uploads, ""),
        (refresh, ""),
    ):
        shown = example(*(f"moiety {command.__name__} {text}".strip() for text in how))
        app.command(rich_help_panel=PANEL, epilog=shown)(command)
    token = typer.Typer(
        no_args_is_help=True,
        help="Clients' tokens: who may use which models, and how much.",
        epilog=example("moiety token issue clinic-7 --model mnist --rows-per-day 10000 --out clinic-7.json"),
    )
    issuing = "moiety token issue clinic-7 --model mnist --rows-per-day 10000 --days 30 --out clinic-7.json"
    token.command("issue", epilog=example(issuing))(issue)
    token.command("list", epilog=example("moiety token list", "moiety token list --json"))(list_tokens)
    token.command("revoke", epilog=example("moiety token revoke 5f0e6c1f9b6f4b0f8d3a2c1b0a9e8d7c"))(revoke)
    app.add_typer(token, name="token", rich_help_panel=PANEL)


@contextmanager
def owner() -> Iterator["Owner"]:
    """The owner, from MOIETY_SERVER_* and the secrets folder. A failure ends the command with a sentence and an exit
    code."""
    from moiety_server.owner import Owner
    from moiety_server.settings import ServerSettings
    from moiety_service.security.identity import Identity
    from moiety_service.startup import refusing
    from moiety_shared.problems import Problem, ProblemType

    with refusing():
        settings = ServerSettings()
        made = Owner(settings, Identity.load(settings.keys_dir / "server", "server"))
    try:
        yield made
    except Problem as problem:
        code = Exit.FAILED if problem.retry_after is None else Exit.UNAVAILABLE
        own = problem.kind is ProblemType.DISK_FULL and not problem.detail
        said = Problem(problem.kind, f"it is this machine's, under {settings.data_dir}") if own else problem
        raise ended(code, f"{said}. {problem.kind.hint}") from None
    finally:
        made.close()


def is_published(name: str) -> bool:
    """Whether clients have a version of this model."""
    with owner() as us:
        return us.catalogue.active(name) is not None


def versions(name: Name, as_json: Json = False) -> None:
    """Show the versions of a model. The one that clients get is marked."""
    from moiety_shared.problems import Problem, ProblemType

    with owner() as us:
        active = us.catalogue.active(name)
        rows = [{"version": version, "active": version == active} for version in us.catalogue.versions(name)]
        if not rows:
            raise Problem(ProblemType.UNKNOWN_MODEL)
    if as_json:
        lines(rows)
        return
    for row in rows:
        print(f"{row['version']}{' active' if row['active'] else ''}")


def activate(name: Name, version: Version) -> None:
    """Let clients have this version: a newer one, or an older one to roll back."""
    with owner() as us:
        us.activate(name, version)


def rekey(
    name: Name,
    version: Annotated[int | None, typer.Argument(help="The version. Default: the one that clients get.")] = None,
) -> None:
    """Give a verified model another key, after alice or bob was caught cheating or a check got no verdict.

    The model answers nothing from then on until you do this. Find out first who cheated. The weights stay.
    """
    with owner() as us:
        us.rekey(name, version)


def withdraw(
    name: Annotated[str, typer.Argument(help="The model's name in the catalogue.")] = "",
    version: Annotated[int, typer.Argument(help="The model's version, as `moiety versions` lists it.")] = 0,
    upload: Annotated[
        str, typer.Option(metavar="ID", help="Instead of a version: an upload, as `moiety uploads` lists it.")
    ] = "",
) -> None:
    """Take a version out of the catalogue, and have alice, bob and the crypto provider wipe their parts of it.

    With --upload, have them wipe the upload of a publish that did not finish. You may repeat it.
    """
    if bool(upload) == bool(name) or bool(name) != bool(version):
        raise typer.BadParameter("name a model and its version, or --upload ID")
    if upload and not re.fullmatch("[0-9a-f]{32}", upload):
        raise typer.BadParameter(
            "an upload's id has 32 hexadecimal digits, as `moiety uploads` prints it", param_hint="--upload"
        )
    with owner() as us:
        if upload:
            us.remove(upload)
        else:
            us.withdraw(name, version)


def uploads(as_json: Json = False) -> None:
    """List uploads that belong to no version: their publish is under way, or did not finish.

    Each costs the parties disk and randomness until you withdraw it. Prints nothing where there are none.
    """
    with owner() as us:
        found = us.left_over()
    if as_json:
        lines({**asdict(one), "at": dict(zip(("alice", "bob"), one.at, strict=True))} for one in found)
        return
    answers = {True: "yes", False: "no", None: "no answer"}
    rows = [
        (
            one.upload_id,
            f"{one.name} {one.version}" if one.name else "-",
            datetime.fromtimestamp(one.started, UTC).strftime("%Y-%m-%d %H:%M") if one.started else "unknown",
            *(answers[at] for at in one.at),
        )
        for one in found
    ]
    if rows:
        table(("upload", "version", "started (UTC)", "alice", "bob"), rows, whole="upload")
        say("remove an upload with `moiety withdraw --upload ID`, unless its publish is still running")


def refresh(as_json: Json = False) -> None:
    """Sign the parties' current keys and addresses into the catalogue: after `moiety keys rotate`, or a move.

    It also signs anew each entry that has had half of its time. Prints the entries that changed.
    """
    with owner() as us:
        changed = us.refresh()
    if as_json:
        lines({"name": name, "version": int(version)} for name, version in map(str.split, changed))
        return
    for entry in changed:
        print(entry)


def issue(
    subject: Annotated[str, typer.Argument(help="Name of the client, for quotas and the audit log.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Model that the token allows. Repeat it for more. Default: all.")
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            help="Kind of model that the token allows: logits, labels or count. Repeat it for more. Default: all."
        ),
    ] = None,
    days: Annotated[float, typer.Option(min=0, help="Days until the token expires.")] = 30.0,
    rows_per_day: Annotated[int | None, typer.Option(min=1, help="Most inputs in a day. Default: no limit.")] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pub",
            help="Public key to bind the token to. The client makes it with `moiety keys client` and keeps the private "
            "key. Default: a new key, which the access file holds.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Access file to write, with mode 0600. Give it to the client.")] = Path(
        "access.json"
    ),
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Do nothing if that file exists already.")] = False,
    as_json: Json = False,
) -> None:
    """Write an access file: the catalogue's address, your key, your CA, a signed token and its key. It is a secret.

    Only the holder of that key can use the token, because the client signs with the key what it seals. alice and bob
    see the token and cannot use it. Nothing needs to run for this. Prints the token's id, by which you can revoke it.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from pydantic import ValidationError

    from moiety_server.tokens import new_grant
    from moiety_shared.crypto.possession import private_pem
    from moiety_shared.crypto.signing import key_text
    from moiety_shared.crypto.tokens import EVERY_MODEL, OUTPUTS
    from moiety_shared.messages.access import AccessFile

    if if_missing and out.exists():
        return
    made = Ed25519PrivateKey.generate()
    holder = made.public_key() if key is None else _certified(key)
    with owner() as us:
        try:
            grant = new_grant(
                subject,
                models=model or (EVERY_MODEL,),
                outputs=output or OUTPUTS,  # type: ignore[arg-type]  # the model checks it
                days=days,
                rows_per_day=rows_per_day,
                key=holder,
            )
        except ValidationError as error:
            raise typer.BadParameter("; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())) from None
        signer, ca = us.identity.signing_key, us.identity.ca_file
        with us.audit.event("token", subject=subject):
            access = AccessFile(
                catalogue_url=us.settings.url,
                owner_key=key_text(signer.public_key()),
                ca=ca.read_text() if ca else "",
                token=us.issued.issue(grant, signer),
                key=private_pem(made) if key is None else "",
            )
        with open(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            os.fchmod(file.fileno(), 0o600)
            json.dump(access.model_dump(), file, indent=2)
    if as_json:
        lines([{"token_id": grant.token_id, "file": str(out)}])
    else:
        print(grant.token_id)


def _certified(path: Path) -> "Ed25519PublicKey":
    """Read a client's own public key."""
    from moiety_shared.crypto.possession import public_from_pem

    try:
        return public_from_pem(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = type(error).__name__
        text = f"{path} is not the PEM of an Ed25519 public key ({reason}): make one with `moiety keys client`"
        raise typer.BadParameter(text, param_hint="--key") from None


def list_tokens(as_json: Json = False) -> None:
    """List who has tokens: id, subject, models, quota, expiry, whether it was revoked, and whether it needs a key."""
    with owner() as us:
        revoked = set(us.issued.revoked())
        rows = [{**g.model_dump(mode="json"), "revoked": g.token_id in revoked} for g in us.issued.grants()]
    if as_json:
        lines(rows)
        return
    shown = [
        (
            row["token_id"],
            row["subject"],
            "all" if row["models"] == ["*"] else ", ".join(row["models"]),
            f"{row['quota']['rows']} in {row['quota']['seconds'] // 3600} h" if row["quota"] else "no limit",
            datetime.fromtimestamp(row["expires"], UTC).strftime("%Y-%m-%d"),
            "yes" if row["key"] else "no",
            "revoked" if row["revoked"] else "expired" if row["expires"] <= time.time() else "valid",
        )
        for row in rows
    ]
    table(("id", "subject", "models", "inputs", "until", "key", "state"), shown, whole="id")


def revoke(
    token_id: Annotated[list[str], typer.Argument(help="Ids of tokens, as `moiety token list` shows them.")],
) -> None:
    """Have both parties refuse these tokens from now on."""
    with owner() as us:
        unknown = set(token_id) - {grant.token_id for grant in us.issued.grants()}
        if unknown:
            text = f"no token of this id was issued here: {', '.join(sorted(unknown))}; see `moiety token list`"
            raise ended(Exit.USAGE, text)
        us.revoke(token_id)
