"""`moiety keys init | renew | rotate`."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

Root = Annotated[Path, typer.Option(help="The folder with a subfolder for the CA and for each role.")]
_ROOT = Path(".moiety/keys")


def register(app: typer.Typer) -> None:
    keys = typer.Typer(no_args_is_help=True, help="Keys, certificates and credentials of a deployment.")
    keys.command("init")(init)
    keys.command("renew")(renew)
    keys.command("rotate")(rotate)
    app.add_typer(keys, name="keys", rich_help_panel="Operators")


def init(
    root: Root = _ROOT,
    host: Annotated[
        list[str] | None,
        typer.Option(help="ROLE=NAME: a name or address by which others call that role; may be given often."),
    ] = None,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Do nothing where there are keys already.")] = False,
) -> None:
    """Make all that a deployment needs: a private CA, and a folder of secrets for each role.

    Take each role's folder to its machine, with modes as they are; keep ca/ offline. Roles are alice, bob,
    crypto_provider and server (the model owner). To use your own CA, replace tls/key.pem, tls/cert.pem and tls/ca.pem.
    """
    from moiety_shared.service import keys
    from moiety_shared.service.identity import LINKS, BadIdentity

    if if_missing and (root / "server" / "role").exists():
        return
    hosts: dict[str, list[str]] = {}
    for item in host or ():
        role, _, name = item.partition("=")
        if role not in LINKS or not name:
            raise typer.BadParameter(f"ROLE=NAME, with one of {', '.join(LINKS)}", param_hint="--host")
        hosts.setdefault(role, []).append(name)
    try:
        keys.init(root, hosts)
    except BadIdentity as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    for role in ("ca", *LINKS):
        print(root / role)


def renew(
    role: Annotated[str, typer.Argument(help="alice, bob, crypto_provider or server.")],
    root: Root = _ROOT,
    host: Annotated[list[str] | None, typer.Option(help="A name or address by which others call it.")] = None,
) -> None:
    """A new TLS key and certificate for a role, from the deployment's CA. Restart the role to use it."""
    from moiety_shared.service import keys
    from moiety_shared.service.identity import LINKS, BadIdentity

    if role not in LINKS:
        raise typer.BadParameter(f"one of {', '.join(LINKS)}", param_hint="ROLE")
    try:
        keys.certify(root, role, host or ())
    except BadIdentity as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    print(root / role / "tls" / "cert.pem")


def rotate(
    folder: Annotated[Path, typer.Argument(help="The role's secrets folder: alice's, bob's or the owner's.")],
    keep: Annotated[float, typer.Option(min=0, help="Days that envelopes to the old key are still opened.")] = 7.0,
) -> None:
    """A new sealing key. No restart is needed; `moiety refresh` then signs it into the owner's catalogue.

    Clients with an older catalogue entry are served until the old key's time is over, and read the entry again then.
    """
    from moiety_shared.service.keyring import Keyring

    if not (folder / "sealing").is_dir():
        print(f"{folder} has no sealing keys: name the secrets folder of alice, bob or the owner", file=sys.stderr)
        raise typer.Exit(1)
    print(Keyring(folder / "sealing").rotate(timedelta(days=keep)).key_id)
