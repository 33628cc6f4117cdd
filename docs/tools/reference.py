"""What the program itself says of its commands, addresses, errors, problems and settings, as Markdown.

`generated()` gives whole pages below docs/reference, and the tables inside of docs/settings.md and docs/problems.md,
which stand between two comments there. tests/house/test_documentation.py holds what is committed against it, and writes
it anew with `--rewrite` (`make docs-reference`).
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType
from typing import Any

import typer
from fastapi import FastAPI
from fastapi.routing import APIRoute, APIRouter
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings
from starlette.routing import WebSocketRoute
from typer.cli import get_docs_for_click

from docs.tools import openapi, services
from moiety_service.cli.main import build
from moiety_shared.problems import RETRY_AFTER_SECONDS, ProblemType

DOCS = Path(__file__).parents[1]
Generator = Callable[[], dict[Path, str]]
"""Gives what each file that it makes, in whole or in part, should hold."""
_PACKAGES = (
    "moiety_shared",
    "moiety_service",
    "moiety_crypto_provider",
    "moiety_party",
    "moiety_server",
    "moiety_client",
    "moiety_local",
    "moiety_syft",
)
_MADE = "<!-- Made by docs/tools/reference.py from the program; `make docs-reference` writes it anew. -->"
_PROBLEMS = (
    "Every address may answer with a [problem document](../problems.md) instead; its OpenAPI document is at "
    "`/openapi.json`."
)
_SERVICES = {
    "owner": (
        "HTTP: the model owner",
        "The catalogue, port 7700. Entries are signed, so anybody may read them and nobody can change them.",
    ),
    "parties": (
        "HTTP: alice and bob",
        "alice, the leading party, has port 7701. Clients send predictions to `/v1/predictions`, under a token of the "
        "model's owner; the body is a frame of `moiety_shared/messages/wire.py` and holds two sealed envelopes, so a "
        "client library makes it. bob, the helping party, has port 7702. He has no `/v1/predictions`: clients never "
        "call bob, alice passes their envelopes on, unread. His alone is the WebSocket `/v1/peer`, under alice's "
        "credential. The other protected addresses are the same at both, and the model owner's, under the "
        "credential of that link.",
    ),
    "crypto-provider": (
        "HTTP: the crypto provider",
        "The dealer of one-time randomness, port 7703. Only alice and bob have credentials for it.",
    ),
    "sidecar": (
        "HTTP: the client's sidecar",
        "On the client's own machine, port 7704: the Open Inference Protocol v2, and what the web page asks. "
        "[REST](../rest.md) shows how to use it.",
    ),
}

PAGES = {"alice": "parties", "bob": "parties"}
"""Services whose page has another name than they: their addresses are alike."""


def generated() -> dict[Path, str]:
    """Everything but the pictures, which figures.py draws."""
    pages = {DOCS / "reference" / "commands.md": commands()}
    with services.apps() as apps:
        for page in _SERVICES:
            found = [app for name, app in apps.items() if PAGES.get(name, name) == page]
            pages[DOCS / "reference" / f"{page}.md"] = http(page, found)
    tables = {model.__module__: _settings_table(model) for model in settings_models()}
    pages[DOCS / "settings.md"] = _filled(DOCS / "settings.md", tables)
    tables = {ProblemType.__module__: _problems_table(), "all packages": errors()}
    pages[DOCS / "problems.md"] = _filled(DOCS / "problems.md", tables)
    return pages


def commands() -> str:
    command = typer.main.get_command(build())
    text: str = get_docs_for_click(obj=command, ctx=typer.Context(command), name="moiety")
    sentences = {name: (one.help or "").split("\n\n")[0] for name, one in _below(command)}
    text = re.sub(r"^\* `(\S+)`: .*\.\.\.$", lambda cut: f"* `{cut[1]}`: {sentences[cut[1]]}", text, flags=re.M)
    text = text.replace("* `--help`: Show this message and exit.\n", "").replace("**Options**:\n\n\n", "")
    text = re.sub(r"^Example:\n((?:  .*\n?)+)", lambda shown: f"```sh\n{_dedented(shown[1])}\n```\n", text, flags=re.M)
    return _page("Commands", re.sub(r"^# .*\n", "", text).replace("docs/settings.md", "[settings](../settings.md)"))


def _dedented(lines: str) -> str:
    return inspect.cleandoc(lines.rstrip())


def _below(command: object) -> Iterator[tuple[str, Any]]:
    """All commands of a group by name, and of the groups in it."""
    for name, one in getattr(command, "commands", {}).items():
        yield name, one
        yield from _below(one)


def http(name: str, apps: list[FastAPI]) -> str:
    """One page for apps that are alike: the first has all addresses of the others but their WebSockets."""
    title, introduction = _SERVICES[name]
    known = [route for app in apps for route in app.routes if isinstance(route, WebSocketRoute)]
    body = openapi.markdown(apps[0].openapi(), [(r.path, inspect.getdoc(r.endpoint) or "") for r in known])
    hidden = sorted({route.path for app in apps for route in routes(app) if not route.include_in_schema})
    if hidden:
        body += "\n\n## Not in the OpenAPI document\n\n" + "\n".join(f"- `{path}`" for path in hidden)
    return _page(title, f"{introduction}\n\n{_PROBLEMS}\n\n## Addresses\n\n{body}")


def routes(router: FastAPI | APIRouter) -> Iterator[APIRoute]:
    """All of an app's own addresses, those of included routers too."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            yield route
        elif isinstance(included := getattr(route, "original_router", None), APIRouter):
            yield from routes(included)


def errors() -> str:
    """Every exception of the packages, with its base and what it says of itself."""
    tree = inspect.getdoc(import_module("moiety_client.errors")) or ""
    lines = [
        "What the packages raise, beside Python's own. The client's are a tree, so that a program catches as much or "
        "as little of it as it needs:",
        f"```text\n{tree[tree.index('MoietyError') :]}\n```",
    ]
    for module, classes in sorted(_by_module(exceptions()).items()):
        rows = [
            f"| `{one.__name__}` | {', '.join(f'`{base.__name__}`' for base in one.__bases__)} | {_said(one)} |"
            for one in classes
        ]
        lines.append(f"### {module}\n\n" + "\n".join(["| error | is a | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(lines)


def exceptions() -> list[type[BaseException]]:
    """Public ones, in the order of their modules."""
    return [
        one
        for module in modules()
        for one in vars(module).values()
        if isinstance(one, type)
        and issubclass(one, BaseException)
        and one.__module__ == module.__name__
        and not one.__name__.startswith("_")
    ]


def settings_models() -> list[type[BaseSettings]]:
    """Those that read the environment: one for each role."""
    for _ in modules():
        pass  # a model is known once its module is imported
    waiting, found = [BaseSettings], []
    while waiting:
        model = waiting.pop()
        waiting += model.__subclasses__()
        if model.__module__.startswith("moiety_") and model.model_config.get("env_prefix"):
            found.append(model)
    return sorted(found, key=lambda model: model.__module__)


def modules() -> Iterator[ModuleType]:
    """All modules of all roles, imported."""
    for package in _PACKAGES:
        top = import_module(package)
        yield top
        for found in walk_packages(top.__path__, f"{package}."):
            yield import_module(found.name)


def variables(model: type[BaseSettings]) -> Iterator[tuple[str, FieldInfo]]:
    """The environment variables that a settings model reads."""
    for name, field in model.model_fields.items():
        yield f"{model.model_config['env_prefix']}{name.upper()}", field


def _settings_table(model: type[BaseSettings]) -> str:
    rows = [
        f"| `{variable}` | {_default(field.default)} | {field.description} |" for variable, field in variables(model)
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def _default(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`" if value not in ("", None, ()) else ""


def _problems_table() -> str:
    rows = [
        f"| `{kind.urn}` | {kind.status}{' *later*' if _is_later(kind) else ''} | {kind.title} | {kind.hint} |"
        for kind in ProblemType
    ]
    return "\n".join(["| type | status | title | what to do |", "|---|---|---|---|", *rows])


def _is_later(kind: ProblemType) -> bool:
    return kind in RETRY_AFTER_SECONDS or kind is ProblemType.QUOTA_EXCEEDED


def _filled(page: Path, parts: dict[str, str]) -> str:
    """The page with each part between its two comments; one that has no place on it is missing, and so noticed."""
    text = page.read_text()
    for name, part in parts.items():
        comments = re.compile(rf"(<!-- from {re.escape(name)} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        text = comments.sub(lambda found, part=part: f"{found[1]}\n{part}\n{found[2]}", text)  # type: ignore[misc]
    return text


def _page(title: str, text: str) -> str:
    return f"# {title}\n\n{_MADE}\n\n{text.strip()}\n"


def _said(one: type[BaseException]) -> str:
    return " ".join((one.__doc__ or "").split()).replace("|", "\\|")


def _by_module(classes: Iterable[type[BaseException]]) -> dict[str, list[type[BaseException]]]:
    found: dict[str, list[type[BaseException]]] = {}
    for one in classes:
        found.setdefault(one.__module__, []).append(one)
    return found
