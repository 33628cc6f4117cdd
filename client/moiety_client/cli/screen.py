"""Shows what `moiety status` found: one screen for people, or JSON for programs."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from moiety_client.cli.status import Observer, Role, Status
from moiety_service.cli import terminal
from moiety_service.cli.terminal import line
from moiety_shared.text import printable

_COLOURS = {"ready": "green", "not ready": "yellow", "not reachable": "yellow", "down": "red"}
_SOON_DAYS = 14
_WATCH_SECONDS = 2.0
_SAMPLE_SECONDS = 1.0


def run(observer: Observer, *, as_json: bool, watch: bool, rated: bool) -> bool:
    """Show the status once or, with `watch`, until Ctrl-C. Returns whether all was well.

    `rated` says that there are rates to show. The observer then looks twice, a second apart, because a rate needs two
    looks.
    """
    console = terminal.console()
    if rated:
        observer.look()
        time.sleep(_SAMPLE_SECONDS)
    status = observer.look()
    if not watch:
        if as_json:
            line(_data(status))
        else:
            console.print(screen(status))
        return status.well
    try:
        if as_json:
            while True:
                line(_data(status))
                time.sleep(_WATCH_SECONDS)
                status = observer.look()
        with Live(screen(status), console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                time.sleep(_WATCH_SECONDS)
                status = observer.look()
                live.update(screen(status), refresh=True)
    except KeyboardInterrupt:
        return status.well


def screen(status: Status) -> RenderableType:
    """Draw a status as tables: one of the roles, one of the models."""
    roles = Table("role", "state", "version", "a second", "now", "certificate", "last problems", title="moiety")
    for role in status.roles:
        colour = _COLOURS[role.state]
        roles.add_row(
            f"{role.role}\n[dim]{_said(role.url)}[/]",
            f"[{colour}]{role.state}[/]{f', {role.told_by} says' if role.told_by else ''}"
            + (f"\n{_said(role.problem)}" if role.problem else ""),
            _said(role.version) or "-",
            _figures(role.rates, "{:.3g}"),
            _figures(role.now, "{:.0f}"),
            _expiry(role, status.time),
            "\n".join(f"{_said(last.problem)} {_ago(status.time - last.time)} ago" for last in role.last_problems)
            or "-",
        )
    models = Table("model", "version", "entry", "rows of randomness", "description", title="models")
    for model in status.models:
        stock = "\n".join(_stock(status, model.name, str(model.version))) or "-"
        until = _days(model.expires, status.time)
        models.add_row(model.name, str(model.version), until, stock, _said(model.description))
    if not status.models:  # without an access file, only the parties' metrics name models
        for role in status.roles:
            for pool in role.pools:
                stock = f"{role.role} {pool.rows} of {pool.target}"
                models.add_row(_said(pool.model), _said(pool.version), "-", stock, "")
    return Group(roles, models, f"[dim]{_utc(status.time)}[/]")


def _said(text: str) -> str:
    """Make harmless what a service says about itself: no markup and no terminal command takes effect."""
    return escape(printable(text))


def _stock(status: Status, model: str, version: str) -> Iterator[str]:
    for role in status.roles:
        for pool in role.pools:
            if (pool.model, pool.version) == (model, version):
                yield f"{role.role} {pool.rows} of {pool.target}"


def _figures(values: Mapping[str, float], form: str) -> str:
    return "\n".join(f"{_said(name)} {form.format(value)}" for name, value in values.items() if value) or "-"


def _expiry(role: Role, now: float) -> str:
    return "-" if role.certificate_expires is None else _days(role.certificate_expires, now)


def _days(expires: float, now: float) -> str:
    days = (expires - now) / 86400
    text = f"{_utc(expires)[:10]}\n{days:.0f} days"
    return f"[red]{text}[/]" if days < _SOON_DAYS else text


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _data(status: Status) -> dict[str, Any]:
    """Return a status as data for JSON, with times in ISO 8601."""
    document = asdict(status) | {"well": status.well, "time": _iso(status.time)}
    for role in document["roles"]:
        role["certificate_expires"] = _iso(role["certificate_expires"])
        for last in role["last_problems"]:
            last["time"] = _iso(last["time"])
    for model in document["models"]:
        model["expires"] = _iso(model["expires"])
    return document


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
