"""What the page shows: one private prediction with its shares, envelopes, bytes and times. All belong to that one call.

The sidecar or alice counted or timed `measured` in the call. `formula` is what the public plan says that a run takes.
"""

import base64
import re
import time
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

import anyio.to_thread
import httpx
import numpy as np
import numpy.typing as npt
from anyio import CapacityLimiter
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from moiety_client import inputs
from moiety_client.answers import Prediction
from moiety_client.errors import MoietyError
from moiety_client.exchange import Call
from moiety_client.sidecar import outputs, pictures
from moiety_client.sidecar.examples import SHOW
from moiety_client.sidecar.upstream import Upstream, problem_of
from moiety_service.http import clients
from moiety_shared.crypto.handshake import SEALED_BYTES
from moiety_shared.fixed_point import RingArray
from moiety_shared.messages import wire
from moiety_shared.messages.catalogue import Entry
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType

_PATIENCE = 5.0  # seconds: somebody sits in front of the page and waits
_GLIMPSE = 48
_LISTED = 10


class Size(BaseModel):
    height: int
    width: int
    channels: int


class Shown(BaseModel):
    """A model of the catalogue, for the page to choose from."""

    name: str
    version: int
    description: str
    gives: Literal["logits", "labels", "count"]
    picture: Size | None = Field(description="what pictures are made into; null: the model takes numbers")
    classes: int
    rounds: int
    parties: tuple[str, str]


class Class(BaseModel):
    name: str
    confidence: float | None = Field(description="null where the model tells classes alone")


class PartyView(BaseModel):
    name: str
    url: str
    share: str = Field(description="the highest byte of each ring element, as the picture is laid out; base64")
    envelope_bytes: int = Field(description="what was sent for this party, sealed")
    envelope: str = Field(description="how its content begins, in hexadecimal; a handshake precedes it")
    result_bytes: int = Field(description="its sealed share of the answer")
    result: str


class ScheduledRound(BaseModel):
    bytes: int = Field(description="what each party sends the other")
    layers: tuple[str, ...]


class Measured(BaseModel):
    seal_ms: float
    exchange_ms: float = Field(description="from the upload's first byte to the answer's last")
    rounds_ms: float | None = Field(description="of these, alice's rounds with bob, by her clock")
    open_ms: float
    upload_bytes: int
    download_bytes: int
    rounds: int
    online_bytes: int = Field(description="what each party sent the other")


class Shows(BaseModel):
    model: str
    version: int
    size: Size
    pixels: str = Field(description="the picture as the model takes it, row by row, base64")
    label: str
    top: list[Class]
    parties: tuple[PartyView, PartyView]
    measured: Measured
    formula: list[ScheduledRound]


def routes(upstream: Upstream, decoding: CapacityLimiter) -> APIRouter:
    """Return the routes that the page asks. `decoding` limits how many picture files are unpacked at once."""
    router = APIRouter(prefix="/v1", tags=["Page"])

    @router.get("/models", summary="The published models, for people to choose from")
    async def models() -> list[Shown]:
        return [_listed(await upstream.entry(name, refresh=True)) for name in await upstream.names()]

    @router.post(
        "/show/{name}",
        summary="A private prediction for one picture file, and what alice and bob got of it",
        openapi_extra={
            "requestBody": {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
            "x-codeSamples": SHOW,
        },
    )
    async def show(
        name: str,
        request: Request,
        invert: Annotated[
            bool, Query(description="the picture is dark on light, the model wants light on dark")
        ] = False,
    ) -> Shows:
        raw = await request.body()
        for last in (False, True):  # the owner may have published the model anew since its entry was read
            entry = await upstream.entry(name, refresh=last)
            how = pictures.preprocessing(entry)
            pixels = await anyio.to_thread.run_sync(partial(pictures.decode, raw, how, invert=invert), limiter=decoding)
            try:
                return await _ask(upstream, entry, pixels)
            except Problem as problem:
                if last or problem.kind is not ProblemType.UNKNOWN_MODEL:
                    raise
            except MoietyError as error:
                raise problem_of(error) from error
        raise Problem(ProblemType.UNKNOWN_MODEL)

    return router


async def _ask(upstream: Upstream, entry: Entry, pixels: npt.NDArray[np.uint8]) -> Shows:
    times = [time.perf_counter()]
    call = upstream.sealer(entry).call(inputs.encode(entry, pixels))
    times.append(time.perf_counter())
    response = await upstream.exchange(call, _PATIENCE)
    times.append(time.perf_counter())
    values = call.open(response.content)
    times.append(time.perf_counter())
    seal, exchange, opening = (round((end - start) * 1e3, 3) for start, end in pairwise(times))
    measured = Measured(
        seal_ms=seal,
        exchange_ms=exchange,
        rounds_ms=_rounds_ms(response),
        open_ms=opening,
        upload_bytes=len(call.body),
        download_bytes=len(response.content),
        rounds=clients.count(response, "moiety-rounds"),
        online_bytes=clients.count(response, "moiety-online-bytes"),
    )
    answer = Prediction(
        entry.plan.output, values, entry.classes, measured.rounds, measured.online_bytes, times[-1] - times[0]
    )
    return Shows(
        model=entry.name,
        version=entry.version,
        size=_size(entry),
        pixels=_base64(pixels),
        label=answer.names[0],
        top=_top(entry, answer),
        parties=_parties(entry, call, response.content),
        measured=measured,
        formula=schedule(entry.plan),
    )


def schedule(plan: Plan) -> list[ScheduledRound]:
    """Return what the plan says each party sends in each round of a run of one input.

    Layers that do not depend on each other share rounds.
    """
    sent: list[int] = [0] * plan.rounds
    layers: list[list[str]] = [[] for _ in sent]
    for layer in plan.layers:
        for at, count in zip(plan.schedule[layer.name], layer.openings(plan.ring_bits, 1), strict=True):
            sent[at] += count
            layers[at].append(layer.name if layer.op in layer.name else f"{layer.name} ({layer.op})")
    return [ScheduledRound(bytes=count, layers=tuple(names)) for count, names in zip(sent, layers, strict=True)]


def _listed(entry: Entry) -> Shown:
    return Shown(
        name=entry.name,
        version=entry.version,
        description=entry.description,
        gives=entry.plan.output.kind,
        picture=_size(entry) if entry.preprocessing else None,
        classes=len(entry.classes),
        rounds=entry.plan.rounds,
        parties=(entry.parties[0].url, entry.parties[1].url),
    )


def _size(entry: Entry) -> Size:
    how = pictures.preprocessing(entry)
    return Size(height=how.size[0], width=how.size[1], channels=how.channels)


def _top(entry: Entry, answer: Prediction) -> list[Class]:
    """Return the likeliest classes, with probabilities if the model gives out scores for its classes."""
    tells = any(given.name == "confidence" for given in outputs.given(entry))
    scores = outputs.confidence(entry, answer)[0] if tells else None
    return [
        Class(
            name=entry.classes[index] if entry.classes else str(index),
            confidence=None if scores is None else float(scores[index]),
        )
        for index in answer.top[0][:_LISTED].tolist()
    ]


def _parties(entry: Entry, call: Call, answer: bytes) -> tuple[PartyView, PartyView]:
    envelopes = wire.Request.unpack(call.body).envelopes
    results = wire.unpack_result(answer, call.binding.request_id, entry.plan, call.rows)
    shares = (call.alice_share, call.bob_share())
    alice, bob = (
        PartyView(
            name=party.name,
            url=party.url,
            share=_drawn(entry, share),
            envelope_bytes=len(envelope),
            envelope=bytes(envelope[SEALED_BYTES : SEALED_BYTES + _GLIMPSE]).hex(),
            result_bytes=len(result),
            result=bytes(result[:_GLIMPSE]).hex(),
        )
        for party, share, envelope, result in zip(entry.parties, shares, envelopes, results, strict=True)
    )
    return alice, bob


def _drawn(entry: Entry, share: RingArray) -> str:
    """Draw a share as a picture of the highest byte of each ring element."""
    size = _size(entry)
    bits = share.dtype.itemsize * 8
    highest = (share.view(np.dtype(f"<u{bits // 8}")) >> (bits - 8)).astype(np.uint8)
    return _base64(np.moveaxis(highest.reshape(size.channels, size.height, size.width), 0, -1))


def _rounds_ms(response: httpx.Response) -> float | None:
    """Return how long alice's rounds took, or None for a repeated request: she has its answer and runs no rounds."""
    found = re.search(r"rounds;dur=([0-9]{1,9}(?:\.[0-9]{1,9})?)(?![0-9.])", response.headers.get("server-timing", ""))
    return float(found[1]) if found and float(found[1]) > 0 else None


def _base64(array: npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(array.tobytes()).decode()
