"""The JavaScript client in a page of a real Chromium, with both parties in this process."""

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import ExifTags, Image
from playwright.sync_api import Browser, Error, Page, Route

from moiety_client import pictures
from moiety_shared.crypto import possession
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.crypto.signing import key_text
from moiety_shared.messages.catalogue import Preprocessing
from moiety_shared.messages.wire import Request
from tests import plans
from tests.client.test_results import Service
from tests.envelopes import opened
from tests.javascript.conftest import PACKAGE, Node
from tests.web import conftest as web

browser = web.browser
ORIGIN = "https://app.example"
TOKEN = "a.b.c"
ASK = """async ([access, rows]) => {
  const { Client } = await import("/client.js");
  const client = await Client.fromAccess(access);
  const answer = await client.predict("small", rows);
  return { labels: answer.labels, outputs: answer.outputs.map((row) => [...row]), rounds: answer.rounds };
}"""
WITHOUT_ED25519 = """
const own = crypto.subtle.importKey.bind(crypto.subtle);
crypto.subtle.importKey = async (format, key, how, ...rest) => {
  if (how === "Ed25519") throw new DOMException("no Ed25519", "NotSupportedError");
  return own(format, key, how, ...rest);
};
"""


_SHIMMED = ("node:assert/strict", "node:fs", "node:test")
_VECTORS_PAGE = """<!doctype html><title>vectors</title>
<script type="importmap">{imports}</script>"""
_RUN_VECTORS = """async () => {
  await import("/client/js/test/vectors.test.mjs");
  const { results } = await import("node:test");
  return results();
}"""

_DECODE = """async ({ file, how, count }) => {
  const core = await import("/client/js/build/core.js");
  const blob = new File([Uint8Array.from(atob(file), (text) => text.charCodeAt(0))], "picture");
  const bitmap = await createImageBitmap(blob);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  const input = { shape: [count], low: 0, high: 1, frac_bits: 16, parts: [], classes: null };
  const entry = { plan: { ring_bits: 32, input }, preprocessing: how };
  const made = {};
  for (const [name, source] of Object.entries({ file: blob, bitmap, canvas })) {
    const { elements } = core.encodeInputs(entry, await core.decoded(source), "strict");
    made[name] = [...elements.words].map((word) => Math.round((word * 255) / 65536));
  }
  return made;
}"""

_NO_PICTURE = """async () => {
  const core = await import("/client/js/build/core.js");
  await core.decoded(new File(["none"], "none.png"));
}"""


class Site:
    """A page's origin, a catalogue and two parties, which check that the holder of the token's key asks."""

    def __init__(self, keys: tuple[PrivateKey, PrivateKey]) -> None:
        self.service = Service(plans.logits("softmax"), keys)
        self.holder = Ed25519PrivateKey.generate()
        self.proved = 0

    @property
    def access(self) -> dict[str, str]:
        owner = key_text(self.service.owner.public_key())
        key = possession.private_pem(self.holder)
        return {"catalogue_url": "https://owner.example", "owner_key": owner, "ca": "", "token": TOKEN, "key": key}

    def __call__(self, route: Route) -> None:
        asked = route.request
        if asked.url == f"{ORIGIN}/":
            route.fulfill(body="<!doctype html><title>a page</title>", content_type="text/html")
        elif asked.url == f"{ORIGIN}/client.js":
            route.fulfill(path=PACKAGE / "dist" / "index.js", content_type="text/javascript")
        else:
            self._serve(route, asked.post_data_buffer)

    def _serve(self, route: Route, body: bytes | None) -> None:
        asked = route.request
        if body is not None:
            assert asked.headers["authorization"] == f"Bearer {TOKEN}"
            self._check(Request.unpack(body))
        answer = self.service(httpx.Request(asked.method, asked.url, content=body))
        shown = {"access-control-allow-origin": ORIGIN, "access-control-expose-headers": "moiety-rounds"}
        route.fulfill(status=answer.status_code, headers=dict(answer.headers) | shown, body=answer.content)

    def _check(self, request: Request) -> None:
        expected = possession.thumbprint(self.holder.public_key().public_bytes_raw())
        for party, key in enumerate(self.service.keys):
            begun, _ = opened(key, request, self.service.entry.plan, party)
            possession.check(begun.proof, begun.statement(party, TOKEN), expected)
            self.proved += 1


@pytest.mark.parametrize("script", ["", WITHOUT_ED25519], ids=["as it is", "without Ed25519"])
def test_a_page_asks_and_keeps_nothing(
    node: Node, browser: Browser, party_keys: tuple[PrivateKey, PrivateKey], script: str
) -> None:
    site, x = Site(party_keys), plans.random_inputs(7)
    with browser.new_context() as context:
        page = context.new_page()
        page.route("**/*", site)
        page.add_init_script(script)
        page.goto(f"{ORIGIN}/")
        said: dict[str, Any] = page.evaluate(ASK, [site.access, (x / 16).tolist()])
        assert site.proved == 2 and said["rounds"] == 9
        scores = plans.scores(x) / 16
        assert said["labels"] == scores.argmax(axis=1).tolist()
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        np.testing.assert_allclose(said["outputs"], powers / powers.sum(axis=1, keepdims=True), atol=1e-12)
        assert not context.cookies() and _stored(page) == 0


def test_the_vectors_come_out_in_a_browser_too(node: Node, browser: Browser) -> None:
    """Its WebCrypto is not that of Node.js."""
    with inside(browser) as page:
        said: dict[str, Any] = page.evaluate(_RUN_VECTORS)
    assert said["failed"] == [] and said["count"] > 200


@pytest.mark.parametrize(("kind", "levels"), [("PNG", 0), ("BMP", 0), ("WEBP", 0), ("JPEG", 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_browser_decodes_pictures_as_the_python_client(
    node: Node, browser: Browser, kind: str, levels: int, channels: Literal[1, 3]
) -> None:
    """Of a JPEG, which decoders round in ways of their own, levels may differ by a few. It lies on its side, as EXIF
    says."""
    how = Preprocessing(channels=channels, size=(12, 10), mean=(0,) * channels, std=(1,) * channels, resize=13)
    file = io.BytesIO()
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6 if kind == "JPEG" else 1
    across = np.linspace(0, 255, 40)[None, :, None] * np.array([1, 0.5, 0]) + np.linspace(0, 90, 30)[:, None, None]
    Image.fromarray(np.minimum(across, 255).astype(np.uint8)).save(file, kind, lossless=True, quality=95, exif=turned)
    given = {"file": base64.b64encode(file.getvalue()).decode(), "how": how.model_dump(mode="json")}
    with inside(browser) as page:
        made = page.evaluate(_DECODE, given | {"count": channels * 120})
    expected = pictures.read(file.getvalue(), how)
    expected = expected.transpose(2, 0, 1) if channels == 3 else expected
    for source, found in made.items():
        assert np.abs(np.array(found) - expected.ravel()).max() <= levels, source
    assert set(made) == {"file", "bitmap", "canvas"} and np.ptp(expected) > 100


def test_a_file_that_is_no_picture_says_what_to_pass(node: Node, browser: Browser) -> None:
    with inside(browser) as page, pytest.raises(Error, match=r"InvalidInput.*pass PNG"):
        page.evaluate(_NO_PICTURE)


@contextmanager
def inside(browser: Browser) -> Iterator[Page]:
    """A page of which the site is this checkout."""
    imports = json.dumps({"imports": dict.fromkeys(_SHIMMED, "/client/js/test/browser.mjs")})

    def serve(route: Route) -> None:
        path = route.request.url.removeprefix(ORIGIN)
        file = PACKAGE.parents[1] / path[1:]
        if path == "/":
            route.fulfill(body=_VECTORS_PAGE.format(imports=imports), content_type="text/html")
        elif file.is_file():
            route.fulfill(path=file, content_type="application/json" if file.suffix == ".json" else "text/javascript")
        else:
            route.abort()  # or the page waits for ever

    with browser.new_context() as context:
        page = context.new_page()
        page.route("**/*", serve)
        page.goto(f"{ORIGIN}/")
        yield page


def _stored(page: Page) -> int:
    count: int = page.evaluate(
        "async () => localStorage.length + sessionStorage.length + (await indexedDB.databases()).length"
    )
    return count
