"""What http/serving.py, http/connection.py and http/websocket.py take from inside of uvicorn is there, and is called as
they expect.

pyproject.toml says up to which version. Where a newer one fails here, read its httptools_impl.py, server.py and
websockets_sansio_impl.py beside our files before the bound is raised: tests/services/test_serving.py and
test_websocket.py hold what connections do.
"""

import ast
import asyncio
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from moiety_service.http.connection import Connection
from moiety_service.http.serving import Server
from moiety_service.http.websocket import Upgraded

OVERRIDDEN = {
    HttpToolsProtocol: {
        "__init__": ["self", "config", "server_state", "app_state", "_loop"],
        "connection_made": ["self", "transport"],
        "connection_lost": ["self", "exc"],
        "data_received": ["self", "data"],
        "on_message_begin": ["self"],
        "on_url": ["self", "url"],
        "on_header": ["self", "name", "value"],
        "on_headers_complete": ["self"],
        "handle_websocket_upgrade": ["self"],
        "send_400_response": ["self", "msg"],
        "pause_writing": ["self"],
        "resume_writing": ["self"],
        "on_response_complete": ["self"],
        "timeout_keep_alive_handler": ["self"],
    },
    WebSocketsSansIOProtocol: {
        "handle_connect": ["self", "event"],
        "data_received": ["self", "data"],
        "connection_lost": ["self", "exc"],
        "pause_writing": ["self"],
        "resume_writing": ["self"],
    },
    uvicorn.Server: {
        "__init__": ["self", "config"],
        "startup": ["self", "sockets"],
        "shutdown": ["self", "sockets"],
    },
}
"""Methods that ours take the place of, with their parameters."""

CALLED = [
    (HttpToolsProtocol.data_received, "self.send_400_response("),  # where the parser gives up
    (HttpToolsProtocol.data_received, "self.handle_websocket_upgrade("),
    (HttpToolsProtocol.on_response_complete, "self.timeout_keep_alive_handler"),
    (HttpToolsProtocol.on_headers_complete, "on_response=self.on_response_complete"),
    (HttpToolsProtocol.on_header, "self.headers.append("),
    (HttpToolsProtocol.on_headers_complete, "self.pipeline.append"),
    (HttpToolsProtocol.connection_made, "self.connections.add(self)"),
    (HttpToolsProtocol.connection_lost, "self.connections.discard(self)"),
    (WebSocketsSansIOProtocol.handle_connect, "self.scope: WebSocketScope = {"),
    (WebSocketsSansIOProtocol.handle_connect, "self.loop.create_task(self.run_asgi())"),
    (WebSocketsSansIOProtocol.handle_connect, "self.close_sent = True"),
    (WebSocketsSansIOProtocol.send, "self.start_keepalive()"),
    (RequestResponseCycle, "self.on_response()"),
    (RequestResponseCycle, "self.response_complete = True"),
    (RequestResponseCycle, "self.body"),
    (uvicorn.Server._serve, "await self.startup(sockets=sockets)"),
    (uvicorn.Server._serve, "await self.shutdown(sockets=sockets)"),
    (uvicorn.Server._serve, "self.should_exit"),
    (uvicorn.Server.shutdown, "server.close()"),
    (uvicorn.Server.shutdown, "for connection in list(self.server_state.connections)"),
    (uvicorn.Server.shutdown, "timeout=self.config.timeout_graceful_shutdown"),
    (uvicorn.Server._wait_tasks_to_complete, "await server.wait_closed()"),
]
"""By whom, and how, what we put in its place is reached."""


def given(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("base", OVERRIDDEN, ids=lambda base: base.__name__)
def test_methods_have_the_names_and_parameters_that_ours_have(base: type) -> None:
    assert {name: given(getattr(base, name, lambda: None)) for name in OVERRIDDEN[base]} == OVERRIDDEN[base]


@pytest.mark.parametrize("ours", [Connection, Server, Upgraded])
def test_nothing_of_uvicorns_is_replaced_that_is_not_named_above(ours: type) -> None:
    base = ours.__mro__[1]
    replaced = {name for name, value in vars(ours).items() if inspect.isfunction(value) and hasattr(base, name)}
    assert replaced == set(OVERRIDDEN[base])


@pytest.mark.parametrize(("by", "how"), CALLED, ids=lambda value: str(getattr(value, "__qualname__", value)))
def test_what_ours_replace_is_reached(by: Any, how: str) -> None:
    assert how in inspect.getsource(by)


def attributes(kind: type, of: str = "self") -> set[str]:
    """All that a class's own code reads or writes of `self`, or of an attribute of it, and does not define itself.

    What it writes under a private name is its own; what it only reads under one is its base's.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == of]
    own = {n.attr for n in found if isinstance(n.ctx, ast.Store) and n.attr.startswith("_")} | set(vars(kind))
    return {n.attr for n in found} - (own if of == "self" else set())


@contextmanager
def one_connection() -> Iterator[HttpToolsProtocol]:
    """uvicorn's own, made as ours are."""
    config = uvicorn.Config(FastAPI(), log_config=None, ws="websockets-sansio", access_log=False)
    config.load()
    with asyncio.Runner() as runner:
        yield HttpToolsProtocol(config, ServerState(), {}, runner.get_loop())


def test_every_attribute_of_a_connection_is_uvicorns_or_our_own() -> None:
    with one_connection() as plain:
        assert attributes(Connection) <= set(dir(plain))
        upgraded = WebSocketsSansIOProtocol(plain.config, ServerState(), {}, plain.loop)
        assert attributes(Upgraded) - {"scope"} <= set(dir(upgraded)), "`handle_connect` sets the scope"
    assert attributes(Connection, "self.cycle") <= set(RequestResponseCycle.__init__.__code__.co_names)


def test_every_attribute_of_a_server_is_uvicorns_or_our_own() -> None:
    with one_connection() as plain:
        server = uvicorn.Server(plain.config)
        assert attributes(Server) - {"servers", "lifespan"} <= set(dir(server)), "those two are set before `startup`"
        assert attributes(Server, "self.config") <= set(dir(plain.config))
        assert attributes(Server, "self.server_state") <= set(dir(ServerState()))
        assert given(plain.config.lifespan_class.startup) == ["self"]
    for line in ("for server in self.servers:", "self.lifespan = config.lifespan_class(config)"):
        assert line in inspect.getsource(uvicorn.Server)


def test_answers_by_hand_begin_as_uvicorns_do() -> None:
    assert STATUS_LINE[408] == b"HTTP/1.1 408 Request Timeout\r\n" and STATUS_LINE is httptools_impl.STATUS_LINE
