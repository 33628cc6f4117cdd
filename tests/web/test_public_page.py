"""The owner's public page, and pages of other sites, in a real Chromium: the browser itself splits, seals and opens."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from typer.testing import CliRunner

from moiety_local.deployment import Deployment
from moiety_service.cli.main import build
from moiety_shared.messages.access import AccessFile
from tests.conftest import LISTED_PAGE
from tests.web.test_page import SCHEMES, SEVEN, Digits, answered, draw, file, violations

EXAMPLE = Path(__file__).parents[2] / "examples" / "web" / "index.html"
CLIENT = Path(__file__).parents[2] / "server" / "moiety_server" / "web" / "client.js"
OTHER_PAGE = "https://other.example"
_OPEN, _VERIFIED, _TABLE = "digits", "sure", "loans"
_WEIGHTS, _BIAS = (0.5, -0.25), -1.0  # of the table's model: class 1 where 0.5 income - 0.25 debt is above 1
_OPACITY = """(id) => {
    const { width, height } = document.getElementById(id);
    const pixels = document.getElementById(id).getContext("2d").getImageData(0, 0, width, height).data;
    return Array.from(pixels).filter((_, at) => at % 4 === 3);
}"""


@dataclass
class Site:
    """The catalogue, whose page it is, with an open model and one that wants a token."""

    deployment: Deployment
    access: AccessFile

    @property
    def url(self) -> str:
        return self.deployment.url("server")


def _linear() -> onnx.ModelProto:
    """A logistic regression over two columns, as a framework of tables writes it."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])
    label = helper.make_tensor_value_info("label", TensorProto.INT64, [None])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 2])
    coefficients = [-w for w in _WEIGHTS] + list(_WEIGHTS)
    how = {"coefficients": coefficients, "intercepts": [-_BIAS, _BIAS], "classlabels_ints": [0, 1]}
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", post_transform="LOGISTIC", **how
    )
    graph = helper.make_graph([node], "loans", [x], [label, scores])
    versions = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=versions, ir_version=9)


@pytest.fixture(scope="module")
def site(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Its models are published by this process: of three processes, each would load PyTorch first."""
    folder = tmp_path_factory.mktemp("table")
    (folder / "rows.csv").write_text("income,debt\n0,0\n10,0\n0,10\n4,3\n10,10\n")
    onnx.save(_linear(), folder / "loans.onnx")
    table = (str(folder / "loans.onnx"), "--calibration", str(folder / "rows.csv"))
    for name, *given in ((_OPEN, "mnist"), (_VERIFIED, "mnist", "--verified"), (_TABLE, *table)):
        command = ["publish", *given, "--name", name, "--open"]
        done = CliRunner().invoke(build(), command, env=deployment.settings("server"))
        assert done.exit_code == 0, done.output
    return Site(deployment, AccessFile.model_validate_json(deployment.access_file.read_bytes()))


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser that trusts the deployment's own authority, as others trust a public one, and that lets pages of other
    sites reach this machine: Chromium asks its user first."""
    with browser.new_context(ignore_https_errors=True, permissions=["local-network-access"]) as made:
        yield made


@pytest.fixture
def page(site: Site, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The public page with its models listed; fails when it says anything on the console or asks anybody else."""
    options = getattr(request, "param", {})
    said, asked = list[str](), list[str]()
    with browser.new_context(viewport={"width": 1240, "height": 900}, ignore_https_errors=True, **options) as context:
        opened = context.new_page()
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda one: asked.append(one.url))
        opened.goto(site.url)
        models = opened.get_by_label("Model", exact=True)
        expect(models.locator("option", has_text=_OPEN)).to_be_attached()
        models.select_option(_OPEN)
        yield opened
        assert context.cookies() == []
        assert opened.evaluate("() => localStorage.length + sessionStorage.length") == 0, "nothing is stored"
    assert said == []
    reached = (site.url, site.deployment.url("alice"), f"blob:{site.url}", "data:")
    assert all(url.startswith(reached) for url in asked)


def test_a_drawn_digit_is_recognised_in_the_page(page: Page, site: Site) -> None:
    with page.expect_response(f"{site.deployment.url('alice')}/v1/predictions") as response:
        draw(page, SEVEN)
    sent = response.value.request.post_data_buffer
    assert sent and 5000 < len(sent) < 7000, "two envelopes"
    answered(page, "7")
    expect(page.locator("#bars li")).to_have_count(10)
    expect(page.locator("#bars .first")).to_contain_text("7")
    expect(page.locator("#steps-note")).to_contain_text("This page measured these times, and Alice the rounds")
    expect(page.locator("#rounds-check")).to_contain_text("Alice counted the same on the wire")
    expect(page.locator("#samples-field")).to_be_hidden()  # a visitor draws: the catalogue serves no samples
    expect(page.locator("#samples li")).to_have_count(0)
    expect(page.locator("footer")).to_contain_text("whoever serves it could change its code")


def test_what_it_shows_is_of_that_call(page: Page, site: Site) -> None:
    with page.expect_response(f"{site.deployment.url('alice')}/v1/predictions") as response:
        draw(page, SEVEN)
    answered(page, "7")
    sent, came = (raw.hex() for raw in (response.value.request.post_data_buffer or b"", response.value.body()))
    for role in ("alice", "bob"):
        message, result = page.locator(f"#{role}-facts .hex").all_text_contents()
        assert message.replace(" ", "").rstrip("…") in sent and result.replace(" ", "").rstrip("…") in came
    drawn, alice, bob = (np.array(page.evaluate(_OPACITY, name)) for name in ("you", "alice", "bob"))
    assert drawn.max() > 200 and (drawn == 0).mean() > 0.5, "a digit on its ground"
    assert min(len(set(alice)), len(set(bob))) > 150, "noise has all its shades"
    summed = (alice + bob) % 256  # the highest byte of the input, but for a carry
    assert len(set(summed)) < 16


def test_a_picture_file_is_asked(page: Page, digits: Digits) -> None:
    images, labels = digits
    for at in range(3):
        page.locator("#file").set_input_files(file(images[at]))  # type: ignore[arg-type]
        answered(page, str(labels[at]))
    page.get_by_label("Light and dark swapped").check()
    expect(page.locator("#status")).to_contain_text("The answer is")


def test_a_model_that_wants_a_token_waits_for_an_access_file(page: Page, site: Site) -> None:
    option = page.locator("#model option[value=mnist]")
    expect(option).to_be_disabled()
    elsewhere = site.access.model_copy(update={"catalogue_url": "https://elsewhere.example"}).model_dump_json()
    for content, said in ((b"{}", "This is not an access file"), (elsewhere.encode(), "for another catalogue")):
        page.locator("#access-file").set_input_files(
            {"name": "a.json", "mimeType": "application/json", "buffer": content}
        )
        expect(page.get_by_role("alert")).to_contain_text(said)
    page.locator("#access-file").set_input_files(site.deployment.access_file)
    expect(option).to_be_enabled()
    page.get_by_label("Model", exact=True).select_option("mnist")
    draw(page, SEVEN)
    answered(page, "7")


def test_a_verified_model_is_asked_and_its_answer_checked_in_the_page(page: Page) -> None:
    page.get_by_label("Model", exact=True).select_option(_VERIFIED)
    expect(page.locator("#about")).to_contain_text("10 rounds")
    expect(page.locator("#about")).to_contain_text("a party that cheats is caught")
    draw(page, SEVEN)
    answered(page, "7")
    expect(page.locator("#rounds-area")).to_be_hidden()
    expect(page.locator("#rounds-lead")).to_contain_text("what they say was checked in this page")
    expect(page.locator("#rounds-check")).to_contain_text("Alice counted 10 rounds")


def test_a_row_of_a_table_is_asked_in_the_form(page: Page) -> None:
    page.get_by_label("Model", exact=True).select_option(_TABLE)
    expect(page.locator("#pad")).to_be_hidden()
    for income, debt, label in ((8, 1, "1"), (1, 8, "0")):
        assert (_WEIGHTS[0] * income + _WEIGHTS[1] * debt + _BIAS > 0) == (label == "1")
        page.get_by_label("income").fill(str(income))
        page.get_by_label("debt").fill(str(debt))
        page.get_by_role("button", name="Ask", exact=True).click()
        answered(page, label)
    expect(page.locator("#you-facts")).to_contain_text("2 values")


def test_without_a_network_the_page_stays_and_says_so(page: Page) -> None:
    page.context.set_offline(True)
    draw(page, SEVEN)
    expect(page.get_by_role("alert")).to_contain_text("There is no network")
    expect(page.get_by_role("alert")).to_contain_text("Alice cannot be reached, and nothing was sent")
    models = page.get_by_label("Model", exact=True)
    models.select_option(_TABLE)
    page.get_by_role("button", name="Fill in an example").click()
    expect(page.get_by_label("income")).to_have_value("5.5")
    models.select_option(_OPEN)
    draw(page, SEVEN)
    expect(page.get_by_role("alert")).to_contain_text("There is no network")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    answered(page, "7")


def test_an_answer_that_takes_long_is_waited_for_and_the_page_says_so(page: Page, site: Site) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(f"{site.deployment.url('alice')}/v1/predictions", hold)
    draw(page, SEVEN)
    expect(page.locator("#took")).to_contain_text("There is no answer yet: the page goes on asking")
    (route,) = held
    route.continue_()
    answered(page, "7")
    expect(page.locator("#took")).to_contain_text("from sealing your input")


@SCHEMES
def test_it_is_accessible_and_fits_a_phone(page: Page, axe: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert violations(page, axe) == []
    draw(page, SEVEN)
    answered(page, "7")
    page.wait_for_timeout(500)  # bars have grown
    assert violations(page, axe) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360


def serving(context: BrowserContext, origin: str, site: Site) -> None:
    """Let a page of examples/web come from that origin."""
    content = {
        "/": EXAMPLE.read_text(),
        "/client.js": CLIENT.read_text(),
        "/service.json": json.dumps({"catalogue": site.url, "ownerKey": site.access.owner_key}),
        "/favicon.ico": "",
    }
    kinds = {"/": "text/html", "/client.js": "text/javascript"}

    def answer(route: Route) -> None:
        path = route.request.url.removeprefix(origin)
        route.fulfill(body=content[path], content_type=kinds.get(path, "application/json"))

    context.route(f"{origin}/**", answer)


def test_a_page_of_a_listed_site_asks(context: BrowserContext, site: Site, digits: Digits) -> None:
    serving(context, LISTED_PAGE, site)
    page = context.new_page()
    page.goto(f"{LISTED_PAGE}/", wait_until="networkidle")
    images, labels = digits
    for at in range(2):
        page.locator("#file").set_input_files(file(images[at]))  # type: ignore[arg-type]
        expect(page.locator("#answer")).to_contain_text(f"It is a {labels[at]}")


def test_a_page_of_another_site_reads_nothing_and_costs_no_row(
    context: BrowserContext, site: Site, digits: Digits
) -> None:
    serving(context, OTHER_PAGE, site)
    with site.deployment.client() as client:
        upload = client.model(_OPEN).upload_id
    before = site.deployment.party_state("alice", upload)
    page = context.new_page()
    page.goto(f"{OTHER_PAGE}/", wait_until="networkidle")
    page.locator("#file").set_input_files(file(digits[0][0]))  # type: ignore[arg-type]
    expect(page.locator("#answer")).to_contain_text("the catalogue does not answer")
    told = page.evaluate(
        """async (alice) => {
            const how = { method: "POST", body: new Uint8Array(64), mode: "no-cors" };
            const blind = await fetch(`${alice}/v1/predictions`, how);
            const seen = await fetch(`${alice}/v1/predictions`, { ...how, mode: "cors" }).catch((error) => error.name);
            return [blind.type, await blind.text(), seen];
        }""",
        site.deployment.url("alice"),
    )
    assert told == ["opaque", "", "TypeError"]
    assert site.deployment.party_state("alice", upload) == before
