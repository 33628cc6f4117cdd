"""What both clients do, written once as steps without I/O (see `steps.py`).

A client reads the signed catalogue, sends a request until it is answered, and reads a model's entry again if it is old.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_client.catalogue import CatalogueReader
from moiety_client.errors import (
    AccessFileError,
    NotVerified,
    UnknownModel,
    from_problem,
)
from moiety_client.exchange import Call, Sealer, TokenHolder
from moiety_client.settings import SdkSettings
from moiety_client.state import StateFile
from moiety_client.steps import Fetch, Steps, Work
from moiety_client.tasks import Answer, Draw, Result, Task
from moiety_client.telemetry import Asking, Telemetry
from moiety_service import files
from moiety_service.http import clients
from moiety_shared.crypto.possession import private_from_pem
from moiety_shared.messages.access import AccessFile
from moiety_shared.messages.wire import MEDIA_TYPE, answer_bytes
from moiety_shared.problems import Problem, ProblemType

# The model may have been republished, or a party's key replaced, since the entry was read.
_ENTRY_IS_OLD = (ProblemType.UNKNOWN_MODEL, ProblemType.KEY_RETIRED)
_LEAST_SECONDS = 0.05
_MAX_ACCESS_BYTES = 1 << 20  # a file with the certificates of a few CAs has some thousand
_FIRST_PAUSE = 0.05


class Core(CatalogueReader):
    """What `Client` and `AsyncClient` have in common: all but the transport that carries their requests."""

    def __init__(
        self,
        catalogue_url: str,
        owner_key: str,
        token: str,
        key: Path | str | None,
        state: Path | str | None,
        timeout: float,
        require_verified: bool,
        telemetry: Telemetry | None,
    ) -> None:
        settings = SdkSettings()
        holder = TokenHolder(token, private_key(key or settings.key_file))
        seen = StateFile(Path(state) if state else settings.state)
        super().__init__(catalogue_url, owner_key, holder, seen, timeout)
        self._telemetry = telemetry or Telemetry()
        self._require_verified = require_verified

    def _ask(self, model: str, task: Task[Result]) -> Steps[Result]:
        with self._telemetry.call("predict") as asking:
            return (yield from self._asked(model, task, asking))

    def _asked(self, model: str, task: Task[Result], asking: Asking) -> Steps[Result]:
        started = time.perf_counter()
        deadline = time.monotonic() + self._timeout
        for refresh in (False, True):
            sealer = yield from self._sealer(model, refresh)
            if self._require_verified and sealer.entry.plan.verified is None:
                raise NotVerified(f"{model!r} is not verified: ask its owner, or ask without require_verified")
            try:
                vocabulary = yield from self._vocabulary(sealer.entry)
            except UnknownModel:  # withdrawn since the entry was read
                if refresh:
                    raise
                continue
            asking.passed("catalogue")
            encode = partial(task.encode, sealer.entry, vocabulary)
            elements = (yield Work(encode)) if task.slow or vocabulary else encode()
            calls = sealer.calls(elements, task.recipients, partial(task.draw, sealer.entry))
            asking.passed("seal")
            try:
                answers = []
                for call in calls:
                    anew = partial(self._anew, sealer, call, task.redraw)
                    answers.append((yield from self._answer(call, anew, deadline, asking)))
                asking.passed("exchange")
                result = task.finish(sealer.entry, elements, answers, started)
                asking.passed("open")
                return result
            except Problem as problem:
                unknown = problem
        raise from_problem(unknown)

    def _answer(self, call: Call, anew: Callable[[], Call], deadline: float, asking: Asking) -> Steps[Answer]:
        """Send a request and read its answer. If the request is too old for the parties, make a new one, once."""
        try:
            return _read(call, (yield from self._deliver(call, deadline, asking)))
        except Problem as problem:
            if problem.kind is not ProblemType.REQUEST_EXPIRED:
                raise
        call = anew()
        try:
            return _read(call, (yield from self._deliver(call, deadline, asking)))
        except Problem as problem:
            if problem.kind is ProblemType.REQUEST_EXPIRED:
                raise from_problem(problem) from None
            raise

    @staticmethod
    def _anew(sealer: Sealer, call: Call, redraw: Draw) -> Call:
        """Make another request with the inputs of `call`."""
        elements = call.elements()
        return sealer.call(elements, call.recipients, redraw(sealer.entry, elements))

    def _deliver(self, call: Call, deadline: float, asking: Asking) -> Steps[httpx.Response]:
        """Send the very same request until it is answered. Raises Problem if the entry or the request is too old."""
        url = f"{call.entry.parties[0].url}/v1/predictions"
        headers = {"content-type": MEDIA_TYPE} | asking.headers
        most = answer_bytes(call.entry.plan, call.rows, call.recipients)
        if self._holder.token:
            headers["authorization"] = f"Bearer {self._holder.token}"
        pause = 0.0
        while True:
            left = max(deadline - time.monotonic() - pause, _LEAST_SECONDS)
            try:
                with no_answer():
                    return clients.check((yield Fetch("POST", url, left, most, headers, call.body, after=pause)))
            except Problem as problem:
                if problem.kind in (*_ENTRY_IS_OLD, ProblemType.REQUEST_EXPIRED):
                    raise
                pause = _pause(problem, deadline, pause)


def _read(call: Call, response: httpx.Response) -> Answer:
    return Answer(
        call.shares(response.content),
        clients.count(response, "moiety-rounds"),
        clients.count(response, "moiety-online-bytes"),
        call.for_owner(response.content),
    )


def _pause(problem: Problem, deadline: float, before: float) -> float:
    """Return the seconds until the next attempt: twice those `before` the last one, but no more than the service asks.

    Raises the problem's exception if there is no next attempt.
    """
    pause = min(max(2 * before, _FIRST_PAUSE), float(problem.retry_after or 0))
    if problem.retry_after is None or problem.kind is ProblemType.QUOTA_EXCEEDED or time.monotonic() + pause > deadline:
        raise from_problem(problem) from None
    return pause


@contextmanager
def no_answer() -> Iterator[None]:
    """Turn a connection that fails into a Problem, like any other."""
    try:
        yield
    except httpx.HTTPError as error:
        raise Problem(
            ProblemType.PARTY_UNAVAILABLE, f"{error.request.url.host} does not answer ({type(error).__name__})"
        ) from error


def private_key(key: Path | str | None) -> Ed25519PrivateKey | None:
    """Read a private key, from a file if `key` is a Path, else from PEM text. Raises AccessFileError."""
    if not key:
        return None
    name = "the key in the access file" if isinstance(key, str) else str(key)
    try:
        if isinstance(key, str):
            return private_from_pem(key.encode())
        if os.name == "posix" and key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise AccessFileError(f"{name} can be read or changed by other users: chmod go-rwx {name}")
        return private_from_pem(key.read_bytes())
    except (OSError, ValueError) as error:
        raise AccessFileError(
            f"{name} is not the PEM of an Ed25519 private key ({type(error).__name__}): name the file that `moiety "
            "keys client` made, or ask the model's owner for a new access file"
        ) from None


def read_access(file: Path | str, key: Path | str | None = None) -> dict[str, Any]:
    """Read an access file into a client's arguments. A `key` takes the place of the file's. Raises AccessFileError."""
    try:
        access = AccessFile.model_validate_json(files.content(Path(file), _MAX_ACCESS_BYTES))
    except Problem as problem:
        raise AccessFileError(f"{file}: {problem}. {problem.kind.hint}") from None
    except (OSError, ValueError) as error:
        raise AccessFileError(
            f"{file} is not an access file ({type(error).__name__}): ask the model's owner for one"
        ) from None
    members = access.model_dump(exclude={"format"})
    return members | {"key": key} if key else members


@contextmanager
def trusting() -> Iterator[None]:
    """Raise AccessFileError if the code in the `with` block cannot read a CA."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise AccessFileError(
            f"the CA is not a certificate in PEM form ({type(error).__name__}): ask the owner for a new access file"
        ) from None
