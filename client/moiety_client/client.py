"""The SDK: `Client(catalogue_url).predict(model, images)` and its async twin.

    with Client("http://127.0.0.1:7700", owner_key="…") as client:
        answer = client.predict("mnist", images)     # uint8 pictures or float inputs
        answer.labels, answer.outputs

The input is split and sealed here, the answer is opened here; nothing in between can read either. A call that got no
answer is sent again with the same id until `timeout`: the parties run it once.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import anyio
import httpx
import numpy as np
import numpy.typing as npt

from moiety_client import inputs
from moiety_client.errors import CatalogueError, UntrustedEntry, from_problem
from moiety_client.exchange import Call, Sealer
from moiety_shared.catalogue import BadSignature, Entry, SignedEntry
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service import http
from moiety_shared.wire import MEDIA_TYPE


@dataclass(frozen=True)
class Prediction:
    """Outputs of a model, in the order of the inputs.

    `rounds` and `online_bytes` are what the parties counted: rounds of one run, and ring payload each party sent.
    """

    outputs: npt.NDArray[np.float64]
    classes: tuple[str, ...]
    rounds: int
    online_bytes: int
    seconds: float

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The most likely class of each input, (n,)."""
        labels: npt.NDArray[np.int64] = self.outputs.reshape(len(self.outputs), -1).argmax(axis=1)
        return labels

    @property
    def names(self) -> list[str]:
        """The same as text, where the model names its classes."""
        return [self.classes[i] if self.classes else str(i) for i in self.labels]


@dataclass(frozen=True)
class _Answer:
    outputs: npt.NDArray[np.float64]
    rounds: int
    online_bytes: int


class _Core:
    """What both clients share: no I/O."""

    def __init__(self, owner_key: str, timeout: float) -> None:
        self._owner_key = owner_key
        self._timeout = timeout
        self._sealers: dict[str, Sealer] = {}

    def _trust(self, response: httpx.Response) -> Sealer:
        signed = SignedEntry.model_validate_json(http.check(response).content)
        if not self._owner_key:
            warnings.warn("no owner_key pinned: trusting the key that the catalogue itself names", stacklevel=4)
            self._owner_key = signed.owner_key
        try:
            entry = signed.verify(self._owner_key)
        except BadSignature as error:
            raise UntrustedEntry(
                f"{error}: ask the owner for their key, and who changed the catalogue if it differs"
            ) from error
        sealer = self._sealers[entry.name] = Sealer(entry)
        return sealer

    def _read(self, call: Call, response: httpx.Response) -> _Answer:
        http.check(response)
        headers = response.headers
        return _Answer(
            call.open(response.content),
            int(headers.get("moiety-rounds", 0)),
            int(headers.get("moiety-online-bytes", 0)),
        )

    @staticmethod
    def _join(entry: Entry, answers: list[_Answer], started: float) -> Prediction:
        return Prediction(
            np.concatenate([a.outputs for a in answers]),
            entry.classes,
            max(a.rounds for a in answers),
            sum(a.online_bytes for a in answers),
            time.perf_counter() - started,
        )

    @staticmethod
    def _request(call: Call) -> dict[str, Any]:
        url = call.entry.parties[0].url
        return {
            "url": f"{url}/v1/predictions",
            "content": call.body,
            "headers": {"content-type": MEDIA_TYPE},
        }

    def _pause(self, problem: Problem, deadline: float, attempt: int) -> float:
        """Seconds until the next attempt. Raises the problem's exception when there is none."""
        pause = min(0.05 * 2.0**attempt, float(problem.retry_after or 0))
        if problem.retry_after is None or time.monotonic() + pause > deadline:
            raise from_problem(problem) from None
        return pause


@contextmanager
def _no_answer() -> Iterator[None]:
    """A connection that fails is a problem like any other."""
    try:
        yield
    except httpx.HTTPError as error:
        raise Problem(
            ProblemType.PEER_UNAVAILABLE, f"{error.request.url.host} gave no answer ({type(error).__name__})"
        ) from error


@contextmanager
def _catalogue_errors(url: str) -> Iterator[None]:
    try:
        yield
    except Problem as problem:
        raise from_problem(problem) from problem
    except (httpx.HTTPError, ValueError) as error:
        raise CatalogueError(f"no usable catalogue at {url}: is the model owner's server running?") from error


class Client(_Core):
    """The synchronous client. Keeps its connections; usable as a context manager.

    `owner_key` pins the model owner; without it the first key seen is trusted, with a warning.
    """

    def __init__(self, catalogue_url: str, *, owner_key: str = "", timeout: float = 30.0) -> None:
        super().__init__(owner_key, timeout)
        self._catalogue = catalogue_url
        self._http = http.client("", timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def model(self, name: str, *, refresh: bool = False) -> Entry:
        """The verified catalogue entry. Raises CatalogueError and its kinds."""
        return self._sealer(name, refresh).entry

    def predict(self, model: str, images: npt.ArrayLike) -> Prediction:
        """Private predictions for one input or a stack of them.

        Raises InvalidInput before anything is sent, else the errors of `moiety_client.errors`.
        """
        started = time.perf_counter()
        deadline = time.monotonic() + self._timeout
        for refresh in (False, True):  # the model may have been republished since the entry was read
            sealer = self._sealer(model, refresh)
            try:
                return self._predict(sealer, images, started, deadline)
            except Problem as problem:
                unknown = problem
        raise from_problem(unknown)

    def _predict(self, sealer: Sealer, images: npt.ArrayLike, started: float, deadline: float) -> Prediction:
        elements = inputs.encode(sealer.entry, images)
        answers = [self._send(call, deadline) for call in sealer.calls(elements)]
        return self._join(sealer.entry, answers, started)

    def _sealer(self, name: str, refresh: bool = False) -> Sealer:
        if refresh or name not in self._sealers:
            with _catalogue_errors(self._catalogue):
                return self._trust(self._http.get(f"{self._catalogue}/v1/models/{name}"))
        return self._sealers[name]

    def _send(self, call: Call, deadline: float) -> _Answer:
        attempt = 0
        while True:
            try:
                with _no_answer():
                    return self._read(call, self._http.post(**self._request(call)))
            except Problem as problem:
                if problem.kind is ProblemType.UNKNOWN_MODEL:
                    raise
                time.sleep(self._pause(problem, deadline, attempt))
                attempt += 1


class AsyncClient(_Core):
    """The asynchronous client: the same methods, awaited."""

    def __init__(self, catalogue_url: str, *, owner_key: str = "", timeout: float = 30.0) -> None:
        super().__init__(owner_key, timeout)
        self._catalogue = catalogue_url
        self._http = http.async_client("", timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def model(self, name: str, *, refresh: bool = False) -> Entry:
        """See Client.model."""
        return (await self._sealer(name, refresh)).entry

    async def predict(self, model: str, images: npt.ArrayLike) -> Prediction:
        """See Client.predict."""
        started = time.perf_counter()
        deadline = time.monotonic() + self._timeout
        for refresh in (False, True):  # the model may have been republished since the entry was read
            sealer = await self._sealer(model, refresh)
            try:
                return await self._predict(sealer, images, started, deadline)
            except Problem as problem:
                unknown = problem
        raise from_problem(unknown)

    async def _predict(self, sealer: Sealer, images: npt.ArrayLike, started: float, deadline: float) -> Prediction:
        elements = inputs.encode(sealer.entry, images)
        answers = [await self._send(call, deadline) for call in sealer.calls(elements)]
        return self._join(sealer.entry, answers, started)

    async def _sealer(self, name: str, refresh: bool = False) -> Sealer:
        if refresh or name not in self._sealers:
            with _catalogue_errors(self._catalogue):
                return self._trust(await self._http.get(f"{self._catalogue}/v1/models/{name}"))
        return self._sealers[name]

    async def _send(self, call: Call, deadline: float) -> _Answer:
        attempt = 0
        while True:
            try:
                with _no_answer():
                    return self._read(call, await self._http.post(**self._request(call)))
            except Problem as problem:
                if problem.kind is ProblemType.UNKNOWN_MODEL:
                    raise
                await anyio.sleep(self._pause(problem, deadline, attempt))
                attempt += 1
