"""The documentation site in a real Chromium, built as `make docs` does: it asks nobody else for anything."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.web.test_page import SCHEMES, violations

ROOT = Path(__file__).parents[2]


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder."""

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("site")
    # Not --quiet: what is not said is not counted as a warning either.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(made)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    return made


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def page(browser: Browser, site: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page that fails when it says anything on the console, misses anything, or asks anybody else."""
    said, asked = [], []
    options = getattr(request, "param", {})
    with browser.new_context(viewport={"width": 380, "height": 800}, **options) as context:
        opened = context.new_page()
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda one: asked.append(one.url))
        yield opened
    assert not said
    assert asked and all(url.startswith((site, "data:")) for url in asked)


def test_every_page_loads_by_itself_and_fits_a_phone(page: Page, folder: Path, site: str) -> None:
    paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("index.html"))
    assert 15 < len(paths) <= 22, "a subject has one page: look for it before you add another"
    for path in paths:
        page.goto(site + path)
        expect(page.locator("article h1")).to_have_count(1)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 380, path


@SCHEMES
def test_a_picture_is_shown_in_the_colours_of_the_page(page: Page, site: str) -> None:
    page.goto(site)
    shown = page.locator('img[src*="figures/roles"]:visible')
    expect(shown).to_have_count(1)
    dark = page.evaluate("() => document.body.dataset.mdColorScheme") == "slate"
    assert ("roles-dark.svg" in str(shown.get_attribute("src"))) == dark


def test_formulas_are_drawn_by_the_browser(page: Page, site: str) -> None:
    page.goto(f"{site}how-it-works/")
    assert page.locator("math[display=block]").count() >= 2
    expect(page.locator(".arithmatex")).to_have_count(0)


def test_the_search_finds_a_setting(page: Page, site: str) -> None:
    page.set_viewport_size({"width": 1240, "height": 900})
    page.goto(site)
    page.get_by_role("textbox", name="Search").click()
    page.keyboard.type("MOIETY_PARTY_MAX_WAITING")
    result = page.locator(".md-search-result__link").first
    expect(result).to_be_visible(timeout=20_000)
    result.click()
    expect(page).to_have_url(re.compile(f"{re.escape(site)}settings/"))


def test_the_calculator_says_what_predictions_cost(page: Page, site: str) -> None:
    """From the figures in its fields, which tests/scale/test_costs.py holds against the plans."""
    page.goto(f"{site}benchmarks/")
    expect(page.locator("#preset")).to_have_value("mnist")
    assert float(page.locator("#provider").input_value()) > 0
    expect_costs(page)
    before = shown(page)
    page.locator("#preset").select_option("lenet")
    expect_costs(page)
    assert all(float(now) > float(then) for now, then in zip(shown(page), before, strict=True))
    page.locator("#gigabyte").fill("0")
    expect_costs(page)
    expect(page.locator("#preset")).to_have_value("lenet")
    page.locator("#online").fill("0")
    expect_costs(page)
    expect(page.locator("#preset")).to_have_value("")


def shown(page: Page) -> list[str]:
    """What it says: gigabytes, hours of a core, and their price."""
    return [page.locator(f"#{name}").inner_text() for name in ("traffic", "hours", "price")]


def expect_costs(page: Page) -> None:
    """It says what its fields' figures cost."""
    names = "predictions", "provider", "online", "asked", "cores", "hour", "gigabyte"
    given = {name: float(page.locator(f"#{name}").input_value()) for name in names}
    gigabytes = given["predictions"] * (given["provider"] + 2 * given["online"] + given["asked"]) / 1e9
    hours = given["predictions"] * given["cores"] / 1e6 / 3600
    price = hours * given["hour"] + gigabytes * given["gigabyte"]
    expect(page.locator("#traffic")).to_have_text(f"{gigabytes:,.1f}")
    expect(page.locator("#hours")).to_have_text(f"{hours:,.2f}")
    expect(page.locator("#price")).to_have_text(f"{price:,.2f}")


@SCHEMES
@pytest.mark.parametrize("path", ["", "python/", "comparison/", "benchmarks/"])
def test_pages_are_accessible(page: Page, axe: str, site: str, path: str) -> None:
    page.set_viewport_size({"width": 1240, "height": 900})  # tables need no scrolling here
    page.goto(site + path)
    assert violations(page, axe) == []
