"""The Python SDK: `Client`, which blocks, and `AsyncClient`, which awaits.

    with Client.from_access("access.json") as client:      # the file that the model's owner gave you
        answer = client.predict("mnist", images)     # arrays, tensors, pictures, files: see `moiety_client.inputs`
        answer.labels, answer.names, answer.outputs
        client.evaluate("mnist", images, labels).accuracy
        for answer in client.stream("mnist", files, resume="run.jsonl"):     # many, in batches; goes on after a break
            ...

The client splits and seals each input on this machine, and opens the answer here. Nothing in between can read either.
If a request gets no answer, the client sends it again with the same id until `timeout`. The parties run it once.
`moiety_client.errors` lists what the client raises.
"""

import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from pathlib import Path
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
from moiety_shared.tabular import Others


class Client(Core):
    """A client that blocks until the answer is there.

        with Client.from_access("access.json") as client:
            print(client.predict("mnist", images).labels)

    A client keeps its connections open: make one and use it again. Several threads may share it.

    The model owner's access file holds everything that says where the service is and who you are, so most programs
    call `Client.from_access`. To make a client without that file, pass:

    - `catalogue_url`: the address of the owner's catalogue.
    - `owner_key`: the owner's public key. The client believes only what this key signed. Without it, the client trusts
      the first key that it sees, and warns you.
    - `token`: the owner's permission for you to ask.
    - `key`: the private key that the token is bound to, as the Path of a file or as PEM text. The default is the file
      that MOIETY_CLIENT_KEY_FILE names.
    - `ca`: the certificate authority of the service, as the Path of a file or as PEM text. Leave it out if this system
      trusts that authority already.

    Both ways take:

    - `state`: a file that remembers the newest catalogue entry that you have seen of each model, so that nobody can
      show you an older one. The default is the file that MOIETY_CLIENT_STATE names. Without a file, each client
      remembers for itself.
    - `timeout`: the seconds that a call may take, with all its repetitions.
    - `require_verified`: ask no model but verified ones, where a party that cheats is caught (else NotVerified).
    - `telemetry`: where spans go, and whether the service learns their ids. By default they go to the application's own
      OpenTelemetry.
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
        require_verified: bool = False,
        telemetry: Telemetry | None = None,
    ) -> None:
        super().__init__(catalogue_url, owner_key, token, key, state, timeout, require_verified, telemetry)
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
        require_verified: bool = False,
        telemetry: Telemetry | None = None,
    ) -> Self:
        """Make a client from the access file that the model's owner gave you.

        Pass `key`, the private key that your token is bound to, if the file holds none. `Client` explains the other
        arguments. Raises AccessFileError if the file cannot be used.
        """
        known = read_access(file, key) | {"state": state, "timeout": timeout}
        return cls(**known, require_verified=require_verified, telemetry=telemetry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. A `with` block does so at its end."""
        self._http.close()

    def names(self) -> list[str]:
        """Return the names of the published models. The list itself is not signed, so it is unverified. Raises
        CatalogueError or one of its subclasses."""
        return self._do(self._names())

    def models(self) -> list[Entry]:
        """Return the catalogue entries of all published models, each verified against the owner's key.

        Raises CatalogueError or one of its subclasses.
        """
        return self._do(self._models())

    def model(self, name: str, *, refresh: bool = False) -> Entry:
        """Return a model's catalogue entry, verified against the owner's key.

        The entry's `describe()` says what the model takes, gives and costs. The client keeps an entry until it expires;
        `refresh=True` reads it again. Raises CatalogueError or one of its subclasses.
        """
        return self._do(self._entry(name, refresh))

    def predict(self, model: str, images: Any, *, columns: Others = "strict", canaries: int = 0) -> Prediction:
        """Predict privately for one input or a stack of them, in order.

        `images` may be NumPy arrays, lists of numbers, torch tensors, PIL images, paths of picture or .npy files, or a
        list of any of these. For a model of a table: a DataFrame, a dictionary of columns, a list of dictionaries, an
        array of the columns in order, or the path of a .csv file; `columns="ignore"` leaves out columns that it does
        not take. For one of texts: texts, ids, or the Path of a .txt or .npy file. Iterators are read as in `stream`.

        `canaries` is how many inputs with known answers the client mixes among yours, to check the servers. The owner
        has published these answers, and only you know where the canaries are. If one comes back wrong, the client
        raises CanaryFailed. A canary costs as much as any other input.

        Raises InvalidInput before it sends anything if an input does not fit the model, and otherwise the errors of
        `moiety_client.errors`.
        """
        if inputs.is_lazy(images):
            return Prediction.joined(list(self.stream(model, images, columns=columns, canaries=canaries)))
        return self._do(self._ask(model, tasks.prediction(images, canaries, others=columns)))

    def stream(
        self,
        model: str,
        images: Iterable[Any] | Any,
        *,
        columns: Others = "strict",
        batch: int = BATCH,
        resume: Path | str | None = None,
        progress: bool = False,
        canaries: int = 0,
    ) -> Iterator[Prediction]:
        """Predict for many inputs, batch by batch, in order. The client reads each batch only when it is due.

        `images` are inputs or stacks of them, in any form that `predict` takes. `batch` is how many inputs go into one
        request; if the model takes fewer, the client sends fewer. `progress` draws a bar on stderr. `columns` and
        `canaries` are those of `predict`.

        `resume` names a file in which the client keeps the answers. It writes each batch to the disk before it yields
        it. After an interruption, make the same call again: batches that are in the file come from the file, and you
        pay for none of them twice. The request that was under way is not paid twice either, as long as the parties
        still accept it. They do for 5 minutes, unless they set MOIETY_PARTY_REQUEST_SECONDS. With `canaries` the
        client makes a new request instead, because it draws canaries anew.

        Raises ResumeRefused if the file holds other inputs, another model or another batch size, and otherwise what
        `predict` raises.
        """
        with Run(model, images, batch, canaries, resume, progress, columns) as run:
            for item in each(images):
                for rows in run.add(self.model(model), item):
                    yield self._batch(run, rows)
            for rows in run.rest():
                yield self._batch(run, rows)

    def _batch(self, run: Run, rows: inputs.Rows) -> Prediction:
        known = run.known(*self._do(self._looking_up(run.model)), rows)
        return known or run.keep(self._do(self._ask(run.model, run.task(rows))))

    def evaluate(
        self, model: str, images: Any, labels: npt.ArrayLike, *, columns: Others = "strict", reveal_to: str = "client"
    ) -> Evaluation:
        """Count how many inputs the model labels right.

        `labels` holds the true class of each input, as an int or as the class's name. For a model of a table, it may be
        the name of the column of `images` that holds them. `columns` is that of `predict`.

        For most models, the client asks for predictions and compares them here. If the owner published the model for
        evaluation only, the servers count in private and nothing but the count comes back. Then `reveal_to` names who
        learns the count, and nobody else does: "client", "owner" or "both".

        If there are more inputs than the entry's `max_rows`, the client sends several requests and adds up their
        shares before it joins them, so it learns only the sum. The owner reads the count of each request. Raises what
        `predict` raises.
        """
        return self._do(self._ask(model, tasks.evaluation(images, labels, reveal_to, columns)))

    def total(self, model: str, values: Any) -> npt.NDArray[np.float64]:
        """Return the sum of a model's outputs over all inputs, as an array of shape (output size,).

        This is for models that give out sums only (plans of kind "count"): you learn nothing about any single input's
        output. If there are many inputs, the client adds up several requests, as `evaluate` does. Raises what `predict`
        raises.
        """
        return self._do(self._ask(model, tasks.total(values)))

    def _do(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    came = self._perform(step)
                except BaseException as error:  # a cancellation must end the steps now, not when Python collects them
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
    """A client for asynchronous programs.

        async with AsyncClient.from_access("access.json") as client:
            answer = await client.predict("mnist", images)
            async for answer in client.stream("mnist", files):
                ...

    It takes the arguments of `Client` and has its methods, to await. `Client` explains them.
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
        require_verified: bool = False,
        telemetry: Telemetry | None = None,
    ) -> None:
        super().__init__(catalogue_url, owner_key, token, key, state, timeout, require_verified, telemetry)
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
        require_verified: bool = False,
        telemetry: Telemetry | None = None,
    ) -> Self:
        """Make a client from the access file that the model's owner gave you: see `Client.from_access`."""
        known = read_access(file, key) | {"state": state, "timeout": timeout}
        return cls(**known, require_verified=require_verified, telemetry=telemetry)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. An `async with` block does so at its end."""
        await self._http.aclose()

    async def names(self) -> list[str]:
        """Return the names of the published models, unverified: see `Client.names`."""
        return await self._do(self._names())

    async def models(self) -> list[Entry]:
        """Return the verified catalogue entries of all published models: see `Client.models`."""
        return await self._do(self._models())

    async def model(self, name: str, *, refresh: bool = False) -> Entry:
        """Return a model's verified catalogue entry: see `Client.model`."""
        return await self._do(self._entry(name, refresh))

    async def predict(self, model: str, images: Any, *, columns: Others = "strict", canaries: int = 0) -> Prediction:
        """Predict privately for one input or a stack of them: see `Client.predict`.

        `images` may also be an asynchronous iterator.
        """
        if inputs.is_lazy(images):
            parts = self.stream(model, images, columns=columns, canaries=canaries)
            return Prediction.joined([part async for part in parts])
        return await self._do(self._ask(model, tasks.prediction(images, canaries, others=columns)))

    async def stream(
        self,
        model: str,
        images: AsyncIterable[Any] | Iterable[Any] | Any,
        *,
        columns: Others = "strict",
        batch: int = BATCH,
        resume: Path | str | None = None,
        progress: bool = False,
        canaries: int = 0,
    ) -> AsyncIterator[Prediction]:
        """Predict for many inputs, batch by batch, in order: see `Client.stream`.

        `images` may also be an asynchronous iterator.
        """
        with Run(model, images, batch, canaries, resume, progress, columns) as run:
            async for item in each_async(images):
                entry = await self.model(model)
                slow = inputs.is_slow(item)
                full = await anyio.to_thread.run_sync(run.add, entry, item) if slow else run.add(entry, item)
                for rows in full:
                    yield await self._batch(run, rows)
            for rows in run.rest():
                yield await self._batch(run, rows)

    async def _batch(self, run: Run, rows: inputs.Rows) -> Prediction:
        known = run.known(*await self._do(self._looking_up(run.model)), rows)
        return known or run.keep(await self._do(self._ask(run.model, run.task(rows))))

    async def evaluate(
        self, model: str, images: Any, labels: npt.ArrayLike, *, columns: Others = "strict", reveal_to: str = "client"
    ) -> Evaluation:
        """Count how many inputs the model labels right: see `Client.evaluate`."""
        return await self._do(self._ask(model, tasks.evaluation(images, labels, reveal_to, columns)))

    async def total(self, model: str, values: Any) -> npt.NDArray[np.float64]:
        """Return the sum of a model's outputs over all inputs: see `Client.total`."""
        return await self._do(self._ask(model, tasks.total(values)))

    async def _do(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    came = await self._perform(step)
                except BaseException as error:  # a cancellation must end the steps now, not when Python collects them
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
