"""The messages of the Open Inference Protocol v2, with Triton's extensions for binary tensors and classification."""

from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moiety_shared.problems import Problem, ProblemType

Parameters = dict[str, bool | int | float | str]
HEADER_LENGTH = "inference-header-content-length"


class Message(BaseModel):
    """A message of the protocol. It ignores members that it does not know, as the protocol asks."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class RequestInput(Message):
    name: str = Field(description="a column's, for a model of a table; any name, for a model of one input")
    shape: Annotated[tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...], Field(max_length=8)]
    datatype: str = Field(
        description="UINT8: pictures, height x width or height x width x 3. BYTES: picture files, base64 in JSON. "
        "FP16, FP32, FP64 and the other integers: the model's own input. Of a column: these, BOOL, or BYTES, which are "
        "text then, in JSON too. Of a model of texts: BYTES, which are texts in JSON too, or integers, ids of tokens"
    )
    parameters: Parameters = Field({}, description="binary_data_size: how many bytes behind the JSON hold this tensor")
    data: list[Any] | None = Field(
        None, description="flat or nested; leave it out if the tensor is binary. Of a column, null is a missing value"
    )


class RequestOutput(Message):
    name: str
    parameters: Parameters = Field(
        {}, description="binary_data: true or false. classification: k, to get the k likeliest as VALUE:INDEX:NAME"
    )


class InferRequest(Message):
    id: str = ""
    parameters: Parameters = Field(
        {},
        description="binary_data_output: whether outputs are binary by default. columns: ignore, to leave out columns "
        "that a model of a table does not take",
    )
    inputs: tuple[RequestInput, ...] = Field(
        description="one input; for a model that takes several, one of each, by its name; for a model of a table, one "
        "for each column, or one of all columns"
    )
    outputs: tuple[RequestOutput, ...] = Field((), description="the wanted outputs; all if left out")


class ResponseOutput(Message):
    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: Parameters = {}
    data: list[Any] | None = None


class InferResponse(Message):
    model_name: str
    model_version: str
    id: str = ""
    parameters: Parameters = Field(
        {}, description="inverted: so many grey pictures had another polarity than the model's, and were inverted"
    )
    outputs: tuple[ResponseOutput, ...]


class TensorMetadata(Message):
    name: str
    datatype: str
    shape: tuple[int, ...] = Field(description="-1: any number of inputs")
    parameters: dict[str, Any] = Field(
        {},
        description="of an input: low and high, the range of its values; of a column, also what its owner declares, "
        "such as kind, unit, categories, and missing: refuse, flag or fill",
    )


class ModelMetadata(Message):
    name: str
    versions: tuple[str, ...]
    platform: str = "moiety"
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    parameters: dict[str, Any] = Field(
        {},
        description="task: classes, binary (one output tells two classes apart) or values. classes: their names. "
        "final: the function that the sidecar applies to the outputs. threshold: the second of two classes is above",
    )


class ServerMetadata(Message):
    name: str = "moiety"
    version: str
    extensions: tuple[str, ...]


class IndexEntry(Message):
    name: str
    version: str
    state: str
    reason: str = ""


class IndexRequest(Message):
    ready: bool = Field(False, description="list only the models that make predictions")


def parse(kind: type[Message], raw: bytes | memoryview) -> Any:
    """Parse a message of that kind. Raises Problem INVALID_INPUT, which names places in it and never their content."""
    try:
        return kind.model_validate_json(bytes(raw))
    except ValidationError as error:
        places = sorted({".".join(map(str, e["loc"])) or "the JSON" for e in error.errors(include_input=False)})
        raise Problem(ProblemType.INVALID_INPUT, f"check: {', '.join(places)}") from None


def describe(app: FastAPI) -> None:
    """Add the requests to the app's OpenAPI document. FastAPI does not know them, because the routes parse them."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for kind in (InferRequest, IndexRequest):
            schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[kind.__name__] = schema
        return document

    app.openapi = openapi  # type: ignore[method-assign]
