"""What somebody does on the page, with a mouse, a keyboard and files."""

import io
import json
import signal
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from threading import Thread

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from moiety_local.deployment import Deployment

Digits = tuple[np.ndarray, np.ndarray]
Points = list[tuple[float, float]]
SEVEN: Points = [(0.25, 0.25), (0.72, 0.24), (0.62, 0.45), (0.5, 0.62), (0.42, 0.82)]
ONE: Points = [(0.52, 0.18), (0.5, 0.5), (0.49, 0.84)]
SCHEMES = pytest.mark.parametrize("page", [{"color_scheme": s} for s in ("light", "dark")], indirect=True)


def draw(page: Page, points: Points) -> None:
    canvas = page.locator("#canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for x, y in places[1:]:
        page.mouse.move(x, y, steps=8)
    page.mouse.up()


def answered(page: Page, label: str) -> None:
    expect(page.locator("#label")).to_have_text(label, timeout=20_000)
    expect(page.get_by_role("status")).to_contain_text(f"The answer is {label}", timeout=20_000)


def file(pixels: np.ndarray, kind: str = "PNG") -> dict[str, object]:
    Image.fromarray(pixels).save(into := io.BytesIO(), kind)
    return {"name": f"digit.{kind.lower()}", "mimeType": f"image/{kind.lower()}", "buffer": into.getvalue()}


@pytest.mark.parametrize(("points", "label"), [(SEVEN, "7"), (ONE, "1")])
def test_a_drawn_digit_is_recognised(page: Page, points: Points, label: str) -> None:
    draw(page, points)
    answered(page, label)
    expect(page.locator("#bars li")).to_have_count(10)
    expect(page.locator("#bars .first")).to_contain_text(label)
    expect(page.locator("#took")).to_contain_text("ms from sealing")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#label")).to_have_text("?")


def test_what_it_shows_is_what_was_measured(page: Page) -> None:
    with page.expect_response("**/v1/show/mnist*") as response:
        draw(page, SEVEN)
    shown = response.value.json()
    answered(page, shown["label"])
    expect(page.locator("#alice-facts")).to_contain_text(f"{shown['parties'][0]['envelope_bytes'] / 1e3:.1f} KB")
    for party in shown["parties"]:
        expect(page.locator(f"#{party['name']}-facts")).to_contain_text(party["envelope"][:8])
    expect(page.locator("#rounds li")).to_have_count(len(shown["formula"]))
    expect(page.locator("#rounds-check")).to_contain_text("Alice counted the same on the wire")
    drawn = {name: page.locator(f"#{name}").screenshot() for name in ("you", "alice", "bob")}
    assert all(a != b for a, b in pairwise(drawn.values()))
    colours = {
        name: len(np.unique(np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")).reshape(-1, 3), axis=0))
        for name, raw in drawn.items()
    }
    assert min(colours["alice"], colours["bob"]) > 150, "noise has all its shades"


def test_its_foot_says_who_could_reveal_everything(page: Page) -> None:
    expect(page.locator("footer")).to_contain_text("Any two of the three who compute, Alice, Bob and the crypto")


def test_two_calls_have_other_shares(page: Page) -> None:
    seen = []
    for _ in range(2):
        with page.expect_response("**/v1/show/mnist*") as response:
            page.get_by_role("button", name="Handwritten 4").click()
        seen.append(response.value.json())
        answered(page, "4")
    assert seen[0]["pixels"] == seen[1]["pixels"] and seen[0]["parties"][0]["share"] != seen[1]["parties"][0]["share"]


def test_the_samples_are_recognised_by_the_keyboard_alone(page: Page) -> None:
    for label in range(10):
        page.get_by_role("button", name=f"Handwritten {label}").focus()
        page.keyboard.press("Enter")
        answered(page, str(label))


def test_everything_is_reached_by_the_tab_key(page: Page) -> None:
    names = []
    for _ in range(17):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "() => { const e = document.activeElement;"
            " return e.id || e.getAttribute('aria-label') || e.textContent.trim() }"
        )
        names.append(focused)
    assert names[0] == "Skip to your input" and {"model", "clear", "choose", "Handwritten 0", "Handwritten 9"} <= set(
        names
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_an_uploaded_picture_is_recognised(page: Page, digits: Digits, kind: str) -> None:
    large = np.kron(digits[0][1], np.ones((8, 8), np.uint8))
    page.locator("#file").set_input_files(file(large, kind))
    answered(page, "2")
    expect(page.get_by_label("Light and dark swapped")).not_to_be_checked()
    page.locator("#file").set_input_files(file(255 - large, kind))
    expect(page.get_by_label("Light and dark swapped")).to_be_checked()
    answered(page, "2")


def test_a_dropped_picture_is_taken(page: Page, digits: Digits) -> None:
    raw = list(file(digits[0][2])["buffer"])  # type: ignore[call-overload]
    page.evaluate(
        """(raw) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(raw)], "digit.png", { type: "image/png" }));
          const event = new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
          document.getElementById("canvas").dispatchEvent(event);
        }""",
        raw,
    )
    answered(page, "1")


def test_a_file_that_is_no_picture(page: Page) -> None:
    page.locator("#file").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.get_by_role("alert")).to_contain_text("cannot read this picture")
    page.get_by_role("button", name="Handwritten 1").click()
    answered(page, "1")
    expect(page.get_by_role("alert")).to_be_hidden()


@pytest.fixture
def without_alice(deployment: Deployment) -> Iterator[Deployment]:
    yield deployment
    if "alice" not in deployment.processes:
        deployment.start_role("alice")
    deployment.wait("alice", "/health/ready")


def test_services_that_are_down_are_said_in_words(page: Page, without_alice: Deployment) -> None:
    draw(page, SEVEN)
    answered(page, "7")
    without_alice.stop_role("alice", signal.SIGKILL)
    page.get_by_role("button", name="Handwritten 3").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The computing parties cannot be reached", timeout=20_000)
    expect(alert).to_contain_text("Try again shortly")
    expect(page.locator("#label")).to_be_hidden()
    without_alice.start_role("alice")
    without_alice.wait("alice", "/health/ready")
    page.get_by_role("button", name="Try again").click()
    answered(page, "3")


def test_a_catalogue_that_is_down_is_said_in_words(page: Page, deployment: Deployment) -> None:
    deployment.stop_role("server", signal.SIGKILL)
    try:
        page.reload()
        expect(page.get_by_role("alert")).to_contain_text("catalogue cannot be reached", timeout=20_000)
        expect(page.get_by_role("alert")).to_contain_text("access file")
    finally:
        deployment.start_role("server")
        deployment.wait("server")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.get_by_label("Model", exact=True)).to_contain_text("mnist")


def violations(page: Page, axe: str) -> list[tuple[str, str, list[str]]]:
    page.evaluate(axe)
    found = page.evaluate("() => axe.run(document)")["violations"]
    return [
        (one["impact"], one["id"], [node["html"][:120] for node in one["nodes"]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@SCHEMES
def test_it_is_accessible(page: Page, axe: str, deployment: Deployment) -> None:
    assert violations(page, axe) == []
    draw(page, SEVEN)
    answered(page, "7")
    page.wait_for_timeout(500)  # bars have grown
    assert violations(page, axe) == []
    page.locator("#file").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.get_by_role("alert")).to_be_visible()
    assert violations(page, axe) == []
    page.goto(f"{deployment.url('client')}/docs")
    expect(page.locator("#operations section").first).to_be_visible()
    assert violations(page, axe) == []


def test_nothing_sticks_out_on_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    draw(page, SEVEN)
    answered(page, "7")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360


def test_the_reference_lists_every_address(page: Page, deployment: Deployment) -> None:
    document = httpx.get(f"{deployment.url('client')}/openapi.json", trust_env=False).json()
    page.goto(f"{deployment.url('client')}/docs")
    sections = page.locator("#operations section")
    expect(sections).to_have_count(sum(len(verbs) for verbs in document["paths"].values()))
    expect(page.locator("#operations")).to_contain_text("from tritonclient.http import InferenceServerClient")


class Evil(BaseHTTPRequestHandler):
    """Another site's page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>evil</title><link rel=icon href=data:,>")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def evil() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Evil) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_another_sites_page_gets_nothing(browser: Browser, deployment: Deployment, evil: str) -> None:
    """It may send a request; the sidecar does nothing, and the page cannot read the answer."""
    own = deployment.url("client")
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(evil)
        told = page.evaluate(
            """async (url) => {
              const how = (mode) => ({ method: "POST", body: "{}", mode });
              const ask = (mode) => fetch(url, how(mode)).then((r) => r.type, () => "refused");
              return [await ask("cors"), await ask("no-cors")];
            }""",
            f"{own}/v2/repository/index",
        )
    assert told == ["refused", "opaque"]
    log = (deployment.root / "client" / "log").read_text()
    assert any(json.loads(line).get("problem") == "CROSS_ORIGIN" for line in log.splitlines() if line.startswith("{"))
