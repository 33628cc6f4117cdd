"""What an app's OpenAPI document says of failures: every operation may answer with a problem document."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from moiety_shared.problems import PROBLEM_JSON, ProblemType

_TEXT = {"type": "string"}
_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457.",
    "type": "object",
    "properties": {
        "type": {"enum": [kind.urn for kind in ProblemType]},
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "hint": _TEXT,
        "error": _TEXT,
        "instance": _TEXT,
    },
    "required": ["type", "title", "status", "detail", "hint", "error", "instance"],
}
_RETRY_AFTER = {"retry-after": {"description": "Seconds.", "required": True, "schema": {"type": "integer"}}}


def document_problems(app: FastAPI) -> None:
    """Have the OpenAPI document of `app` list every problem's status and schema for every operation."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_problems(
                get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _with_problems(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = _SCHEMA
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own errors, which no service sends
        schemas.pop(unused, None)
    for path in document.get("paths", {}).values():
        for operation in path.values():
            operation["responses"] |= _responses()
    return document


def _responses() -> dict[str, Any]:
    by_status: dict[int, list[ProblemType]] = {}
    for kind in ProblemType:
        by_status.setdefault(kind.status, []).append(kind)
    return {str(status): _response(status, kinds) for status, kinds in sorted(by_status.items())}


def _response(status: int, kinds: list[ProblemType]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": "; ".join(kind.title for kind in kinds),
        "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    return response | ({"headers": _RETRY_AFTER} if status == 503 else {})
