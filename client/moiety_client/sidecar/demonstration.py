"""What the page shows: one private prediction with its shares, envelopes, bytes and times. All belong to that one call.

The sidecar or alice counted or timed `measured` in the call. `formula` is what the public plan says that a run takes.
"""

import base64
import re
import time
from itertools import pairwise
from typing import Annotated, Literal

import anyio.to_thread
import httpx
import numpy as np
import numpy.typing as npt
from anyio import CapacityLimiter
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from moiety_client.answers import Prediction
from moiety_client.errors import MoietyError
from moiety_client.exchange import Call
from moiety_client.sidecar import questions
from moiety_client.sidecar.examples import SHOW
from moiety_client.sidecar.questions import FormField, Question, Size
from moiety_client.sidecar.upstream import Upstream, problem_of
from moiety_service.http import clients
from moiety_service.http.page import ScheduledRound, schedule
from moiety_shared.crypto.handshake import SEALED_BYTES
from moiety_shared.fixed_point import RingArray
from moiety_shared.messages import wire
from moiety_shared.messages.catalogue import Entry, Preprocessing
from moiety_shared.plan.plan import Task
from moiety_shared.problems import Problem, ProblemType

_PATIENCE = 5.0  # seconds: somebody sits in front of the page and waits
_GLIMPSE = 48
_LISTED = 10


class Shown(BaseModel):
    """A model of the catalogue, for the page to choose from."""

    name: str
    version: int
    description: str
    gives: Literal["logits", "labels", "decision", "count"]
    task: Task
    picture: Size | None = Field(description="size of the pictures that the model takes; null if it takes none")
    columns: list[FormField] | None = Field(description="the columns of a model of a table; null of any other model")
    classes: int
    rounds: int
    parties: tuple[str, str]


class Class(BaseModel):
    name: str
    confidence: float | None = Field(description="null if the model gives no probabilities")


class PartyView(BaseModel):
    name: str
    url: str
    share: str = Field(description="the highest byte of each ring element, in the order of the pixels, base64")
    envelope_bytes: int = Field(description="bytes that the sidecar sealed for this party and sent")
    envelope: str = Field(description="the first bytes of its content, in hexadecimal; a handshake precedes them")
    result_bytes: int = Field(description="bytes of this party's sealed share of the answer")
    result: str


class Measured(BaseModel):
    seal_ms: float
    exchange_ms: float = Field(description="from the first byte of the upload to the last byte of the answer")
    rounds_ms: float | None = Field(
        description="the part of exchange_ms that alice's rounds with bob took, by her clock"
    )
    open_ms: float
    upload_bytes: int
    download_bytes: int
    rounds: int
    online_bytes: int = Field(description="bytes that each party sent the other")


class Shows(BaseModel):
    model: str
    version: int
    size: Size
    pixels: str = Field(description="the input as the model takes it, as a picture, row by row, base64")
    inverted: bool = Field(description="whether dark and light of the picture were swapped")
    label: str = Field(description="the likeliest class, or what the model gives if it gives values")
    top: list[Class] = Field(description="the likeliest classes; none if the model gives values")
    parties: tuple[PartyView, PartyView]
    measured: Measured
    formula: list[ScheduledRound]


def routes(upstream: Upstream, decoding: CapacityLimiter) -> APIRouter:
    """Return the routes that the page asks. `decoding` limits how many picture files are unpacked at once."""
    router = APIRouter(prefix="/v1", tags=["Page"])

    @router.get("/models", summary="The published models, as the page lists them")
    async def models() -> list[Shown]:
        return [_listed(await upstream.entry(name, refresh=True)) for name in await upstream.names()]

    @router.post(
        "/show/{name}",
        summary="A private prediction for one picture file or one row of a table, and what alice and bob saw",
        openapi_extra={
            "requestBody": {
                "content": {
                    "image/*": {"schema": {"type": "string", "format": "binary"}},
                    "application/json": {"schema": {"type": "object", "description": "a value for each column"}},
                }
            },
            "x-codeSamples": SHOW,
        },
    )
    async def show(
        name: str,
        request: Request,
        invert: Annotated[
            bool | None,
            Query(description="swap dark and light. Default: where a picture's polarity is not the one of the model"),
        ] = None,
    ) -> Shows:
        raw = await request.body()
        for last in (False, True):  # the owner may have published the model anew since its entry was read
            entry = await upstream.entry(name, refresh=last)
            question = await anyio.to_thread.run_sync(questions.read, raw, entry, invert, limiter=decoding)
            try:
                return await _ask(upstream, entry, question)
            except Problem as problem:
                if last or problem.kind is not ProblemType.UNKNOWN_MODEL:
                    raise
            except MoietyError as error:
                raise problem_of(error) from error
        raise Problem(ProblemType.UNKNOWN_MODEL)

    return router


async def _ask(upstream: Upstream, entry: Entry, question: Question) -> Shows:
    times = [time.perf_counter()]
    call = upstream.sealer(entry).call(question.elements(entry))
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
        size=questions.size(entry),
        pixels=_base64(question.pixels),
        inverted=question.inverted,
        label=told(answer),
        top=_top(answer),
        parties=_parties(entry, call, response.content),
        measured=measured,
        formula=schedule(entry.plan),
    )


def _listed(entry: Entry) -> Shown:
    return Shown(
        name=entry.name,
        version=entry.version,
        description=entry.description,
        gives=entry.plan.output.kind,
        task=entry.plan.output.task,
        picture=questions.size(entry) if isinstance(entry.preprocessing, Preprocessing) else None,
        columns=[FormField.of(column) for column in entry.table.columns] if entry.table else None,
        classes=len(entry.classes),
        rounds=entry.plan.rounds,
        parties=(entry.parties[0].url, entry.parties[1].url),
    )


def told(answer: Prediction) -> str:
    """Return what to show first of an answer: the likeliest class, or the values, as text."""
    if answer.output.task != "values":
        return answer.names[0]
    values = answer.outputs[0].ravel().tolist()
    return ", ".join(f"{value:.4g}" for value in values[:_LISTED]) + (", ..." if len(values) > _LISTED else "")


def _top(answer: Prediction) -> list[Class]:
    """Return the likeliest classes, with probabilities if the model has them, or none of a model that gives values."""
    if answer.output.task == "values":
        return []
    sure = answer.probabilities[0].tolist() if answer.output.has_probabilities else None
    return [
        Class(name=answer.name(index), confidence=None if sure is None else sure[index])
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
    size = questions.size(entry)
    bits = share.dtype.itemsize * 8
    highest = (share.view(np.dtype(f"<u{bits // 8}")) >> (bits - 8)).astype(np.uint8)
    return _base64(np.moveaxis(highest.reshape(size.channels, size.height, size.width), 0, -1))


def _rounds_ms(response: httpx.Response) -> float | None:
    """Return how long alice's rounds took, or None for a repeated request: she has its answer and runs no rounds."""
    found = re.search(r"rounds;dur=([0-9]{1,9}(?:\.[0-9]{1,9})?)(?![0-9.])", response.headers.get("server-timing", ""))
    return float(found[1]) if found and float(found[1]) > 0 else None


def _base64(array: npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(array.tobytes()).decode()
