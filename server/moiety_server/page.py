"""The owner's public page: visitors ask the models, and their browser splits, seals and opens.

`web/client.js` is the bundle of `client/js`, made anew by `make page`; a test holds it to its sources. Whoever serves a
page's code is trusted by its visitors: docs/security.md says what follows from that.
"""

from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI

from moiety_server.catalogue import Catalogue
from moiety_service.http import page
from moiety_service.http.page import ScheduledRound

_OWN = Path(__file__).parent / "web"


def serve(app: FastAPI, catalogue: Catalogue, alice_url: str) -> None:
    """Serve the page at `/`, its files below `/web/`, and for each model what its rounds send."""
    alice = urlsplit(alice_url)

    @app.get("/page/rounds/{name}", include_in_schema=False)
    def rounds(name: str) -> list[ScheduledRound]:
        return page.schedule(catalogue.get(name).entry.plan)

    page.serve(app, _OWN, page.safety(f"{alice.scheme}://{alice.netloc}"))
