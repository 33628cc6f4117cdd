"""The client's sidecar: plain REST on the client's own machine, private predictions behind it.

Paths and bodies follow the Open Inference Protocol v2 (KServe, Triton), JSON form. It listens on loopback: what
arrives here is plaintext, and it is split and sealed before it leaves.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI
from pydantic import Field

from moiety_client.answers import Prediction
from moiety_client.client import AsyncClient
from moiety_client.errors import FromProblem, InvalidInput, MoietyError, UnknownModel
from moiety_client.settings import ClientSettings
from moiety_shared.layers import Public
from moiety_shared.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service.app import create_app

_MAX_BODY = 1 << 26
Datatype = Literal["INT64", "FP64", "BYTES"]
_VALUES: dict[str, Callable[[Prediction], npt.NDArray[Any]]] = {
    "label": lambda answer: answer.labels,
    "labels": lambda answer: answer.labels,
    "top": lambda answer: answer.top,
    "output": lambda answer: answer.outputs,
}
_DTYPES = {"UINT8": np.uint8, "FP32": np.float32, "FP64": np.float64}


class Tensor(Public):
    """One tensor of the protocol, its data flat or nested."""

    name: str
    shape: tuple[Annotated[int, Field(gt=0)], ...]
    datatype: Literal["UINT8", "FP32", "FP64"]
    data: list[Any]


class InferRequest(Public):
    id: str = ""
    inputs: tuple[Tensor] = Field(description="exactly one: pictures (UINT8) or the model's input (FP32, FP64)")


class Output(Public):
    name: str
    shape: tuple[int, ...]
    datatype: Datatype
    data: list[Any]


class InferResponse(Public):
    model_name: str
    model_version: str
    id: str
    outputs: tuple[Output, ...]


def build(settings: ClientSettings) -> FastAPI:
    client = AsyncClient.from_access(settings.access_file, timeout=settings.timeout)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        await client.close()

    app = create_app("client sidecar", lifespan=lifespan, body_limit=lambda _: _MAX_BODY)

    @app.get("/v2", tags=["v2"], summary="What this server is")
    async def about() -> dict[str, Any]:
        return {"name": "moiety", "version": "0.1.0", "extensions": []}

    @app.get("/v2/models/{name}", tags=["v2"], summary="Inputs and outputs of a model")
    async def metadata(name: str) -> dict[str, Any]:
        try:
            entry = await client.model(name)
        except MoietyError as error:
            raise _problem(error) from error
        shape = list(entry.plan.input.shape)
        return {
            "name": entry.name,
            "versions": [str(entry.version)],
            "platform": "moiety",
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, *shape]}],
            "outputs": [{"name": n, "datatype": t, "shape": [-1, *s]} for n, t, s in _outputs(entry.plan)],
        }

    @app.post("/v2/models/{name}/infer", tags=["v2"], summary="A private prediction")
    async def infer(name: str, body: InferRequest) -> InferResponse:
        tensor = body.inputs[0]
        try:
            array = np.asarray(tensor.data, dtype=_DTYPES[tensor.datatype]).reshape(tensor.shape)
        except (ValueError, TypeError, OverflowError):
            raise Problem(ProblemType.INVALID_INPUT, "the data do not fit the shape and datatype given") from None
        try:
            answer = await client.predict(name, array)
            entry = await client.model(name)
        except MoietyError as error:
            raise _problem(error) from error
        tensors = ((n, t, _VALUES[n](answer)) for n, t, _ in _outputs(entry.plan))
        return InferResponse(
            model_name=name,
            model_version=str(entry.version),
            id=body.id,
            outputs=tuple(
                Output(name=n, shape=values.shape, datatype=t, data=values.ravel().tolist()) for n, t, values in tensors
            ),
        )

    return app


def _outputs(plan: Plan) -> tuple[tuple[str, Datatype, tuple[int, ...]], ...]:
    """Name, type and shape of each output of a model. One that counts right answers is not for this protocol."""
    match plan.output.kind:
        case "logits":
            return ("label", "INT64", ()), ("output", "FP64", plan.output.shape)
        case "labels":
            return ("labels", "INT64", ()), ("top", "INT64", (plan.output.top,))
    return ()


def _problem(error: MoietyError) -> Problem:
    if isinstance(error, FromProblem):
        return error.problem
    if isinstance(error, InvalidInput):
        return Problem(ProblemType.INVALID_INPUT, str(error))
    if isinstance(error, UnknownModel):
        return Problem(ProblemType.UNKNOWN_MODEL)
    return Problem(ProblemType.PEER_UNAVAILABLE, str(error))
