"""OpenAPI documents of services as Markdown."""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]


def operations(document: Schema, websockets: list[tuple[str, str]]) -> str:
    """Every operation with what it takes and gives. `websockets` are (path, sentence)."""
    lines: list[str] = []
    for path, found in document["paths"].items():
        for method, operation in found.items():
            lines += _operation(method.upper(), path, operation)
    for path, sentence in websockets:
        lines += [f"### WebSocket `{path}`", sentence]
    return "\n\n".join(lines)


def schemas(documents: list[Schema]) -> str:
    """Every schema that an operation names, once. Raises ValueError where two documents differ in one."""
    known: dict[str, Schema] = {}
    for document in documents:
        declared = document.get("components", {}).get("schemas", {})
        for name in _reachable(document["paths"], declared):
            if known.setdefault(name, declared[name]) != declared[name]:
                raise ValueError(f"two services mean different things by {name}")
    return "\n\n".join(line for name in sorted(known) for line in _described(name, known[name]))


def _operation(method: str, path: str, operation: Schema) -> Iterator[str]:
    yield f"### `{method} {path}`"
    description = operation.get("description", "")
    yield f"{operation['summary']}." + (f" {description}" if description else "")
    if "security" in operation:
        alternatives = operation["security"]
        yield (
            "Credential: a bearer, or none where the model is open." if {} in alternatives else "Credential: a bearer."
        )
    parameters = [one for one in operation.get("parameters", []) if one["in"] != "cookie"]
    if parameters:
        rows = [
            f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} | {_cell(one.get('description', ''))} |"
            for one in parameters
        ]
        yield "\n".join(["| parameter | in | type | meaning |", "|---|---|---|---|", *rows])
    facts = [f"- Takes {_content(operation['requestBody']['content'])}"] if "requestBody" in operation else []
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            facts.append(f"- Answers {status}: {_content(response.get('content', {}))}")
    yield "\n".join(facts)


def _content(content: Schema) -> str:
    kinds = [f"`{kind}`" + _after(_type(one.get("schema", {}))) for kind, one in content.items()]
    return ", or ".join(kinds) or "an empty body, or bytes"


def _after(text: str) -> str:
    return f", {text}" if text else ""


def _described(name: str, schema: Schema) -> Iterator[str]:
    yield f"### {name}"
    if schema.get("description"):
        yield _prose(schema["description"])
    if "enum" in schema:
        yield _type(schema)
    members = schema.get("properties", {})
    if members:
        required = schema.get("required", [])
        rows = [
            f"| `{member}`{'' if member in required else ' (optional)'} | {_type(of)} "
            f"| {_cell(of.get('description', ''))} |"
            for member, of in members.items()
        ]
        yield "\n".join(["| member | type | meaning |", "|---|---|---|", *rows])


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for alternatives in ("anyOf", "oneOf"):
        if alternatives in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[alternatives]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    kind = schema.get("type", "")
    if kind == "array":
        return _array(schema)
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return kind if isinstance(kind, str) else " or ".join(kind)


def _array(schema: Schema) -> str:
    items = schema.get("prefixItems")
    if items:
        return "list of " + ", ".join(dict.fromkeys(_type(one) for one in items)) + f" ({len(items)})"
    return f"list of {_type(schema.get('items', {})) or 'anything'}"


def _reachable(part: object, schemas: dict[str, Schema]) -> set[str]:
    """Names of the schemas that `part` refers to, directly or through others."""
    found: set[str] = set()
    waiting = [part]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            name = str(one.get("$ref", "")).rsplit("/", 1)[-1]
            if name in schemas and name not in found:
                found.add(name)
                waiting.append(schemas[name])
            waiting += one.values()
    return found


def _prose(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|")
