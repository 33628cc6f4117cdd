"""The page in a real Chromium, against the five real processes."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from moiety_local.deployment import Deployment

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"


def needed(what: str | Path | None) -> str:
    """A thing that `make browsers` installs. Where tests must not be passed over, its absence is a failure."""
    if what is not None and Path(what).exists():
        return str(what)
    if os.environ.get("CI"):
        pytest.fail("no Chromium or no axe-core here: run make browsers")
    pytest.skip("no Chromium or no axe-core here: run make browsers")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, ended with the file that asked: Playwright's event loop runs in this thread until then, so that nothing
    else can run one."""
    path = needed(shutil.which("chromium"))
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def axe() -> str:
    return Path(needed(_AXE)).read_text()


@pytest.fixture
def page(browser: Browser, deployment: Deployment, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page with its models listed; fails when it says anything on the console or asks anybody else."""
    deployment.wait("client")
    own, said, asked = deployment.url("client"), [], []
    options = getattr(request, "param", {})
    with browser.new_context(viewport={"width": 1240, "height": 900}, **options) as context:
        opened = context.new_page()
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda one: asked.append(one.url))
        opened.goto(own)
        models = opened.get_by_label("Model", exact=True)
        models.select_option("mnist")  # other tests publish models that come before it
        expect(models).to_have_value("mnist")
        yield opened
    allowed = "Failed to load resource: the server responded with a status of 5"  # a service that is down on purpose
    assert not [text for text in said if not text.startswith(allowed)]
    assert all(url.startswith((own, f"blob:{own}", "data:")) for url in asked)
