"""What there is to set and to go wrong is written down."""

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from moiety_client.settings import ClientSettings
from moiety_crypto_provider.settings import ProviderSettings
from moiety_party.settings import PartySettings
from moiety_server.settings import ServerSettings
from moiety_shared.problems import ProblemType

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("model", [ServerSettings, ClientSettings, PartySettings, ProviderSettings])
def test_every_setting_is_documented_with_its_description(model: type[BaseSettings]) -> None:
    text = (DOCS / "settings.md").read_text()
    prefix = str(model.model_config["env_prefix"])
    for name, field in model.model_fields.items():
        line = next((row for row in text.splitlines() if f"`{prefix}{name.upper()}`" in row), "")
        assert field.description and field.description in line, f"{prefix}{name.upper()}"


def test_every_problem_is_documented() -> None:
    text = (DOCS / "problems.md").read_text()
    for kind in ProblemType:
        assert f"`{kind.urn}`" in text and kind.title in text and kind.hint in text, kind


def test_every_promise_names_a_test_that_exists() -> None:
    tests = DOCS.parent / "tests"
    rows = [row for row in (DOCS / "security.md").read_text().splitlines() if ".py" in row]
    named = [name for row in rows for name in re.findall(r"`([\w/]+\.py(?:::\w+)?)`", row)]
    assert len(named) >= 25
    for name in named:
        file, _, test = name.partition("::")
        assert (tests / file).exists() and f"def {test}" in (tests / file).read_text(), name
