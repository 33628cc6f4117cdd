"""The SDK: `Client(catalogue_url)` with `predict` and `evaluate`, and its async twin.

    with Client.from_access("access.json") as client:      # the file that the model's owner gave you
        answer = client.predict("mnist", images)     # uint8 pictures or float inputs
        answer.labels, answer.outputs
        client.evaluate("mnist-accuracy", images, labels).accuracy     # of a model that is published to be evaluated

The input is split and sealed here, the answer is opened here; nothing in between can read either. A call that got no
answer is sent again with the same id until `timeout`: the parties run it once.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

import anyio
import httpx
import numpy as np
import numpy.typing as npt

from moiety_client import inputs
from moiety_client.answers import Evaluation, Prediction
from moiety_client.canaries import Canaries
from moiety_client.errors import (
    AccessFileError,
    InvalidInput,
    UntrustedEntry,
    from_problem,
)
from moiety_client.exchange import Call, Sealer, added, joined
from moiety_client.failures import catalogue_errors, encrypted, no_answer
from moiety_client.telemetry import Asking, Telemetry
from moiety_shared.access import Access
from moiety_shared.catalogue import Entry, SignedEntry
from moiety_shared.fixed_point import RingArray
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service import http
from moiety_shared.signing import BadSignature
from moiety_shared.wire import MEDIA_TYPE, Recipients

Result = TypeVar("Result")
# The model may have been republished, or a party's key replaced, since the entry was read.
_ENTRY_IS_OLD = (ProblemType.UNKNOWN_MODEL, ProblemType.KEY_RETIRED)


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

    def __init__(
        self, catalogue_url: str, owner_key: str, token: str, timeout: float, telemetry: Telemetry | None
    ) -> None:
        self._catalogue = encrypted(catalogue_url, "the catalogue")
        self._owner_key = owner_key
        self._token = token
        self._timeout = timeout
        self._telemetry = telemetry or Telemetry()
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
        encrypted(entry.parties[0].url, "alice")
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
    def _prediction(images: npt.ArrayLike, canaries: int) -> _Task[Prediction]:
        among = Canaries(canaries)

        def finish(entry: Entry, _: RingArray, answers: list[_Answer], started: float) -> Prediction:
            values = among.checked(entry, np.concatenate([joined(entry.plan, a.shares) for a in answers]))
            return Prediction(entry.plan.output, values, entry.classes, *_counted(answers, started))

        def encode(entry: Entry) -> RingArray:
            among.check_offered(entry)
            return among.mixed(entry, inputs.encode(entry, images))

        return _Task(encode, finish)

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

    def _request(self, call: Call, asking: Asking) -> dict[str, Any]:
        headers = {"content-type": MEDIA_TYPE} | asking.headers
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        return {"url": f"{call.entry.parties[0].url}/v1/predictions", "content": call.body, "headers": headers}

    def _pause(self, problem: Problem, deadline: float, attempt: int) -> float:
        """Seconds until the next attempt. Raises the problem's exception when there is none."""
        pause = min(0.05 * 2.0**attempt, float(problem.retry_after or 0))
        if (
            problem.retry_after is None
            or problem.kind is ProblemType.QUOTA_EXCEEDED
            or time.monotonic() + pause > deadline
        ):
            raise from_problem(problem) from None
        return pause


def _sum(entry: Entry, answers: list[_Answer]) -> npt.NDArray[Any]:
    """What the requests give together; what each gives is not looked at."""
    return joined(entry.plan, added([a.shares for a in answers]))


def _access(file: Path | str) -> dict[str, Any]:
    try:
        access = Access.model_validate_json(Path(file).read_bytes())
    except (OSError, ValueError) as error:
        raise AccessFileError(
            f"{file} is not an access file ({type(error).__name__}): ask the model's owner for one"
        ) from None
    return access.model_dump()


def _counted(answers: list[_Answer], started: float) -> tuple[int, int, float]:
    """Rounds of one run, bytes of all, seconds."""
    rounds, sent = max(a.rounds for a in answers), sum(a.online_bytes for a in answers)
    return rounds, sent, time.perf_counter() - started


class Client(_Core):
    """The synchronous client. Keeps its connections; usable as a context manager.

    `owner_key` pins the model owner; without it the first key seen is trusted, with a warning. `token` lets the client
    in, and `ca` (a file, or its PEM) is the deployment's CA if it is not one that this system trusts. The owner's
    access file holds all of these: `Client.from_access("access.json")`. `telemetry` says where spans go, by default to
    the application's own OpenTelemetry, and whether the service is told of them.
    """

    def __init__(
        self,
        catalogue_url: str,
        *,
        owner_key: str = "",
        token: str = "",
        ca: Path | str | None = None,
        timeout: float = 30.0,
        telemetry: Telemetry | None = None,
    ) -> None:
        super().__init__(catalogue_url, owner_key, token, timeout, telemetry)
        self._http = http.client("", timeout=timeout, ca=ca)

    @classmethod
    def from_access(cls, file: Path | str, *, timeout: float = 30.0, telemetry: Telemetry | None = None) -> Self:
        """A client with what an owner's access file says. Raises AccessFileError."""
        return cls(**_access(file), timeout=timeout, telemetry=telemetry)

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

    def predict(self, model: str, images: npt.ArrayLike, *, canaries: int = 0) -> Prediction:
        """Private predictions for one input or a stack of them.

        With `canaries`, so many inputs whose answers the owner has published are mixed among yours, where nobody but
        you knows; CanaryFailed is raised if one of them comes back wrong. They cost what other inputs cost.

        Raises InvalidInput before anything is sent, else the errors of `moiety_client.errors`.
        """
        return self._ask(model, self._prediction(images, canaries))

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
        with self._telemetry.call("predict") as asking:
            return self._asked(model, task, asking)

    def _asked(self, model: str, task: _Task[Result], asking: Asking) -> Result:
        started = time.perf_counter()
        deadline = time.monotonic() + self._timeout
        for refresh in (False, True):
            sealer = self._sealer(model, refresh)
            asking.passed("catalogue")
            elements = task.encode(sealer.entry)
            calls = sealer.calls(elements, task.recipients)
            asking.passed("seal")
            try:
                answers = [self._send(call, deadline, asking) for call in calls]
                asking.passed("exchange")
                result = task.finish(sealer.entry, elements, answers, started)
                asking.passed("open")
                return result
            except Problem as problem:
                unknown = problem
        raise from_problem(unknown)

    def _sealer(self, name: str, refresh: bool = False) -> Sealer:
        if refresh or name not in self._sealers:
            with catalogue_errors(self._catalogue):
                return self._trust(self._http.get(f"{self._catalogue}/v1/models/{quote(name, safe='')}"))
        return self._sealers[name]

    def _send(self, call: Call, deadline: float, asking: Asking) -> _Answer:
        attempt = 0
        while True:
            try:
                with no_answer():
                    return self._read(call, self._http.post(**self._request(call, asking)))
            except Problem as problem:
                if problem.kind in _ENTRY_IS_OLD:
                    raise
                time.sleep(self._pause(problem, deadline, attempt))
                attempt += 1


class AsyncClient(_Core):
    """The asynchronous client: the same methods, awaited."""

    def __init__(
        self,
        catalogue_url: str,
        *,
        owner_key: str = "",
        token: str = "",
        ca: Path | str | None = None,
        timeout: float = 30.0,
        telemetry: Telemetry | None = None,
    ) -> None:
        super().__init__(catalogue_url, owner_key, token, timeout, telemetry)
        self._http = http.async_client("", timeout=timeout, ca=ca)

    @classmethod
    def from_access(cls, file: Path | str, *, timeout: float = 30.0, telemetry: Telemetry | None = None) -> Self:
        """See Client.from_access."""
        return cls(**_access(file), timeout=timeout, telemetry=telemetry)

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

    async def predict(self, model: str, images: npt.ArrayLike, *, canaries: int = 0) -> Prediction:
        """See Client.predict."""
        return await self._ask(model, self._prediction(images, canaries))

    async def evaluate(
        self, model: str, images: npt.ArrayLike, labels: npt.ArrayLike, *, reveal_to: str = "client"
    ) -> Evaluation:
        """See Client.evaluate."""
        return await self._ask(model, self._evaluation(images, labels, reveal_to))

    async def total(self, model: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """See Client.total."""
        return await self._ask(model, self._total(values))

    async def _ask(self, model: str, task: _Task[Result]) -> Result:
        with self._telemetry.call("predict") as asking:
            return await self._asked(model, task, asking)

    async def _asked(self, model: str, task: _Task[Result], asking: Asking) -> Result:
        started = time.perf_counter()
        deadline = time.monotonic() + self._timeout
        for refresh in (False, True):
            sealer = await self._sealer(model, refresh)
            asking.passed("catalogue")
            elements = task.encode(sealer.entry)
            calls = sealer.calls(elements, task.recipients)
            asking.passed("seal")
            try:
                answers = [await self._send(call, deadline, asking) for call in calls]
                asking.passed("exchange")
                result = task.finish(sealer.entry, elements, answers, started)
                asking.passed("open")
                return result
            except Problem as problem:
                unknown = problem
        raise from_problem(unknown)

    async def _sealer(self, name: str, refresh: bool = False) -> Sealer:
        if refresh or name not in self._sealers:
            with catalogue_errors(self._catalogue):
                return self._trust(await self._http.get(f"{self._catalogue}/v1/models/{quote(name, safe='')}"))
        return self._sealers[name]

    async def _send(self, call: Call, deadline: float, asking: Asking) -> _Answer:
        return self._read(call, await self._deliver(call, deadline, asking))

    async def _deliver(self, call: Call, deadline: float, asking: Asking) -> httpx.Response:
        attempt = 0
        while True:
            try:
                with no_answer():
                    return http.check(await self._http.post(**self._request(call, asking)))
            except Problem as problem:
                if problem.kind in _ENTRY_IS_OLD:
                    raise
                await anyio.sleep(self._pause(problem, deadline, attempt))
                attempt += 1
