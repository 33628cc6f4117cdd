"""The SDK: `Client(catalogue_url)` with `predict` and `evaluate`, and its async twin.

    with Client("http://127.0.0.1:7700", owner_key="…") as client:
        answer = client.predict("mnist", images)     # uint8 pictures or float inputs
        answer.labels, answer.outputs
        client.evaluate("mnist-accuracy", images, labels).accuracy     # of a model that is published to be evaluated

The input is split and sealed here, the answer is opened here; nothing in between can read either. A call that got no
answer is sent again with the same id until `timeout`: the parties run it once.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio
import httpx
import numpy as np
import numpy.typing as npt

from moiety_client import inputs
from moiety_client.errors import CatalogueError, InvalidInput, LabelsOnly, UntrustedEntry, from_problem
from moiety_client.exchange import Call, Sealer, added, joined
from moiety_shared.catalogue import BadSignature, Entry, SignedEntry
from moiety_shared.fixed_point import RingArray
from moiety_shared.plan import Output
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service import http
from moiety_shared.wire import MEDIA_TYPE, Recipients

Result = TypeVar("Result")


@dataclass(frozen=True)
class Prediction:
    """What a model says of each input, in the order of the inputs.

    `rounds` and `online_bytes` are what the parties counted: rounds of one run, and ring payload each party sent.
    """

    _output: Output
    _values: npt.NDArray[Any] = field(repr=False)
    classes: tuple[str, ...]
    rounds: int
    online_bytes: int
    seconds: float

    @property
    def outputs(self) -> npt.NDArray[np.float64]:
        """The model's outputs, (n, *output shape). Raises LabelsOnly when its owner gives out labels alone."""
        if self._output.kind != "logits":
            raise LabelsOnly("this model gives no outputs, only which classes are likeliest: read `labels` or `top`")
        return self._values

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The most likely class of each input, (n,)."""
        if self._output.kind == "labels":
            return self.top[:, 0]
        labels: npt.NDArray[np.int64] = self._values.reshape(len(self._values), -1).argmax(axis=1)
        return labels

    @property
    def top(self) -> npt.NDArray[np.int64]:
        """Classes from the most likely one down, (n, k): as many as the model tells."""
        flat = self._values.reshape(len(self._values), -1)
        if self._output.kind == "logits":
            return np.argsort(-flat, axis=1, kind="stable")
        ranked = np.argsort(np.where(flat == 0, 256, flat.astype(np.int64)), axis=1, kind="stable")
        return ranked[:, : self._output.top]

    @property
    def names(self) -> list[str]:
        """The same as text, where the model names its classes."""
        return [self.classes[i] if self.classes else str(i) for i in self.labels]


@dataclass(frozen=True)
class Evaluation:
    """How a model did on labelled inputs that nobody saw.

    `correct` is None where the number is the owner's alone; `for_owner` is what only the owner can open, one for each
    request, to be handed on to `moiety count`.
    """

    correct: int | None
    total: int
    rounds: int
    online_bytes: int
    seconds: float
    for_owner: tuple[bytes, ...] = ()

    @property
    def accuracy(self) -> float | None:
        return None if self.correct is None else self.correct / self.total


@dataclass(frozen=True)
class _Answer:
    shares: tuple[RingArray, RingArray]
    rounds: int
    online_bytes: int
    for_owner: bytes


@dataclass(frozen=True)
class _Task(Generic[Result]):
    """What a method of the client asks for: the elements it sends, and what it makes of the answers."""

    encode: Callable[[Entry], RingArray]
    finish: Callable[[Entry, RingArray, list[_Answer], float], Result]
    recipients: Recipients = Recipients.CLIENT


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
            call.shares(response.content),
            int(headers.get("moiety-rounds", 0)),
            int(headers.get("moiety-online-bytes", 0)),
            call.for_owner(response.content),
        )

    @staticmethod
    def _prediction(images: npt.ArrayLike) -> _Task[Prediction]:
        def finish(entry: Entry, _: RingArray, answers: list[_Answer], started: float) -> Prediction:
            values = np.concatenate([joined(entry.plan, a.shares) for a in answers])
            return Prediction(entry.plan.output, values, entry.classes, *_counted(answers, started))

        return _Task(lambda entry: inputs.encode(entry, images), finish)

    @staticmethod
    def _evaluation(images: npt.ArrayLike, labels: npt.ArrayLike, reveal_to: str) -> _Task[Evaluation]:
        try:
            recipients = Recipients.named(reveal_to)
        except KeyError:
            raise InvalidInput("a count is revealed to client, owner or both") from None

        def encode(entry: Entry) -> RingArray:
            if Recipients.OWNER in recipients and entry.plan.output.owner_key is None:
                raise InvalidInput(f"model {entry.name!r} names no key of its owner: publish it with --reveal count")
            return inputs.encode_labelled(entry, images, labels)

        def finish(entry: Entry, elements: RingArray, answers: list[_Answer], started: float) -> Evaluation:
            correct = int(_sum(entry, answers).sum()) if Recipients.CLIENT in recipients else None
            tokens = tuple(a.for_owner for a in answers if a.for_owner)
            return Evaluation(correct, len(elements), *_counted(answers, started), tokens)

        return _Task(encode, finish, recipients)

    @staticmethod
    def _total(values: npt.ArrayLike) -> _Task[npt.NDArray[np.float64]]:
        def finish(entry: Entry, _: RingArray, answers: list[_Answer], started: float) -> npt.NDArray[np.float64]:
            return _sum(entry, answers).astype(np.float64) * entry.plan.output.scale

        def encode(entry: Entry) -> RingArray:
            if entry.plan.output.kind != "count":
                raise InvalidInput(f"model {entry.name!r} gives each input's outputs, not their sum: call predict")
            return inputs.encode(entry, values)

        return _Task(encode, finish)

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


def _sum(entry: Entry, answers: list[_Answer]) -> npt.NDArray[Any]:
    """What the requests give together; what each gives is not looked at."""
    return joined(entry.plan, added([a.shares for a in answers]))


def _counted(answers: list[_Answer], started: float) -> tuple[int, int, float]:
    """Rounds of one run, bytes of all, seconds."""
    rounds, sent = max(a.rounds for a in answers), sum(a.online_bytes for a in answers)
    return rounds, sent, time.perf_counter() - started


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
        return self._ask(model, self._prediction(images))

    def evaluate(
        self, model: str, images: npt.ArrayLike, labels: npt.ArrayLike, *, reveal_to: str = "client"
    ) -> Evaluation:
        """How many inputs a model that is published for this labels as `labels` (ints, one for each) says.

        `reveal_to` names who learns the number and nobody else does: client, owner or both. More inputs than the
        entry's `max_rows` go in several requests, whose shares are added up before they are joined; the owner reads
        the count of each. Raises as `predict` does.
        """
        return self._ask(model, self._evaluation(images, labels, reveal_to))

    def total(self, model: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The sum over all inputs of what a plan of kind "count" computes, (output size,), and nothing of each input.

        Several requests are added up as in `evaluate`. Raises as `predict` does.
        """
        return self._ask(model, self._total(values))

    def _ask(self, model: str, task: _Task[Result]) -> Result:
        started = time.perf_counter()
        deadline = time.monotonic() + self._timeout
        for refresh in (False, True):  # the model may have been republished since the entry was read
            sealer = self._sealer(model, refresh)
            elements = task.encode(sealer.entry)
            try:
                answers = [self._send(call, deadline) for call in sealer.calls(elements, task.recipients)]
                return task.finish(sealer.entry, elements, answers, started)
            except Problem as problem:
                unknown = problem
        raise from_problem(unknown)

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
        return await self._ask(model, self._prediction(images))

    async def evaluate(
        self, model: str, images: npt.ArrayLike, labels: npt.ArrayLike, *, reveal_to: str = "client"
    ) -> Evaluation:
        """See Client.evaluate."""
        return await self._ask(model, self._evaluation(images, labels, reveal_to))

    async def total(self, model: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """See Client.total."""
        return await self._ask(model, self._total(values))

    async def _ask(self, model: str, task: _Task[Result]) -> Result:
        started = time.perf_counter()
        deadline = time.monotonic() + self._timeout
        for refresh in (False, True):  # the model may have been republished since the entry was read
            sealer = await self._sealer(model, refresh)
            elements = task.encode(sealer.entry)
            try:
                answers = [await self._send(call, deadline) for call in sealer.calls(elements, task.recipients)]
                return task.finish(sealer.entry, elements, answers, started)
            except Problem as problem:
                unknown = problem
        raise from_problem(unknown)

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
