"""One node of a file while it is translated: under which name, and what becomes of an error."""

from collections.abc import Iterator
from contextlib import contextmanager

from onnx import NodeProto

from moiety_server.compiler.builder import Builder
from moiety_server.compiler.hints import OTHERWISE
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown


@contextmanager
def translated(builder: Builder, node: NodeProto) -> Iterator[None]:
    """Let the builder name what it appends after the node. Whatever is raised becomes NotServable, with the node's
    name and a way out: a file may hold any attributes and shapes, and each operator fails in its own way."""
    label = shown((node.name or node.output[0]).strip("/"))
    builder.scope = node.name.strip("/").replace("/", ".") or node.op_type.lower()
    builder.origin = f"{label} ({shown(node.op_type)})"
    try:
        yield
    except NotServable as error:
        text = str(error) if str(error).startswith(builder.origin) else f"{builder.origin}: {error}"
        raise NotServable(text if "Instead: " in text else f"{text}. Instead: {OTHERWISE}") from None
    except Exception as error:
        builder.refuse(
            f"its inputs and attributes do not fit together ({type(error).__name__})", "export the model again"
        )
