"""`moiety keys init | renew | rotate | client`."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from moiety_service.cli.terminal import Exit, Json, ended, example, lines
from moiety_service.startup import refusing

Root = Annotated[Path, typer.Option(help="Folder with a subfolder for the CA and one for each role.")]
_ROOT = Path(".moiety/keys")
_ROLES = "alice, bob, crypto_provider or server"


def register(app: typer.Typer) -> None:
    keys = typer.Typer(
        no_args_is_help=True,
        help="Keys, certificates and credentials of a deployment.",
        epilog=example("moiety keys init", "moiety keys renew alice"),
    )
    keys.command("init", epilog=example("moiety keys init --host alice=alice.example.org"))(init)
    keys.command("renew", epilog=example("moiety keys renew alice --host alice.example.org"))(renew)
    rotating = (
        "moiety keys rotate .moiety/keys/alice --keep 7",
        "moiety refresh",
        "moiety keys rotate .moiety/keys/crypto_provider --owner .moiety/keys/server",
    )
    keys.command("rotate", epilog=example(*rotating))(rotate)
    keys.command("client", epilog=example("moiety keys client clinic-7.pem"))(client)
    app.add_typer(keys, name="keys", rich_help_panel="Operators")


def init(
    root: Root = _ROOT,
    host: Annotated[
        list[str] | None,
        typer.Option(help="ROLE=NAME: a host name or address by which others call that role. Repeat it for more."),
    ] = None,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="If there are keys already, add what a folder of moiety 0.1 lacks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make all the keys that a deployment needs: a private CA, and a folder of secrets for each role.

    Copy each role's folder to its machine, and keep the file modes. Keep ca/ offline. The roles are alice, bob,
    crypto_provider and server (the model owner). To use your own CA, replace tls/key.pem, tls/cert.pem and tls/ca.pem.
    The command prints the folders.
    """
    from moiety_service.security import keys
    from moiety_service.security.identity import LINKS

    if if_missing and (root / "server" / "role").exists():
        with refusing():
            keys.complete(root)
        return
    hosts: dict[str, list[str]] = {}
    for item in host or ():
        role, _, name = item.partition("=")
        if role not in LINKS or not name:
            raise typer.BadParameter(f"ROLE=NAME, with one of {', '.join(LINKS)}", param_hint="--host")
        hosts.setdefault(role, []).append(name)
    with refusing():
        keys.init(root, hosts)
    _print([{"role": role, "path": str(root / role)} for role in ("ca", *LINKS)], as_json)


def renew(
    role: Annotated[str, typer.Argument(help=f"{_ROLES}.")],
    root: Root = _ROOT,
    host: Annotated[list[str] | None, typer.Option(help="Host name or address by which others call the role.")] = None,
    as_json: Json = False,
) -> None:
    """Make a new TLS key and certificate for a role, signed by the deployment's CA. Restart the role to use it.

    The command prints the certificate's path.
    """
    from moiety_service.security import keys
    from moiety_service.security.identity import LINKS

    if role not in LINKS:
        raise typer.BadParameter(f"one of {', '.join(LINKS)}", param_hint="ROLE")
    with refusing():
        keys.certify(root, role, host or ())
    _print([{"role": role, "path": str(root / role / "tls" / "cert.pem")}], as_json)


def rotate(
    folder: Annotated[Path, typer.Argument(help="The secrets folder of alice, bob, the crypto provider or the owner.")],
    keep: Annotated[
        float, typer.Option(min=0, help="Days for which the role still opens envelopes to its old key.")
    ] = 7.0,
    owner: Annotated[
        Path | None,
        typer.Option(
            help="For the crypto provider only: the owner's secrets folder, if it is here. It gets the new key too."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a new sealing key for a role. No restart is needed.

    For alice or bob: run `moiety refresh` next, which signs the new key into the owner's catalogue. The parties serve
    clients with an older catalogue entry until the old key expires; those clients then read the entry again.

    For the crypto provider: the owner seals each model's masks to this key. Copy the folder's sealing.pub to the
    owner's folder as provider.pub before the old key expires. Where both folders are on one machine, --owner does that.

    The command prints the new key's id.
    """
    from moiety_service.security import keys
    from moiety_service.security.identity import SEALING

    role = (folder / "role").read_text().strip() if (folder / "role").is_file() else ""
    if role not in SEALING:
        raise ended(Exit.USAGE, f"{folder} is not a secrets folder: name that of alice, bob, the provider or the owner")
    if owner is not None and role != "crypto_provider":
        raise typer.BadParameter("only the crypto provider's key goes to the owner's folder", param_hint="--owner")
    with refusing():
        made = keys.rotate(folder, timedelta(days=keep))
        if owner is not None:
            keys.pin(folder, owner)
    if as_json:
        lines([{"key_id": made.key_id}])
    else:
        print(made.key_id)


def client(
    file: Annotated[
        Path, typer.Argument(help="File for the private key, with mode 0600. The public key goes beside it, as .pub.")
    ] = Path("client.pem"),
    as_json: Json = False,
) -> None:
    """Make a client's own key: send the .pub file to the model's owner, and keep the other file to yourself.

    The owner binds your token to the key with `moiety token issue NAME --key FILE.pub`. Then name the private file in
    MOIETY_CLIENT_KEY_FILE. The command prints the path of the .pub file.
    """
    from moiety_service.security import keys

    public = file.with_suffix(".pub")
    if public == file or file.exists() or public.exists():
        raise ended(Exit.USAGE, f"{file} or {public} exists already: name another file")
    try:
        keys.client(file, public)
    except OSError as error:
        raise ended(Exit.USAGE, f"{file} cannot be written ({error.strerror}): name another file") from None
    _print([{"role": "client", "path": str(public)}], as_json)


def _print(rows: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        lines(rows)
        return
    for row in rows:
        print(row["path"])
