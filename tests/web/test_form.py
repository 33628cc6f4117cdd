"""The form of a model of a table, in a real Chromium, against a sidecar whose service runs in the same process."""

import json
import time
from collections.abc import Iterator
from threading import Thread

import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect

from moiety_client.settings import ClientSettings
from moiety_client.sidecar import build
from moiety_service.http.ports import LOOPBACK, bind
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.table import Column, Tabular
from tests import plans
from tests.client.test_results import Service
from tests.web.test_page import violations

TABLE = Tabular(
    columns=(
        Column(name="age", kind="number", low=18, high=120, unit="years"),
        Column(name="job", kind="category", categories=("clerk", "nurse"), missing="flag", description="what they do"),
    )
)
CLASSES = ("repaid", "late", "defaulted", "sold", "other")


class OfTable(Service):
    """A service whose only model takes two columns."""

    def __init__(self, keys: tuple[PrivateKey, PrivateKey]) -> None:
        plan = plans.logits()
        takes = plan.input.model_copy(update={"low": -1.0, "high": 1.0})
        super().__init__(plan.model_copy(update={"input": takes}), keys)
        self.entry = self.entry.model_copy(update={"preprocessing": TABLE, "classes": CLASSES})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, text=json.dumps([{"name": self.entry.name}]))
        return super().__call__(request)


@pytest.fixture
def form(browser: Browser, party_keys: tuple[PrivateKey, PrivateKey]) -> Iterator[Page]:
    """The page with the form; fails when it says anything on the console."""
    listener = bind(LOOPBACK, 0, "")
    port = int(listener.getsockname()[1])
    app = build(OfTable(party_keys).async_client(), ClientSettings(port=port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    said: list[str] = []
    with browser.new_context(viewport={"width": 1240, "height": 900}) as context:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}")
        expect(page.get_by_label("Model", exact=True)).to_have_value("small")
        yield page
    server.should_exit = True
    thread.join(10)
    listener.close()
    assert not [text for text in said if "status of 4" not in text]


def ask(page: Page) -> None:
    page.get_by_role("button", name="Ask", exact=True).click()


def test_a_row_is_asked_and_answered(form: Page) -> None:
    expect(form.locator("#pad")).to_be_hidden()
    expect(form.locator("#columns")).to_contain_text("18 to 120 years")
    form.get_by_label("age").fill("44")
    form.get_by_label("job").select_option(label="nurse")
    with form.expect_response("**/v1/show/small") as response:
        ask(form)
    assert json.loads(response.value.request.post_data or "") == {"age": 44, "job": "nurse"}
    shown = response.value.json()
    expect(form.locator("#label")).to_have_text(shown["label"])
    expect(form.locator("#bars li")).to_have_count(5)
    expect(form.locator("#bars .first")).to_contain_text(f"{100 * shown['top'][0]['confidence']:.1f} %")
    expect(form.locator("#you-facts")).to_contain_text("4 values")


def test_a_missing_choice_is_null_and_a_needed_number_is_asked_for(form: Page) -> None:
    ask(form)
    expect(form.locator("#label")).to_have_text("?")
    assert form.evaluate("() => document.querySelector('#column-0').validity.valueMissing")
    form.get_by_label("age").fill("121")
    ask(form)
    assert form.evaluate("() => document.querySelector('#column-0').validity.rangeOverflow")
    form.get_by_label("age").fill("71.5")
    with form.expect_response("**/v1/show/small") as response:
        ask(form)
    assert json.loads(response.value.request.post_data or "") == {"age": 71.5, "job": None}


def test_an_example_can_be_asked_at_once(form: Page) -> None:
    form.get_by_role("button", name="Fill in an example").click()
    expect(form.get_by_label("age")).to_have_value("69")
    ask(form)
    expect(form.get_by_role("status")).to_contain_text("The answer is")


def test_it_is_accessible_and_fits_a_phone(form: Page, axe: str) -> None:
    form.get_by_role("button", name="Fill in an example").click()
    ask(form)
    expect(form.get_by_role("status")).to_contain_text("The answer is")
    form.wait_for_timeout(500)  # bars have grown
    assert violations(form, axe) == []
    form.set_viewport_size({"width": 360, "height": 740})
    assert form.evaluate("() => document.documentElement.scrollWidth") <= 360
