"""The suite `page`: from the lifted pen to the label on the owner's public page, in Chromium, beside the Python client.

The page itself keeps the time: from its `pointerup` to the task that writes the label and paints the shares. The pause
in which it waits for another stroke is not counted.
"""

import importlib
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.measurement import Row, timed
from moiety_client.client import Client
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_local.folder import DeploymentError

_TURNS, _WARM, _CALLS = 60, 20, 10
_PAUSE_MS = 300  # of app.js
_STROKE = ((0.25, 0.25), (0.72, 0.24), (0.62, 0.45), (0.5, 0.62), (0.42, 0.82))
_DRAWN = "7"
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
_WATCH = """() => {
    const [canvas, status] = ["canvas", "status"].map((id) => document.getElementById(id));
    let lifted = 0;
    canvas.addEventListener("pointerup", (event) => (lifted = event.timeStamp));
    window.answered = () => new Promise((resolve) => {
        const seen = new MutationObserver(() => {
            if (!status.textContent.startsWith("The answer")) return;
            seen.disconnect();
            resolve(performance.now() - lifted);
        });
        seen.observe(status, { childList: true });
    });
}"""


def measure(root: Path, pixels: mnist.Pixels, console: Console) -> Iterator[Row]:
    """The rows of the table, in order. Raises DeploymentError without Playwright or Chromium."""
    chromium = shutil.which("chromium")
    try:
        playwright = importlib.import_module("playwright.sync_api")
    except ModuleNotFoundError:
        raise DeploymentError("this suite needs Playwright: pip install playwright") from None
    if chromium is None:
        raise DeploymentError("this suite needs Chromium: make browsers")
    deployment = Deployment(root / "roles", extra={"server": {"PAGE": "true"}})
    deployment.extra["alice"] = {"ORIGINS": deployment.url("server")}
    with deployment, playwright.sync_playwright() as driver:
        deployment.publish("--open")
        browser = driver.chromium.launch(executable_path=chromium, args=_ARGUMENTS)
        page = browser.new_page(viewport={"width": 1240, "height": 1000}, ignore_https_errors=True)
        page.goto(deployment.url("server"))
        page.locator("#model option").first.wait_for(state="attached")
        page.evaluate(_WATCH)
        with deployment.client() as client:
            yield from _drawn(deployment, client, page, pixels[:1], console)
        browser.close()


def _drawn(deployment: Deployment, client: Client, page: Any, one: mnist.Pixels, console: Console) -> Iterator[Row]:
    """A drawn digit in turn with images of the Python client: one call as cold as the drawing's, then more."""
    upload_id = client.model("mnist").upload_id
    drawn: list[float] = []
    first: list[float] = []
    more: list[float] = []
    for turn in range(_TURNS):
        if not turn % 20:
            deployment.wait_full(upload_id)
        drawn.append(_draw(page) - _PAUSE_MS)
        calls = [timed(lambda: client.predict("mnist", one)) * 1e3 for _ in range(_CALLS)]
        first.append(calls[0])
        more.extend(calls[1:])
    label = page.locator("#label").text_content()
    if label != _DRAWN:
        raise DeploymentError(f"the page took a drawn {_DRAWN} for a {label}")
    shown, cold = (statistics.median(taken[_WARM:]) for taken in (drawn, first))
    warm = statistics.median(more[_WARM * (_CALLS - 1) :])
    console.print(
        f"[dim]draw to label {shown:.1f} ms, one image by the SDK {cold:.2f} ms, among others {warm:.2f} ms[/]"
    )
    yield Row.at_most("draw to label on the public page / one image by the SDK: at most", shown / cold, 5)
    yield Row.at_most("draw to label on the public page / one image among others: at most", shown / warm, 5)


def _draw(page: Any) -> float:
    """Draw a digit on an empty pad, and return the milliseconds from the lifted pen to its label."""
    page.get_by_role("button", name="Clear").click()
    box = page.locator("#canvas").bounding_box()
    (x, y), *rest = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in _STROKE]
    page.evaluate("() => { window.next = window.answered(); }")
    page.mouse.move(x, y)
    page.mouse.down()
    for x, y in rest:
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    taken: float = page.evaluate("() => window.next")
    return taken
