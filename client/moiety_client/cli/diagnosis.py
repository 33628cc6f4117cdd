"""What `moiety doctor` examines of a client: its access file, the catalogue and alice."""

import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from moiety_client.client import Client
from moiety_client.core import private_key, read_access
from moiety_client.errors import MoietyError
from moiety_client.settings import ClientSettings
from moiety_service.cli.diagnosis import Finding, Service, certificate, reach
from moiety_shared.crypto.possession import thumbprint
from moiety_shared.crypto.tokens import verify
from moiety_shared.messages.access import AccessFile
from moiety_shared.problems import Problem

_ROLE = "client"
_ASK = "ask the model's owner for a new access file"
_DAYS = 7


def access_file(settings: ClientSettings) -> Iterator[Finding]:
    """Examine a client's access file with all that is in it, and the services that it names."""
    try:
        access = AccessFile.model_validate(read_access(settings.access_file))
    except MoietyError as error:
        said, _, fix = str(error).partition(": ")
        yield Finding(_ROLE, "access file", "wrong", said, f"{fix}, and name it in MOIETY_CLIENT_ACCESS_FILE")
        return
    if settings.access_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        found = f"{settings.access_file} can be read or changed by other users"
        yield Finding(_ROLE, "access file", "wrong", found, f"chmod go-rwx {settings.access_file}")
    else:
        yield Finding(_ROLE, "access file", "ok", f"{settings.access_file}, closed to others")
    yield _token(access)
    yield from _key(settings, access)
    if access.ca:
        yield certificate(_ROLE, "the CA", access.ca.encode(), _ASK)
    yield from _services(settings, access)


def _token(access: AccessFile) -> Finding:
    if not access.token:
        return Finding(_ROLE, "token", "warning", "there is none, so only open models answer", _ASK)
    try:
        grant = verify(access.token, access.owner_key)
    except (Problem, ValueError):
        return Finding(_ROLE, "token", "wrong", "it is not signed by the owner's key", _ASK)
    left = (grant.expires - time.time()) / 86400
    until = datetime.fromtimestamp(grant.expires, UTC)
    models = "all models" if grant.models == ("*",) else ", ".join(grant.models)
    if left <= 0:
        return Finding(_ROLE, "token", "wrong", f"it expired on {until:%Y-%m-%d}", _ASK)
    status = "ok" if left > _DAYS else "warning"
    found = f"for {models}, valid until {until:%Y-%m-%d}"
    return Finding(_ROLE, "token", status, found, "" if status == "ok" else _ASK)  # type: ignore[arg-type]


def _key(settings: ClientSettings, access: AccessFile) -> Iterator[Finding]:
    """Examine whether the client has the private key that its token is bound to. Without it, the token is useless."""
    try:
        bound = verify(access.token, access.owner_key).key
    except (Problem, ValueError):
        return
    if bound is None:
        found = "the token is bound to no key, so alice and bob, who see it, could use it"
        yield Finding(_ROLE, "key", "warning", found, _ASK)
        return
    try:
        key = private_key(access.key or settings.key_file)
    except MoietyError as error:
        said, _, fix = str(error).partition(": ")
        yield Finding(_ROLE, "key", "wrong", said, fix)
        return
    if key is None or thumbprint(key.public_key().public_bytes_raw()) != bound:
        found = "the key that the token is bound to is not here" if key is None else "the token is bound to another key"
        fix = "set MOIETY_CLIENT_KEY_FILE to the private key that `moiety keys client` made"
        yield Finding(_ROLE, "key", "wrong", found, fix)
    else:
        yield Finding(_ROLE, "key", "ok", "it is the key that the token is bound to")


def _services(settings: ClientSettings, access: AccessFile) -> Iterator[Finding]:
    file = str(settings.access_file)
    catalogue = Service("catalogue", "moiety model owner", access.catalogue_url, access.ca, file, "moiety server")
    answers = True
    for finding in reach(_ROLE, catalogue):
        answers &= finding.status != "wrong" or not finding.check.startswith("reach")
        yield finding
    if not answers:
        return
    try:
        with Client.from_access(settings.access_file, timeout=settings.timeout) as client:
            entries = client.models()
    except MoietyError as error:
        said, _, fix = str(error).partition(": ")
        yield Finding(_ROLE, "models", "wrong", said, fix or _ASK)
        return
    if not entries:
        yield Finding(
            _ROLE, "models", "warning", "the catalogue is empty", "the owner publishes a model: moiety publish mnist"
        )
    else:
        names = ", ".join(f"{entry.name} {entry.version}" for entry in entries)
        yield Finding(_ROLE, "models", "ok", f"{names}: signed by the owner's key")
    for url in dict.fromkeys(entry.parties[0].url for entry in entries):
        setting = "the catalogue: the owner, with moiety refresh"
        yield from reach(_ROLE, Service("alice", "moiety party alice", url, access.ca, setting, "moiety party alice"))
