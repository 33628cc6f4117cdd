"""The checks of `moiety doctor`: what is wrong with an installation, and how to fix it.

Each role describes itself in a `Patient`. This module has the checks that all roles share. They change nothing.
"""

import errno
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import httpx
from cryptography import x509
from packaging.requirements import Requirement
from pydantic import ValidationError

from moiety_service.http import clients
from moiety_service.http.app import API_VERSION
from moiety_service.security.identity import BadIdentity, Identity
from moiety_service.settings import ServiceSettings
from moiety_shared.problems import Problem

_SECONDS = 5.0  # a healthy service answers a health check sooner
_MOST_DESCRIPTION = 1 << 24  # of a service, as OpenAPI: it has some hundred thousand bytes
_SKEW_SECONDS = 30.0
_DAYS = 30
_LITTLE, _TOO_LITTLE = 2 << 30, 200 << 20  # free bytes on the disk: a warning, an error

Status = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """The result of one check. `fix` says what to do about it; it is empty when all is well."""

    role: str
    check: str
    status: Status
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Service:
    """A service as its caller sees it. `title` is the service's own name; `setting` names the source of its address."""

    name: str
    title: str
    url: str
    ca: Path | str | None
    setting: str
    start: str


@dataclass(frozen=True)
class Patient:
    """A role on this machine. `calls` are the services that it depends on; `own` are the checks of this role alone."""

    role: str
    title: str
    extra: str
    start: str
    settings: Callable[[], ServiceSettings]
    keys: Callable[[Any], Path | None]
    present: Callable[[Any], bool]
    calls: Callable[[Any], list[Service]] = lambda _: []
    own: Callable[[Any], Iterator[Finding]] = lambda _: iter(())


def machine(extras: set[str]) -> Iterator[Finding]:
    """Check Python, and the packages that these extras need."""
    yield from _python()
    missing = []
    for text in metadata.requires("moiety") or ():
        need = Requirement(text)
        wanted = need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if wanted and need.name != "moiety":
            try:
                has = metadata.version(need.name)
            except metadata.PackageNotFoundError:
                missing.append(f"{need.name} is missing")
                continue
            if not need.specifier.contains(has, prereleases=True):
                missing.append(f"{need.name} is {has}, but {need.specifier} is needed")
    own = f"moiety {metadata.version('moiety')}, interface {API_VERSION}"
    if missing:
        install = f"pip install 'moiety[{','.join(sorted(extras))}]'"
        yield Finding("", "packages", "wrong", f"{own}; {'; '.join(missing)}", install)
    else:
        yield Finding("", "packages", "ok", own)


def _python() -> Iterator[Finding]:
    needed, has = metadata.metadata("moiety")["Requires-Python"], ".".join(map(str, sys.version_info[:3]))
    if Requirement(f"python{needed}").specifier.contains(has):
        yield Finding("", "python", "ok", has)
    else:
        yield Finding("", "python", "wrong", f"{has}, but {needed} is needed", "install a newer Python")


def examine(patient: Patient) -> Iterator[Finding]:
    """Check one role: its settings, its secrets, its disk and port, and the services that it calls with them."""
    role = patient.role
    try:
        settings = patient.settings()
    except (ValidationError, ValueError) as error:
        yield Finding(role, "settings", "wrong", _first(error), "docs/settings.md lists them all")
        return
    identity = None
    keys = patient.keys(settings)
    if keys is not None:
        try:
            identity = Identity.load(keys, role)
            yield Finding(role, "keys", "ok", f"complete in {keys}, closed to other users")
            yield from _certificates(role, identity)
        except BadIdentity as error:
            said, _, fix = str(error).partition(": ")
            yield Finding(role, "keys", "wrong", said, fix)
            return
    yield from _disk(role, settings.data_dir)
    here = Service(role, patient.title, _own_url(settings), identity.ca_file if identity else None, "", patient.start)
    yield from _port(here, settings)
    yield from patient.own(settings)
    for service in patient.calls(settings):
        yield from reach(role, service)


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        one = error.errors(include_input=False, include_url=False)[0]
        return ": ".join(filter(None, (".".join(map(str, one["loc"])), one["msg"])))
    return str(error)


def _certificates(role: str, identity: Identity) -> Iterator[Finding]:
    for path in (identity.folder / "tls" / "cert.pem", identity.ca_file):
        if path is None:
            continue
        fix = f"moiety keys renew {role}, and restart it" if path.name == "cert.pem" else "run moiety keys init again"
        yield certificate(role, path.name, path.read_bytes(), fix)


def certificate(role: str, name: str, pem: bytes, fix: str) -> Finding:
    """Check until when a certificate is valid."""
    try:
        until = min(one.not_valid_after_utc for one in x509.load_pem_x509_certificates(pem))
    except ValueError:
        return Finding(role, "certificate", "wrong", f"{name} is not a certificate in PEM form", fix)
    left = (until - datetime.now(UTC)).total_seconds() / 86400
    text = f"{name} is valid until {until:%Y-%m-%d}" if left > 0 else f"{name} expired on {until:%Y-%m-%d}"
    if left > _DAYS:
        return Finding(role, "certificate", "ok", text)
    return Finding(role, "certificate", "warning" if left > 0 else "wrong", text, fix)


def _disk(role: str, folder: Path) -> Iterator[Finding]:
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / 2**30:.1f} GiB free for {folder}"
    if free > _LITTLE:
        yield Finding(role, "disk", "ok", text)
    else:
        yield Finding(role, "disk", "warning" if free > _TOO_LITTLE else "wrong", text, "make room, or move DATA_DIR")


def _own_url(settings: ServiceSettings) -> str:
    """The URL by which this machine reaches the role: its HOST, or loopback where that stands for all addresses."""
    scheme = "https" if getattr(settings, "transport", "plain") == "tls" else "http"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _port(here: Service, settings: ServiceSettings) -> Iterator[Finding]:
    """Check that the role itself listens on its port, or that the port is free."""
    where, check = f"{settings.host}:{settings.port}", "port"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with closing(socket.socket(family)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.port))
        yield Finding(here.name, check, "ok", f"{where} is free; {here.name} does not run here")
        return
    except OSError as error:
        refused = error.strerror or type(error).__name__
        if error.errno != errno.EADDRINUSE:
            fix = "set HOST to an address of this machine, and PORT to one that you may use"
            yield Finding(here.name, check, "wrong", f"cannot listen on {where}: {refused}", fix)
            return
    try:
        with clients.client(here.url, timeout=_SECONDS, ca=here.ca) as client:
            title = _info(client.get("/openapi.json", extensions=clients.at_most(_MOST_DESCRIPTION))).get("title")
    except (httpx.HTTPError, OSError, ValueError):
        title = None
    if title == here.title:
        yield Finding(here.name, check, "ok", f"{here.name} runs at {where}")
    else:
        who = f"{title} runs there" if title else refused
        yield Finding(here.name, check, "wrong", f"cannot listen on {where}: {who}", "stop it, or set another PORT")


def reach(role: str, service: Service) -> Iterator[Finding]:
    """Check that a service answers, is the expected one, speaks our version, is ready, and has the same time."""
    check = f"reach {service.name}"
    try:
        with clients.client(service.url, timeout=_SECONDS, ca=service.ca) as client:
            asked = time.time()
            answer = client.get("/openapi.json", extensions=clients.at_most(_MOST_DESCRIPTION))
            now = (asked + time.time()) / 2
            info = _info(clients.check(answer))
            ready = client.get("/health/ready")
    except httpx.HTTPError as error:
        yield Finding(role, check, "wrong", f"{service.url} does not answer ({_said(error)})", _fix(service, error))
        return
    except Problem:
        info = {}
    if "title" not in info:
        yield Finding(role, check, "wrong", f"what answers at {service.url} is not moiety", f"fix {service.setting}")
        return
    if info["title"] != service.title:
        found = f"{info['title']} answers at {service.url}, not {service.title}"
        yield Finding(role, check, "wrong", found, f"fix {service.setting}")
    elif info.get("version") != API_VERSION:
        found = f"{service.name} speaks version {info.get('version')}, we speak {API_VERSION}"
        yield Finding(role, check, "wrong", found, "install the same version of moiety on both sides")
    elif not ready.is_success:
        said = clients.document(ready)
        found = f"{service.name} answers but is not ready: {said.get('title') or ready.status_code}"
        yield Finding(role, check, "warning", found, str(said.get("hint") or "look at its log"))
    else:
        yield Finding(role, check, "ok", f"{service.title} answers at {service.url} and is ready")
    yield _clock(role, service, answer.headers.get("date"), now)


def _info(answer: httpx.Response) -> dict[str, Any]:
    """The `info` of a service's OpenAPI document; empty when the answer is no such document."""
    info = clients.document(answer).get("info")
    return info if isinstance(info, dict) else {}


def _clock(role: str, service: Service, date: str | None, now: float) -> Finding:
    check = f"clock of {service.name}"
    try:
        off = now - parsedate_to_datetime(date or "").timestamp() - 0.5  # the header has whole seconds, rounded down
    except ValueError:
        return Finding(role, check, "warning", f"{service.name} does not send its time", "look for a proxy between")
    if abs(off) <= _SKEW_SECONDS:
        return Finding(role, check, "ok", "the same as ours, to a second or two")
    which = "ahead of" if off > 0 else "behind"
    found = f"our clock is {abs(off):.0f} s {which} that of {service.name}"
    return Finding(role, check, "wrong", found, "set both clocks by NTP, because tokens expire by them")


def _said(error: httpx.HTTPError) -> str:
    text = str(error)
    return "its certificate is not accepted" if "CERTIFICATE" in text.upper() else text or type(error).__name__


def _fix(service: Service, error: httpx.HTTPError) -> str:
    if "CERTIFICATE" not in str(error).upper():
        return f"start it with `{service.start}`, or fix {service.setting}"
    return f"`moiety keys renew {service.name} --host NAME` with the name by which we call it; both need the same CA"
