"""The SDK: `Client` with `predict`, `stream` and `evaluate`, and its async twin.

    with Client.from_access("access.json") as client:      # the file that the model's owner gave you
        answer = client.predict("mnist", images)     # arrays, tensors, pictures, files: see `moiety_client.inputs`
        answer.labels, answer.names, answer.outputs
        client.evaluate("mnist", images, labels).accuracy
        for answer in client.stream("mnist", files, resume="run.jsonl"):     # many, in batches; goes on after a break
            ...

The input is split and sealed here, the answer is opened here; nothing in between can read either. A call that got no
answer is sent again with the same id until `timeout`: the parties run it once. Errors: `moiety_client.errors`.
"""

import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread
import numpy as np
import numpy.typing as npt

from moiety_client import inputs, tasks
from moiety_client.answers import Evaluation, Prediction
from moiety_client.core import Core, read_access, trusting
from moiety_client.steps import Fetch, Steps, T, Work
from moiety_client.streaming import BATCH, Run, each, each_async
from moiety_client.telemetry import Telemetry
from moiety_service.http import clients
from moiety_shared.messages.catalogue import Entry


class Client(Core):
    """The synchronous client. Keeps its connections; usable as a context manager, and by several threads.

    `owner_key` pins the model owner; without it the first key seen is trusted, with a warning. `token` lets the client
    in, `key` (a file, or its PEM) is the private key that the token is bound to, by default the file that
    MOIETY_CLIENT_KEY_FILE names, and `ca` (a file, or its PEM) is the deployment's CA if it is not one that this system
    trusts. The owner's access file holds all of these: `Client.from_access("access.json")`. `state` is a file that
    remembers the newest entry seen of each model, by default the one that MOIETY_CLIENT_STATE names; without one, this
    client remembers for itself. `timeout`: seconds that a call may take, with all its repetitions. `telemetry`: where
    spans go, by default to the application's own OpenTelemetry, and whether the service is told of them.
    """

    def __init__(
        self,
        catalogue_url: str,
        *,
        owner_key: str = "",
        token: str = "",
        key: Path | str | None = None,
        ca: Path | str | None = None,
        state: Path | str | None = None,
        timeout: float = 30.0,
        telemetry: Telemetry | None = None,
    ) -> None:
        super().__init__(catalogue_url, owner_key, token, key, state, timeout, telemetry)
        with trusting():
            self._http = clients.client("", timeout=timeout, ca=ca)

    @classmethod
    def from_access(
        cls,
        file: Path | str,
        *,
        key: Path | str | None = None,
        state: Path | str | None = None,
        timeout: float = 30.0,
        telemetry: Telemetry | None = None,
    ) -> Self:
        """A client with what an owner's access file says; `key` is for a file that holds none. Raises
        AccessFileError."""
        return cls(**read_access(file, key), state=state, timeout=timeout, telemetry=telemetry)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def names(self) -> list[str]:
        """The names of the published models, unverified. Raises CatalogueError and its kinds."""
        return self._do(self._names())

    def models(self) -> list[Entry]:
        """The verified catalogue entries of all published models. Raises CatalogueError and its kinds."""
        return self._do(self._models())

    def model(self, name: str, *, refresh: bool = False) -> Entry:
        """A model's verified catalogue entry: `describe()` says what it is. Raises CatalogueError and its kinds."""
        return self._do(self._entry(name, refresh))

    def predict(self, model: str, images: Any, *, canaries: int = 0) -> Prediction:
        """Private predictions for one input or a stack of them, in any form that `moiety_client.inputs` names.

        With `canaries`, so many inputs whose answers the owner has published are mixed among yours, where nobody but
        you knows; CanaryFailed is raised if one of them comes back wrong. They cost what other inputs cost. An iterator
        is read batch by batch, as `stream` does it.

        Raises InvalidInput before anything is sent, else the errors of `moiety_client.errors`.
        """
        if inputs.is_lazy(images):
            return Prediction.joined(list(self.stream(model, images, canaries=canaries)))
        return self._do(self._ask(model, tasks.prediction(images, canaries)))

    def stream(
        self,
        model: str,
        images: Iterable[Any] | Any,
        *,
        batch: int = BATCH,
        resume: Path | str | None = None,
        progress: bool = False,
        canaries: int = 0,
    ) -> Iterator[Prediction]:
        """Predictions of many inputs, batch by batch, in order; each batch is read when it is due.

        `images` are inputs or stacks of them, in any form that `predict` takes; `batch` inputs go into one request, or
        as many as the model takes. With `resume`, a file, each batch is on the disk before it is given out: when the
        same call is made again after an interruption, the batches that are there come from the file and are not asked,
        nor paid, again; nor is the one that was under way, while the parties take it (5 minutes, unless they set
        MOIETY_PARTY_REQUEST_SECONDS, and not if `canaries` are mixed in). `progress` draws a bar on stderr.

        Raises ResumeRefused for a file of other inputs, another model or another batch, else as `predict` does.
        """
        with Run(model, images, batch, canaries, resume, progress) as run:
            for item in each(images):
                for rows in run.add(self.model(model), item):
                    yield self._batch(run, rows)
            for rows in run.rest():
                yield self._batch(run, rows)

    def _batch(self, run: Run, rows: inputs.Rows) -> Prediction:
        known = run.known(self.model(run.model), rows)
        return known or run.keep(self._do(self._ask(run.model, run.task(rows))))

    def evaluate(self, model: str, images: Any, labels: npt.ArrayLike, *, reveal_to: str = "client") -> Evaluation:
        """How many inputs the model labels as `labels` say: a class for each, an int or its name.

        By predictions, which are compared here; or, where the model is published to be evaluated alone, in private, so
        that nothing but the count comes back. Then `reveal_to` names who learns it and nobody else does: client, owner
        or both. More inputs than the entry's `max_rows` go in several requests, whose shares are added up before they
        are joined; the owner reads the count of each. Raises as `predict` does.
        """
        return self._do(self._ask(model, tasks.evaluation(images, labels, reveal_to)))

    def total(self, model: str, values: Any) -> npt.NDArray[np.float64]:
        """The sum over all inputs of what a plan of kind "count" computes, (output size,), and nothing of each input.

        Several requests are added up as in `evaluate`. Raises as `predict` does.
        """
        return self._do(self._ask(model, tasks.total(values)))

    def _do(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    came = self._perform(step)
                except BaseException as error:  # a cancellation ends the steps now, and not when they are collected
                    step = steps.throw(error)
                else:
                    step = steps.send(came)
        except StopIteration as done:
            result: T = done.value
            return result

    def _perform(self, step: Fetch | Work) -> Any:
        if isinstance(step, Work):
            return step.call()
        if step.after:
            time.sleep(step.after)
        return self._http.request(**step.request)


class AsyncClient(Core):
    """The asynchronous client: the same methods, awaited."""

    def __init__(
        self,
        catalogue_url: str,
        *,
        owner_key: str = "",
        token: str = "",
        key: Path | str | None = None,
        ca: Path | str | None = None,
        state: Path | str | None = None,
        timeout: float = 30.0,
        telemetry: Telemetry | None = None,
    ) -> None:
        super().__init__(catalogue_url, owner_key, token, key, state, timeout, telemetry)
        with trusting():
            self._http = clients.async_client("", timeout=timeout, ca=ca)

    @classmethod
    def from_access(
        cls,
        file: Path | str,
        *,
        key: Path | str | None = None,
        state: Path | str | None = None,
        timeout: float = 30.0,
        telemetry: Telemetry | None = None,
    ) -> Self:
        """See Client.from_access."""
        return cls(**read_access(file, key), state=state, timeout=timeout, telemetry=telemetry)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def names(self) -> list[str]:
        """See Client.names."""
        return await self._do(self._names())

    async def models(self) -> list[Entry]:
        """See Client.models."""
        return await self._do(self._models())

    async def model(self, name: str, *, refresh: bool = False) -> Entry:
        """See Client.model."""
        return await self._do(self._entry(name, refresh))

    async def predict(self, model: str, images: Any, *, canaries: int = 0) -> Prediction:
        """See Client.predict; an iterator may be an asynchronous one."""
        if inputs.is_lazy(images):
            return Prediction.joined([part async for part in self.stream(model, images, canaries=canaries)])
        return await self._do(self._ask(model, tasks.prediction(images, canaries)))

    async def stream(
        self,
        model: str,
        images: AsyncIterable[Any] | Iterable[Any] | Any,
        *,
        batch: int = BATCH,
        resume: Path | str | None = None,
        progress: bool = False,
        canaries: int = 0,
    ) -> AsyncIterator[Prediction]:
        """See Client.stream; `images` may be an asynchronous iterator."""
        with Run(model, images, batch, canaries, resume, progress) as run:
            async for item in each_async(images):
                entry = await self.model(model)
                slow = inputs.is_slow(item)
                full = await anyio.to_thread.run_sync(run.add, entry, item) if slow else run.add(entry, item)
                for rows in full:
                    yield await self._batch(run, rows)
            for rows in run.rest():
                yield await self._batch(run, rows)

    async def _batch(self, run: Run, rows: inputs.Rows) -> Prediction:
        known = run.known(await self.model(run.model), rows)
        return known or run.keep(await self._do(self._ask(run.model, run.task(rows))))

    async def evaluate(
        self, model: str, images: Any, labels: npt.ArrayLike, *, reveal_to: str = "client"
    ) -> Evaluation:
        """See Client.evaluate."""
        return await self._do(self._ask(model, tasks.evaluation(images, labels, reveal_to)))

    async def total(self, model: str, values: Any) -> npt.NDArray[np.float64]:
        """See Client.total."""
        return await self._do(self._ask(model, tasks.total(values)))

    async def _do(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    came = await self._perform(step)
                except BaseException as error:  # a cancellation ends the steps now, and not when they are collected
                    step = steps.throw(error)
                else:
                    step = steps.send(came)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _perform(self, step: Fetch | Work) -> Any:
        if isinstance(step, Work):
            return await anyio.to_thread.run_sync(step.call)
        if step.after:
            await anyio.sleep(step.after)
        return await self._http.request(**step.request)
