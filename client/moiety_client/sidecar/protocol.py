"""The Open Inference Protocol v2, as KServe and Triton speak it.

An application that asks such a server changes a URL, and its predictions are private.
"""

from importlib.metadata import version as installed
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, Request, Response

from moiety_client.errors import MoietyError
from moiety_client.sidecar import columns, outputs, pictures, tensors, texts
from moiety_client.sidecar.examples import INFER, INFER_BODY
from moiety_client.sidecar.messages import (
    HEADER_LENGTH,
    IndexEntry,
    IndexRequest,
    InferRequest,
    InferResponse,
    ModelMetadata,
    ServerMetadata,
    TensorMetadata,
    parse,
)
from moiety_client.sidecar.upstream import Upstream, check_version, problem_of
from moiety_shared.messages.catalogue import Entry
from moiety_shared.problems import Problem, ProblemType

_EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository")
_THREAD_BYTES = 1 << 18  # a thread reads larger bodies, so that the event loop does not wait


def routes(upstream: Upstream, decoding: CapacityLimiter) -> APIRouter:
    """Return the protocol's routes.

    `decoding` limits how many picture files are unpacked at once, because each takes up to half a gigabyte meanwhile.
    """
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"])
    models, versions = "/models/{name}", "/models/{name}/versions/{version}"

    @router.get("", summary="Name, version and extensions of this server")
    async def about() -> ServerMetadata:
        return ServerMetadata(version=installed("moiety"), extensions=_EXTENSIONS)

    @router.get("/health/live", summary="The sidecar answers")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready", summary="The model owner's catalogue can be read")
    async def ready() -> dict[str, bool]:
        await upstream.names()
        return {"ready": True}

    @router.get(models, summary="Inputs and outputs of a model")
    @router.get(versions, include_in_schema=False)
    async def metadata(name: str, version: str = "") -> ModelMetadata:
        return _metadata(await upstream.entry(name, version, refresh=True))

    @router.get(
        f"{models}/config", summary="Inputs and outputs of a model, in the form of Triton's model configuration"
    )
    @router.get(f"{versions}/config", include_in_schema=False)
    async def config(name: str, version: str = "") -> dict[str, Any]:
        return _config(await upstream.entry(name, version, refresh=True))

    @router.get(f"{models}/ready", summary="The parties are ready to answer requests for this model")
    @router.get(f"{versions}/ready", include_in_schema=False)
    async def model_ready(name: str, version: str = "") -> dict[str, Any]:
        entry = await upstream.entry(name, version, refresh=True)
        _check_predicts(entry)
        await upstream.check_ready(entry)
        return {"name": entry.name, "ready": True}

    @router.post(
        "/repository/index", summary="The published models and their states", openapi_extra=_takes("IndexRequest", {})
    )
    async def index(request: Request) -> list[IndexEntry]:
        wanted = parse(IndexRequest, await request.body() or b"{}")
        entries = [await upstream.entry(name, refresh=True) for name in await upstream.names()]
        listed = [_indexed(entry) for entry in entries]
        return [one for one in listed if one.state == "READY" or not wanted.ready]

    @router.post(
        f"{models}/infer",
        summary="A private prediction",
        description="The sidecar splits and seals the input on this machine. As in Triton's extension, binary tensors "
        f"may follow the JSON; `{HEADER_LENGTH}` then gives the length of the JSON.",
        response_model=InferResponse,
        openapi_extra=_takes("InferRequest", INFER_BODY) | {"x-codeSamples": INFER},
    )
    @router.post(f"{versions}/infer", include_in_schema=False, response_model=InferResponse)
    async def infer(name: str, request: Request, version: str = "") -> Response:
        body, header_length = await request.body(), request.headers.get(HEADER_LENGTH)
        entry = await upstream.entry(name, version)
        if len(body) > _THREAD_BYTES:
            asked, array = await anyio.to_thread.run_sync(_read, body, header_length, entry)
        else:
            asked, array = _read(body, header_length, entry)
        if isinstance(array, list):  # picture files: a small file may hold a large picture
            array = await anyio.to_thread.run_sync(pictures.decode_all, array, entry, limiter=decoding)
        array, inverted = pictures.aligned(array, entry)
        try:
            ignored = asked.parameters.get("columns") == "ignore"
            answer = await upstream.predict(name, array, columns="ignore" if ignored else "strict")
        except MoietyError as error:
            raise problem_of(error) from error
        entry = await upstream.entry(name)  # the owner may have published it anew meanwhile
        check_version(entry, version)
        binary = asked.parameters.get("binary_data_output") is True
        parts = [outputs.made(entry, answer, *pair, binary) for pair in outputs.chosen(entry, asked.outputs)]
        return _response(
            InferResponse(
                model_name=name,
                model_version=str(entry.version),
                id=asked.id,
                parameters={"inverted": inverted} if inverted else {},
                outputs=tuple(output for output, _ in parts),
            ),
            [raw for output, raw in parts if output.data is None],
        )

    return router


def _read(body: bytes, header_length: str | None, entry: Entry) -> tuple[InferRequest, Any]:
    text, binary = tensors.cut(body, header_length)
    asked: InferRequest = parse(InferRequest, text)
    outputs.chosen(entry, asked.outputs)  # refuses unknown outputs before anything is computed
    if entry.table is not None and asked.inputs:
        return asked, columns.read(asked.inputs, binary, entry.table)
    if entry.tokens is not None:
        return asked, texts.read(asked.inputs, binary)
    if entry.plan.input.parts:
        return asked, tensors.read_all(asked.inputs, binary)
    if len(asked.inputs) != 1:
        raise tensors.refused("check: inputs: the model takes one")
    return asked, tensors.read(asked.inputs[0], binary)


def _response(answer: InferResponse, behind: list[bytes]) -> Response:
    text = answer.model_dump_json(exclude_defaults=True).encode()
    if not behind:
        return Response(text, media_type="application/json")
    return Response(
        b"".join((text, *behind)), headers={HEADER_LENGTH: str(len(text))}, media_type="application/octet-stream"
    )


def _check_predicts(entry: Entry) -> None:
    if entry.plan.output.kind == "count":
        raise Problem(ProblemType.INVALID_INPUT, "the model only counts right answers and makes no predictions")


def _inputs(entry: Entry) -> tuple[TensorMetadata, ...]:
    """Describe each of a model's inputs. A model of one input takes it under any name."""
    if entry.table is not None:
        return columns.metadata(entry.table)
    if entry.tokens is not None:
        return texts.metadata(entry.tokens)
    takes = entry.plan.input
    parts = [(part.name, part.shape, part.low, part.high) for part in takes.parts]
    return tuple(
        TensorMetadata(name=name, datatype="FP32", shape=(-1, *shape), parameters={"low": low, "high": high})
        for name, shape, low, high in parts or [("input", takes.shape, takes.low, takes.high)]
    )


def _metadata(entry: Entry) -> ModelMetadata:
    return ModelMetadata(
        name=entry.name,
        versions=(str(entry.version),),
        inputs=_inputs(entry),
        outputs=tuple(
            TensorMetadata(name=o.name, datatype=o.datatype, shape=(-1, *o.shape)) for o in outputs.given(entry)
        ),
        parameters=_meaning(entry),
    )


def _meaning(entry: Entry) -> dict[str, Any]:
    """Say what a client must know to read the outputs."""
    output = entry.plan.output
    meaning: dict[str, Any] = {"task": output.task, "final": output.final}
    if output.task != "values" and entry.classes:
        meaning["classes"] = list(entry.classes)
    if output.task == "binary" and output.kind == "logits":
        meaning["threshold"] = output.threshold
    return meaning


def _config(entry: Entry) -> dict[str, Any]:
    def tensor(name: str, datatype: str, shape: tuple[int, ...]) -> dict[str, Any]:
        kind = "STRING" if datatype == tensors.BYTES else datatype  # Triton's configurations call it so
        return {"name": name, "data_type": f"TYPE_{kind}", "dims": list(shape)}

    return {
        "name": entry.name,
        "platform": "moiety",
        "backend": "moiety",
        "max_batch_size": entry.max_rows,
        "input": [tensor(one.name, one.datatype, one.shape[1:] or (1,)) for one in _inputs(entry)],
        "output": [tensor(o.name, o.datatype, o.shape or (1,)) for o in outputs.given(entry)],
    }


def _indexed(entry: Entry) -> IndexEntry:
    if entry.plan.output.kind == "count":
        reason = "it only counts right answers"
        return IndexEntry(name=entry.name, version=str(entry.version), state="UNAVAILABLE", reason=reason)
    return IndexEntry(name=entry.name, version=str(entry.version), state="READY")


def _takes(kind: str, example: dict[str, Any]) -> dict[str, Any]:
    content = {"schema": {"$ref": f"#/components/schemas/{kind}"}, "example": example}
    return {"requestBody": {"content": {"application/json": content}}}
