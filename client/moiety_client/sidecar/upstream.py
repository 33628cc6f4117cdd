"""The sidecar's client: the SDK's asynchronous client, with a few things that only a sidecar needs."""

import re
import time

import httpx

from moiety_client.client import AsyncClient
from moiety_client.core import no_answer
from moiety_client.errors import (
    CatalogueError,
    FromProblem,
    InvalidInput,
    MoietyError,
    ResultRejected,
    UnknownModel,
    UntrustedEntry,
)
from moiety_client.exchange import Call
from moiety_service.http import clients
from moiety_shared.messages.catalogue import Entry
from moiety_shared.problems import Problem, ProblemType

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class Upstream(AsyncClient):
    """An AsyncClient whose errors are problems that the sidecar can answer with."""

    async def names(self) -> list[str]:
        """Return the names of the published models. The list is not signed; each entry is. Raises Problem."""
        try:
            return await self._do(self._names())
        except MoietyError as error:
            raise problem_of(error) from error

    async def entry(self, name: str, version: str = "", *, refresh: bool = False) -> Entry:
        """Return a model's verified entry, of that version if `version` names one. Raises Problem."""
        if not _NAME.fullmatch(name):
            raise Problem(ProblemType.UNKNOWN_MODEL)
        try:
            entry = await self.model(name, refresh=refresh)
            if version and not refresh and str(entry.version) != version:
                entry = await self.model(name, refresh=True)
        except MoietyError as error:
            raise problem_of(error) from error
        check_version(entry, version)
        return entry

    async def check_ready(self, entry: Entry) -> None:
        """Raise Problem unless the parties would take a request now."""
        with no_answer():
            ready = f"{entry.parties[0].url}/health/ready"
            clients.check(await self._http.get(ready))

    async def exchange(self, call: Call, seconds: float) -> httpx.Response:
        """Send a call until it is answered. Whoever made the call opens the answer. Raises Problem."""
        try:
            with self._telemetry.call("predict") as asking:
                return await self._do(self._deliver(call, time.monotonic() + min(seconds, self._timeout), asking))
        except MoietyError as error:
            raise problem_of(error) from error


def check_version(entry: Entry, version: str) -> None:
    """Raise Problem if `version` names another version than the entry's."""
    if version and str(entry.version) != version:
        raise Problem(ProblemType.UNKNOWN_MODEL, "the catalogue has another version of it")


def problem_of(error: MoietyError) -> Problem:
    """Return the problem document that says what an error of the client says."""
    match error:
        case FromProblem():
            return error.problem
        case InvalidInput():
            return Problem(ProblemType.INVALID_INPUT, str(error))
        case UnknownModel():
            return Problem(ProblemType.UNKNOWN_MODEL)
        case UntrustedEntry() | ResultRejected():
            return Problem(ProblemType.UNTRUSTED, str(error))
        case CatalogueError() if isinstance(error.__cause__, Problem):
            return error.__cause__
        case CatalogueError():
            return Problem(ProblemType.CATALOGUE_UNAVAILABLE)
    return Problem(ProblemType.INTERNAL)
