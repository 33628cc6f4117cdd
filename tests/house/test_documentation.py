"""What there is to set, call, ask and go wrong is written down, and what is made from the program is up to date.

`--rewrite` (`make docs-reference`) writes the made pages and pictures anew.
"""

import ast
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from fastapi import FastAPI
from pydantic_settings import BaseSettings
from starlette.routing import WebSocketRoute

from docs.tools import costs, engines, figures, reference, registry, services
from moiety_client.settings import ClientSettings
from moiety_crypto_provider.settings import ProviderSettings
from moiety_party.settings import PartySettings
from moiety_server.settings import ServerSettings
from moiety_service.cli.main import build
from moiety_shared import formats
from moiety_shared.messages.access import AccessFile
from moiety_shared.messages.catalogue import Entry
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import ProblemType
from tests.house.test_house_rules import FOLDERS, sources

DOCS = reference.DOCS


@pytest.fixture(scope="module")
def apps() -> Iterator[dict[str, FastAPI]]:
    with services.apps() as made:
        yield made


@pytest.mark.parametrize(
    "generator",
    [reference.generated, figures.generated, costs.generated, engines.generated, registry.generated],
    ids=["reference", "figures", "costs", "engines", "registry"],
)
def test_what_is_made_is_up_to_date(generator: reference.Generator, request: pytest.FixtureRequest) -> None:
    made = generator()
    if request.config.getoption("--rewrite"):
        for path, text in made.items():
            path.write_text(text)
    old = [path.name for path, text in made.items() if not path.exists() or path.read_text() != text]
    assert not old, "run make docs-reference"


def test_nothing_made_is_left_over() -> None:
    assert set((DOCS / "figures").iterdir()) <= set(figures.generated())


def test_every_role_has_settings_that_are_found() -> None:
    found = reference.settings_models()
    assert {ServerSettings, ClientSettings, PartySettings, ProviderSettings} <= set(found)


@pytest.mark.parametrize("model", reference.settings_models(), ids=lambda model: model.__name__)
def test_every_setting_is_documented_with_its_description(model: type[BaseSettings]) -> None:
    rows = (DOCS / "settings.md").read_text().splitlines()
    for variable, field in reference.variables(model):
        line = next((row for row in rows if f"`{variable}`" in row), "")
        assert field.description and field.description in line, variable


def test_every_problem_is_documented() -> None:
    text = (DOCS / "problems.md").read_text()
    for kind in ProblemType:
        assert f"`{kind.urn}`" in text and kind.title in text and kind.hint in text, kind


def test_every_error_is_documented_in_its_own_words() -> None:
    text = (DOCS / "problems.md").read_text()
    found = reference.exceptions()
    assert len(found) >= 15
    for one in found:
        assert one.__doc__ and f"| `{one.__name__}` |" in text, one


def commands(command: typer.core.TyperCommand, path: str) -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """Every command below a group with all words that call it."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{path} {name}")


def test_every_command_and_option_is_documented() -> None:
    text = (DOCS / "commands.md").read_text()
    found = list(commands(typer.main.get_command(build()), "moiety"))  # type: ignore[arg-type]
    assert {"moiety publish", "moiety token revoke", "moiety keys rotate"} <= {path for path, _ in found}
    for path, command in found[1:]:
        part = text.partition(f"## `{path}`\n")[2].partition("\n## ")[0].replace("\n#", "\n")
        part = re.sub(r"\[(\w+)\]\(\1\.md\)", r"docs/\1.md", part)
        assert command.help and " ".join(command.help.split())[:40] in " ".join(part.split()), path
        for option in (name for parameter in command.params for name in parameter.opts if name.startswith("--")):
            assert f"`{option}" in part, f"{path} {option}"


def test_every_address_is_documented(apps: dict[str, FastAPI]) -> None:
    for name, app in apps.items():
        text = reference.addresses(name)
        found = {route.path for route in reference.routes(app)}
        found |= {route.path for route in app.routes if isinstance(route, WebSocketRoute)}
        assert "/health/live" in found
        assert not [path for path in found if f"{path}`" not in text], name


def metrics(program: str) -> set[str]:
    """Names of the Prometheus metrics that a program makes."""
    kinds = ("Counter", "Gauge", "Histogram", "Summary", "Info")
    return {
        str(node.args[0].value)
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds
        if node.args and isinstance(node.args[0], ast.Constant)
    }


def test_every_metric_is_documented() -> None:
    assert metrics('made = Gauge("moiety_ready", "Whether it is.")') == {"moiety_ready"}, "this test finds metrics"
    text = "".join(page.read_text() for page in DOCS.glob("*.md"))
    made = {name for path in sources(*FOLDERS) for name in metrics(path.read_text())}
    assert not [name for name in made if name not in text]


def test_every_promise_names_a_test_that_exists() -> None:
    tests = Path(__file__).parents[1]
    rows = [row for row in (DOCS / "security.md").read_text().splitlines() if ".py" in row]
    named = [name for row in rows for name in re.findall(r"`([\w/]+\.py(?:::\w+)?)`", row)]
    assert len(named) >= 25
    for name in named:
        file, _, test = name.partition("::")
        assert (tests / file).exists() and (not test or f"def {test}(" in (tests / file).read_text()), name


def test_what_the_architecture_names_is_there() -> None:
    root, text = DOCS.parent, (DOCS / "architecture.md").read_text()
    named = re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)(?:::(\w+))?`", text)
    assert len(named) >= 40
    for path, symbol in named:
        assert (root / path).exists(), path
        assert not symbol or re.search(rf"\b(def|class) {symbol}\b", (root / path).read_text()), f"{path}::{symbol}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_files_beside_the_site_link_to_what_is_there(name: str) -> None:
    named = re.findall(r"(?:\]\(|src=\"|srcset=\")([^)#\"]+)", (DOCS.parent / name).read_text())
    assert not [path for path in named if not path.startswith("http") and not (DOCS.parent / path).exists()]


def test_every_format_is_in_the_table_with_its_version() -> None:
    rows = [row.split("|") for row in (DOCS / "operations.md").read_text().splitlines() if row.startswith("| ")]
    told = {cells[1].strip(): (cells[2].strip(), cells[3]) for cells in rows}
    for name, document in (("plan", Plan), ("catalogue entry", Entry), ("access file", AccessFile)):
        assert told[name][0].split()[0] == str(document.FORMAT), name
    magics = {
        "prediction request": formats.REQUEST,
        "handshake": formats.HANDSHAKE,
        "what is sealed in a request": formats.SECRET,
        "result": formats.RESULT,
        "count for the owner": formats.COUNT,
        "model upload": formats.UPLOAD,
    }
    for name, magic in magics.items():
        text = magic.decode()
        assert told[name][0] == text[-1] and f"`{text}`" in told[name][1], name
    assert told["peer protocol"][0] == str(formats.PEER)


def test_the_changelog_begins_with_this_version() -> None:
    first = next(line for line in (DOCS.parent / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert first.removeprefix("## ").split()[0] == version("moiety")


# What pages promise is what docs/security.md promises

_ROOT = DOCS.parent
_PAGE = "shared/moiety_service/web/index.html"
_TOO_MUCH = re.compile(
    r"(nobody|no one|cannot|can not|can't|never)( can)? (be )?re(build|built)|both together would tell"
    r"|alice and bob learn nothing|nobody else (can see|sees) (it|them)|sidecar and nobody else",
    re.IGNORECASE,
)


def words(path: str) -> str:
    """A page's text, in one line."""
    return " ".join(re.sub(r'\\n",\s*"|<[^>]*>', " ", (_ROOT / path).read_text()).split())


def pages() -> list[str]:
    """All that is written for users."""
    found = [
        *DOCS.glob("*.md"),
        *(DOCS / "decisions").iterdir(),
        *(DOCS / "spec").iterdir(),
        *(DOCS / "tutorials").iterdir(),
        _ROOT / _PAGE,
        _ROOT / "README.md",
    ]
    return sorted(str(path.relative_to(_ROOT)) for path in found if path.suffix in (".md", ".ipynb", ".html"))


@pytest.mark.parametrize("path", pages())
def test_no_page_promises_more_than_holds(path: str) -> None:
    assert not _TOO_MUCH.findall(words(path))


@pytest.mark.parametrize(
    "path",
    [
        _PAGE,
        "README.md",
        *(f"docs/{name}" for name in ("index.md", "security.md", "threat-model.md")),
    ],
)
def test_that_any_two_of_three_reveal_everything_is_said(path: str) -> None:
    assert re.search(r"two of (the three|alice, bob and the crypto provider)", words(path), re.IGNORECASE)


def test_the_web_pages_footer_says_it() -> None:
    _, _, footer = (_ROOT / _PAGE).read_text().partition('id="foot"')
    footer = " ".join(footer.split())
    assert "Any two of the three who compute, Alice, Bob and the crypto provider, can reveal everything" in footer


def test_that_labels_are_enough_to_rebuild_a_model_is_said() -> None:
    for path in ("docs/tutorials/model-owner.ipynb", "docs/models.md", "docs/security.md"):
        text = words(path)
        assert "rebuild" in text and re.search("slow(s)? that down|slows down who wants to rebuild", text), path
    assert "labels alone are enough for that, with enough questions" in words("docs/tutorials/model-owner.ipynb")


def test_how_to_report_a_fault_is_found() -> None:
    policy = (_ROOT / "SECURITY.md").read_text()
    assert "(SECURITY.md)" in words("README.md") and "SECURITY.md" in words("docs/security.md")
    assert "private vulnerability reporting" in words("SECURITY.md") and "@" not in policy
    current = ".".join(version("moiety").split(".")[:2])
    assert f"| {current} | yes |" in policy, "the newest minor version is the one that is fixed"
