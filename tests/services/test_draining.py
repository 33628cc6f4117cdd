"""A server that is told to stop: what is under way ends, what comes is refused and told to come again."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from moiety_service.http import draining, serving
from moiety_service.http.app import create_app
from moiety_service.settings import ServiceSettings
from moiety_shared.problems import Problem, ProblemType


@dataclass
class Service:
    """One that answers `/slow` when it is let go."""

    url: str
    server: serving.Server
    began: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """As SIGTERM does, until the server knows."""
        self.server.should_exit = True
        while not self.server.config.app.state.drain.stopping:  # type: ignore[union-attr]
            threading.Event().wait(0.01)


async def let_go(service: Service) -> None:
    while not service.let_go.is_set():  # noqa: ASYNC110  the event is a thread's
        await asyncio.sleep(0.01)


@contextmanager
def running() -> Iterator[tuple[Service, threading.Thread]]:
    app = create_app("test")

    @app.get("/slow")
    async def slow() -> str:
        service.began.set()
        await let_go(service)
        return "done"

    server = serving.make(app, ServiceSettings(), 1 << 20, None)
    listener = server.config.bind_socket()
    service = Service(f"http://127.0.0.1:{listener.getsockname()[1]}", server)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield service, thread
    finally:
        service.let_go.set()
        server.should_exit = True
        thread.join()


def test_what_is_under_way_ends_and_what_comes_is_told_to_come_again() -> None:
    with running() as (service, thread), ThreadPoolExecutor(1) as threads, httpx.Client(base_url=service.url) as kept:
        assert kept.get("/health/ready").is_success
        first = threads.submit(httpx.get, f"{service.url}/slow", timeout=30)
        assert service.began.wait(10)
        service.stop()
        for answer in (httpx.get(f"{service.url}/slow"), kept.get("/slow"), httpx.get(f"{service.url}/health/ready")):
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
            assert Problem.from_document(answer.json()).kind is ProblemType.STOPPING
            assert answer.headers["connection"] == "close" and answer.headers["x-request-id"]
        assert httpx.get(f"{service.url}/health/live").is_success, "it is not to be killed"
        assert thread.is_alive() and not first.done()
        service.let_go.set()
        assert first.result().json() == "done" and first.result().headers["connection"] == "close"
        thread.join(20)
        assert not thread.is_alive()
        with pytest.raises(httpx.ConnectError):
            httpx.get(service.url)


def test_what_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining.Drain.finish, "__defaults__", (0.2,))
    with running() as (service, thread), ThreadPoolExecutor(1) as threads:
        endless = threads.submit(httpx.get, f"{service.url}/slow", timeout=30)
        assert service.began.wait(10)
        service.stop()
        thread.join(20)
        assert not thread.is_alive() and not service.let_go.is_set()
        assert endless.result().status_code == 503 and endless.result().headers["retry-after"] == "1"


def test_the_limits_leave_room_below_ten_seconds() -> None:
    """Docker's grace for a container, unless told otherwise."""
    assert draining.SECONDS + serving.CLOSING_SECONDS < 9


def test_nobody_waits_for_work_that_was_over() -> None:
    async def run() -> None:
        drain = draining.Drain()
        with drain.work():
            pass
        with pytest.raises(ValueError, match="broken"), drain.work():
            raise ValueError("broken")
        await asyncio.wait_for(drain.finish(60), 10)
        with pytest.raises(Problem) as refused, drain.work(ProblemType.PEER_UNAVAILABLE):
            pass
        assert refused.value.kind is ProblemType.PEER_UNAVAILABLE and refused.value.retry_after

    asyncio.run(run())
