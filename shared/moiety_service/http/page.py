"""The web page that asks a model: one page for a client's sidecar and for the owner's catalogue.

Each has a folder of its own, served below `/web/own/`. Its `asking.js` lists the models and asks one. The page loads
nothing from other sites.
"""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from starlette.datastructures import MutableHeaders
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moiety_shared.plan.plan import Plan

WEB = Path(__file__).parents[1] / "web"
ASK_AGAIN = {"cache-control": "no-cache"}


class ScheduledRound(BaseModel):
    bytes: int = Field(description="bytes that each party sends the other")
    layers: tuple[str, ...]


def schedule(plan: Plan) -> list[ScheduledRound]:
    """Return what the plan says each party sends in each round of a run of one input.

    Layers that do not depend on each other share rounds. A plan tells what a verified run sends only in all: of one
    that is verified, the list is empty.
    """
    if plan.verified:
        return []
    sent: list[int] = [0] * plan.rounds
    layers: list[list[str]] = [[] for _ in sent]
    for layer in plan.layers:
        for at, count in zip(plan.schedule[layer.name], layer.openings(plan.ring_bits, 1), strict=True):
            sent[at] += count
            layers[at].append(layer.name if layer.op in layer.name else f"{layer.name} ({layer.op})")
    return [ScheduledRound(bytes=count, layers=tuple(names)) for count, names in zip(sent, layers, strict=True)]


def safety(*asked: str) -> dict[str, str]:
    """Return the headers that keep a page to itself. It may send requests to its own origin, and to those `asked`."""
    reached = " ".join(("'self'", *asked))
    return {
        "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: "
        f"data:; connect-src {reached}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }


def with_headers(app: ASGIApp, headers: dict[str, str]) -> ASGIApp:
    """Return the app with these headers in each answer."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await app(scope, receive, answer)

    return answering


def serve(app: FastAPI, own: Path, headers: dict[str, str]) -> None:
    """Serve the page at `/`, and its files below `/web/`, those of the folder `own` among them."""

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(WEB / "index.html", headers=ASK_AGAIN | headers)

    for place, folder in (("/web/own", own), ("/web", WEB)):  # the first that fits a path answers
        app.mount(place, with_headers(StaticFiles(directory=folder), ASK_AGAIN | headers))
