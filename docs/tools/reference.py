"""What the program itself says of its commands, addresses, errors, problems and settings, as Markdown.

`generated()` gives docs/commands.md, docs/http.md, docs/settings.md and docs/problems.md: what is made stands between
two comments there. tests/house/test_documentation.py holds what is committed against it, and writes
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
from docs.tools.pages import DOCS, filled
from moiety_service.cli.main import build
from moiety_shared.problems import RETRY_AFTER_SECONDS, ProblemType

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
_SERVICES = {
    "sidecar": "sidecar",
    "owner": "owner",
    "alice": "parties",
    "bob": "parties",
    "crypto-provider": "crypto-provider",
}
"""The part of docs/http.md in which a service's addresses are: those of alice and bob are alike."""


def generated() -> dict[Path, str]:
    """Everything but the pictures, which figures.py draws."""
    tables = {model.__module__: _settings_table(model) for model in settings_models()}
    problems = {ProblemType.__module__: _problems_table(), "all packages": errors()}
    parts = {"settings": tables, "problems": problems, "commands": {"all roles": commands()}, "http": http()}
    return {DOCS / f"{page}.md": filled(DOCS / f"{page}.md", made) for page, made in parts.items()}


def commands() -> str:
    """Every command, with its options and examples."""
    command = typer.main.get_command(build())
    text: str = get_docs_for_click(obj=command, ctx=typer.Context(command), name="moiety")
    _, _, text = text.partition("\n## ")  # before that: the list of commands, whose sentences stand below each heading
    text = f"## {text}".replace("* `--help`: Show this message and exit.\n", "").replace("**Options**:\n\n\n", "")
    text = re.sub(r"^\* `(\S+)`: .*\.\.\.$", lambda cut: f"* `{cut[1]}`: {_first(command, cut[1])}", text, flags=re.M)
    text = re.sub(r"^Example:\n((?:  .*\n?)+)", lambda shown: f"```sh\n{_dedented(shown[1])}\n```\n", text, flags=re.M)
    return re.sub(r"docs/(\w+)\.md", r"[\1](\1.md)", text.strip())


def _dedented(lines: str) -> str:
    return inspect.cleandoc(lines.rstrip())


def _first(command: object, name: str) -> str:
    """The first paragraph of what the help says of a command below `command`."""
    return next((one.help or "").split("\n\n")[0] for found, one in _below(command) if found == name)


def _below(command: object) -> Iterator[tuple[str, Any]]:
    """All commands of a group by name, and of the groups in it."""
    for name, one in getattr(command, "commands", {}).items():
        yield name, one
        yield from _below(one)


def http() -> dict[str, str]:
    """The addresses of each part of the page, and what they name."""
    parts: dict[str, str] = {}
    with services.apps() as apps:
        for part in dict.fromkeys(_SERVICES.values()):
            parts[part] = _addresses([app for name, app in apps.items() if _SERVICES[name] == part])
        parts["schemas"] = openapi.schemas([app.openapi() for app in apps.values()])
    return parts


def _addresses(apps: list[FastAPI]) -> str:
    """Those of apps that are alike: the first has all addresses of the others but their WebSockets."""
    known = [route for app in apps for route in app.routes if isinstance(route, WebSocketRoute)]
    text = openapi.operations(apps[0].openapi(), [(one.path, inspect.getdoc(one.endpoint) or "") for one in known])
    hidden = sorted({route.path for app in apps for route in routes(app) if not route.include_in_schema})
    return text + (f"\n\nNot in the OpenAPI document: {', '.join(f'`{path}`' for path in hidden)}." if hidden else "")


def addresses(service: str) -> str:
    """What docs/http.md says of the addresses of a service."""
    text = (DOCS / "http.md").read_text()
    return text.partition(f"<!-- from {_SERVICES[service]} -->")[2].partition("<!-- end -->")[0]


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


def _said(one: type[BaseException]) -> str:
    """Return the first paragraph of a class's docstring: what follows says what the exception holds."""
    return " ".join((one.__doc__ or "").partition("\n\n")[0].split()).replace("|", "\\|")


def _by_module(classes: Iterable[type[BaseException]]) -> dict[str, list[type[BaseException]]]:
    found: dict[str, list[type[BaseException]]] = {}
    for one in classes:
        found.setdefault(one.__module__, []).append(one)
    return found
