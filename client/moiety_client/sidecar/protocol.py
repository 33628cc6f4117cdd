"""The Open Inference Protocol v2, as KServe and Triton speak it.

An application that asks such a server changes a URL, and its predictions are private.
"""

from importlib.metadata import version as installed
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, Request, Response

from moiety_client.errors import MoietyError
from moiety_client.sidecar import outputs, pictures, tensors
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

    @router.get("", summary="What this server is")
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

    @router.get(f"{models}/config", summary="The same, as Triton writes it in a model's configuration")
    @router.get(f"{versions}/config", include_in_schema=False)
    async def config(name: str, version: str = "") -> dict[str, Any]:
        return _config(await upstream.entry(name, version, refresh=True))

    @router.get(f"{models}/ready", summary="The parties would take a request for this model now")
    @router.get(f"{versions}/ready", include_in_schema=False)
    async def model_ready(name: str, version: str = "") -> dict[str, Any]:
        entry = await upstream.entry(name, version, refresh=True)
        _check_predicts(entry)
        await upstream.check_ready(entry)
        return {"name": entry.name, "ready": True}

    @router.post("/repository/index", summary="The models", openapi_extra=_takes("IndexRequest", {}))
    async def index(request: Request) -> list[IndexEntry]:
        wanted = parse(IndexRequest, await request.body() or b"{}")
        entries = [await upstream.entry(name, refresh=True) for name in await upstream.names()]
        listed = [_indexed(entry) for entry in entries]
        return [one for one in listed if one.state == "READY" or not wanted.ready]

    @router.post(
        f"{models}/infer",
        summary="A private prediction",
        description="The input is split and sealed here. Behind the JSON there may be binary tensors, as Triton's "
        f"extension has them: then `{HEADER_LENGTH}` says how long the JSON is.",
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
        try:
            answer = await upstream.predict(name, array)
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
                outputs=tuple(output for output, _ in parts),
            ),
            [raw for output, raw in parts if output.data is None],
        )

    return router


def _read(body: bytes, header_length: str | None, entry: Entry) -> tuple[InferRequest, Any]:
    text, binary = tensors.cut(body, header_length)
    asked: InferRequest = parse(InferRequest, text)
    outputs.chosen(entry, asked.outputs)  # refuses unknown outputs before anything is computed
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
        raise Problem(ProblemType.INVALID_INPUT, "the model only counts right answers, and makes no predictions")


def _metadata(entry: Entry) -> ModelMetadata:
    return ModelMetadata(
        name=entry.name,
        versions=(str(entry.version),),
        inputs=(TensorMetadata(name="input", datatype="FP32", shape=(-1, *entry.plan.input.shape)),),
        outputs=tuple(
            TensorMetadata(name=o.name, datatype=o.datatype, shape=(-1, *o.shape)) for o in outputs.given(entry)
        ),
    )


def _config(entry: Entry) -> dict[str, Any]:
    def tensor(name: str, datatype: str, shape: tuple[int, ...]) -> dict[str, Any]:
        return {"name": name, "data_type": f"TYPE_{datatype}", "dims": list(shape)}

    return {
        "name": entry.name,
        "platform": "moiety",
        "backend": "moiety",
        "max_batch_size": entry.max_rows,
        "input": [tensor("input", "FP32", entry.plan.input.shape)],
        "output": [tensor(o.name, o.datatype, o.shape or (1,)) for o in outputs.given(entry)],
    }


def _indexed(entry: Entry) -> IndexEntry:
    if entry.plan.output.kind == "count":
        reason = "counts right answers and predicts nothing"
        return IndexEntry(name=entry.name, version=str(entry.version), state="UNAVAILABLE", reason=reason)
    return IndexEntry(name=entry.name, version=str(entry.version), state="READY")


def _takes(kind: str, example: dict[str, Any]) -> dict[str, Any]:
    content = {"schema": {"$ref": f"#/components/schemas/{kind}"}, "example": example}
    return {"requestBody": {"content": {"application/json": content}}}
