"""What `moiety status` finds out about the roles.

It asks each role for what anybody may know. It learns more about a role if it can read that role's metrics.
"""

import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from moiety_client.client import Client
from moiety_client.errors import MoietyError
from moiety_service.http import clients
from moiety_shared.messages.access import AccessFile
from moiety_shared.messages.catalogue import Entry
from moiety_shared.problems import PROBLEM_JSON, Problem, ProblemType

_SECONDS = 5.0
_MOST_METRICS = 1 << 24  # a role has some hundred lines of them, and some for each model
_LISTED = 3
# If alice is not ready for one of these reasons, bob did answer her: see the leader's `ready`.
_ALICE_REACHED_BOB = (ProblemType.RANDOMNESS_EXHAUSTED, ProblemType.PROVIDER_UNAVAILABLE)
Sample = tuple[str, Mapping[str, str], float]


@dataclass(frozen=True)
class PoolLevel:
    """How much randomness a party has in stock for a model, in rows. One prediction of one input takes one row."""

    model: str
    version: str
    rows: int
    target: int


@dataclass(frozen=True)
class LastProblem:
    """A problem that a role answered with, and when it last did."""

    problem: str
    time: float


@dataclass(frozen=True)
class Role:
    """The state of one role now. Times are seconds since 1970. What is not known is None or empty.

    `state` is "ready", "not ready", "down" or "not reachable". A role is "not reachable" if it gave no answer here and
    the role that should reach it cannot tell. If this machine cannot ask a role, `told_by` names the role that said how
    it is.
    """

    role: str
    url: str
    state: str
    problem: str = ""
    version: str = ""
    certificate_expires: float | None = None
    pools: Sequence[PoolLevel] = ()
    last_problems: Sequence[LastProblem] = ()
    rates: Mapping[str, float] = field(default_factory=dict)  # per second
    now: Mapping[str, float] = field(default_factory=dict)
    told_by: str = ""


@dataclass(frozen=True)
class PublishedModel:
    """A model in the owner's catalogue."""

    name: str
    version: int
    description: str
    expires: float  # clients believe its entry until then


@dataclass(frozen=True)
class Status:
    """The state of all roles at one time, and the models of the catalogue."""

    time: float
    roles: Sequence[Role]
    models: Sequence[PublishedModel]

    @property
    def well(self) -> bool:
        """Whether every role that was asked is ready."""
        return bool(self.roles) and all(role.state == "ready" for role in self.roles)


RATES = {
    "moiety_predictions_total": "predictions",
    "moiety_prediction_rows_total": "inputs",
    "moiety_client_predictions_total": "predictions",
    "moiety_dealt_bundles_total": "bundles",
    "moiety_dealt_rows_total": "rows dealt",
    "moiety_refused_requests_total": "refused",
}
NOW = {
    "moiety_runs_in_flight": "runs",
    "moiety_runs_waiting": "waiting",
    "moiety_http_requests_in_flight": "requests",
    "moiety_connections": "connections",
    "moiety_peer_lanes": "lanes",
    "moiety_opened_leases_total": "leases opened",
    "moiety_published_models": "models",
}


class Observer:
    """Asks the roles again and again. Use it as a context manager. A rate is measured between two looks."""

    def __init__(self, access_file: Path | None, sidecar: str, metrics: Sequence[str]) -> None:
        """Pass a client's access file, the address where a sidecar may run, and the metrics addresses to read.

        Raises AccessFileError.
        """
        self._catalogue_url, self._client = "", None
        if access_file is not None:
            self._client = Client.from_access(access_file, timeout=_SECONDS)
            access = AccessFile.model_validate_json(access_file.read_bytes())
            self._catalogue_url = access.catalogue_url.rstrip("/")
            self._public = clients.client("", timeout=_SECONDS, ca=access.ca)
        self._local = clients.client("", timeout=_SECONDS)
        self._sidecar = sidecar
        self._metrics = metrics
        self._before: dict[str, tuple[float, dict[str, float]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._local.close()
        if self._client is not None:
            self._client.close()
            self._public.close()

    def look(self) -> Status:
        """Ask all roles once. This does not raise if a role does not answer: that is a state of the role."""
        roles: dict[str, Role] = {}
        models = list(self._catalogue(self._client, roles)) if self._client else []
        for url in self._metrics:
            operated = self._operated(url.rstrip("/"))
            seen = roles.get(operated.role)
            roles[operated.role] = operated if seen is None else _both(seen, operated)
        order = ("server", "alice", "bob", "crypto_provider", "client")
        ranked = sorted(roles.values(), key=lambda r: order.index(r.role) if r.role in order else len(order))
        return Status(time.time(), ranked, models)

    def _catalogue(self, client: Client, roles: dict[str, Role]) -> Iterator[PublishedModel]:
        own, _ = _asked("client", self._sidecar, self._local.get)
        if own.state != "down":  # a client that uses the SDK runs no sidecar
            roles["client"] = own
        roles["server"], _ = _asked("server", self._catalogue_url, self._public.get)
        if roles["server"].state == "down":
            return
        try:
            entries = client.models()
        except MoietyError as error:
            roles["server"] = replace(roles["server"], state="not ready", problem=str(error))
            return
        if entries:
            roles |= self._parties(entries[0])
        for entry in entries:
            yield PublishedModel(entry.name, entry.version, entry.description, entry.expires)

    def _parties(self, entry: Entry) -> dict[str, Role]:
        """Ask both parties. A client need not reach bob: alice reaches him, and is ready only if he answers her."""
        at_alice, at_bob = entry.parties
        alice, said = _asked("alice", at_alice.url, self._public.get)
        bob, _ = _asked("bob", at_bob.url, self._public.get)
        if bob.state == "down":
            bob = _as_alice_says(bob, alice, said)
        return {"alice": alice, "bob": bob}

    def _operated(self, url: str) -> Role:
        """Return the state of a role whose metrics can be read."""
        try:
            text = self._local.get(f"{url}/metrics", extensions=clients.at_most(_MOST_METRICS)).raise_for_status().text
            seen, _ = _asked("", url, self._local.get)
            samples = list(_samples(text))
        except (httpx.HTTPError, ValueError) as error:
            return Role(url, url, "down", f"does not answer ({type(error).__name__})")
        info = next((labels for name, labels, _ in samples if name == "moiety_build_info"), {})
        expires = next((v for name, _, v in samples if name == "moiety_certificate_expiry_timestamp_seconds"), None)
        return Role(
            info.get("role", url),
            url,
            seen.state,
            seen.problem,
            info.get("version", ""),
            expires,
            tuple(_pools(samples)),
            tuple(_last(samples)),
            self._rates(url, _summed(samples, RATES)),
            _summed(samples, NOW),
        )

    def _rates(self, url: str, totals: dict[str, float]) -> dict[str, float]:
        now = time.monotonic()
        then, before = self._before.get(url, (now, {}))
        self._before[url] = now, totals
        if now == then:
            return {}
        # A counter that fell belongs to a process that started again.
        return {name: max(value - before.get(name, 0.0), 0.0) / (now - then) for name, value in totals.items()}


def _asked(role: str, url: str, get: Callable[..., httpx.Response]) -> tuple[Role, ProblemType | None]:
    """Ask a role what it tells anybody: whether it is ready, and until when its certificate is valid.

    Returns the kind of its problem too, if it names one.
    """
    try:
        answer = get(f"{url}/health/ready")
    except httpx.HTTPError as error:
        return Role(role, url, "down", f"does not answer ({type(error).__name__})"), None
    expires = _expiry(answer)
    if answer.is_success:
        return Role(role, url, "ready", certificate_expires=expires), None
    if not answer.headers.get("content-type", "").startswith(PROBLEM_JSON):
        return Role(role, url, "not ready", f"HTTP {answer.status_code}", certificate_expires=expires), None
    problem = Problem.from_document(clients.document(answer))
    return Role(role, url, "not ready", str(problem), certificate_expires=expires), problem.kind


def _as_alice_says(bob: Role, alice: Role, said: ProblemType | None) -> Role:
    """Return bob's state as alice's own state tells it, because bob gave no answer here."""
    if alice.state == "ready" or said in _ALICE_REACHED_BOB:
        return replace(
            bob, state="ready", problem="not reachable from here; clients need not reach it", told_by="alice"
        )
    if said is ProblemType.PEER_UNAVAILABLE:
        return replace(bob, state="down", problem="bob does not answer alice either", told_by="alice")
    if said is ProblemType.PEER_VERSION:
        return replace(bob, state="not ready", problem=ProblemType.PEER_VERSION.title, told_by="alice")
    return replace(
        bob, state="not reachable", problem="bob does not answer here, and alice's state does not tell bob's"
    )


def _expiry(answer: httpx.Response) -> float | None:
    stream = answer.extensions.get("network_stream")
    tls = stream.get_extra_info("ssl_object") if stream is not None else None
    certificate = tls.getpeercert() if tls is not None else None
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"]))) if certificate else None


def _both(seen: Role, operated: Role) -> Role:
    """Join what clients know of a role and what its metrics tell.

    The result has the address that clients know, and the worse of both states.
    """
    worse = seen if seen.state != "ready" else operated
    expires = operated.certificate_expires or seen.certificate_expires
    return replace(operated, url=seen.url, state=worse.state, problem=worse.problem, certificate_expires=expires)


def _samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        yield from ((sample.name, sample.labels, sample.value) for sample in family.samples)


def _pools(samples: list[Sample]) -> Iterator[PoolLevel]:
    def by_model(wanted: str) -> dict[tuple[str, str], int]:
        return {(of["model"], of["version"]): int(value) for name, of, value in samples if name == wanted}

    targets = by_model("moiety_pool_target_rows")
    for (model, version), rows in by_model("moiety_pool_rows").items():
        yield PoolLevel(model, version, rows, targets.get((model, version), 0))


def _last(samples: list[Sample]) -> list[LastProblem]:
    """Return the most recent problems, newest first."""
    found = [
        LastProblem(of["problem"], value)
        for name, of, value in samples
        if name == "moiety_last_refused_request_timestamp_seconds" and of["problem"] in ProblemType.__members__
    ]
    return sorted(found, key=lambda last: -last.time)[:_LISTED]


def _summed(samples: list[Sample], names: Mapping[str, str]) -> dict[str, float]:
    """Sum each metric in `names` over all its labels."""
    summed: dict[str, float] = {}
    for name, _, value in samples:
        if name in names:
            summed[names[name]] = summed.get(names[name], 0.0) + value
    return summed
