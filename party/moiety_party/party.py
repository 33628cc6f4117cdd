"""What alice and bob both have: identity, state, models, pools, and the way to the provider."""

import base64
import secrets
from collections.abc import Sequence

import httpx
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry

from moiety_party.admission import Admission
from moiety_party.metrics import PartyMetrics
from moiety_party.models import Models, open_store
from moiety_party.pools import Pools
from moiety_party.provider import Provider
from moiety_party.replicas import Replicas
from moiety_party.settings import PartySettings
from moiety_party.state import State
from moiety_party.statements import KeptRuns, RunWitness
from moiety_party.store import Model
from moiety_party.threads import Threads
from moiety_party.verified import Checks
from moiety_service.database import location
from moiety_service.http import clients
from moiety_service.observability import tracing
from moiety_service.observability.audit import Audit
from moiety_service.security.identity import Identity
from moiety_shared.messages.statements import RunTranscript, TranscriptRequest, audit_key
from moiety_shared.messages.wire import Outcome, Secret, Start
from moiety_shared.problems import Problem, ProblemType


class Party:
    """alice or bob, without what her Leader or his Helper adds."""

    def __init__(
        self,
        settings: PartySettings,
        identity: Identity,
        provider: httpx.AsyncClient | None = None,
        metrics: PartyMetrics | None = None,
        tracer: Tracer = tracing.NOBODY,
    ) -> None:
        """`provider` is the way to the crypto provider; by default, to the one that the settings name.

        Raises UnreadableModel when a stored model cannot be read.
        """
        self.settings = settings
        self.identity = identity
        self.metrics = metrics or PartyMetrics(settings.role, CollectorRegistry())
        self.tracer = tracer
        self.boot = secrets.token_hex(8)  # this process's name among the replicas
        folder = settings.private_dir()
        self.state = State(location(settings, settings.role, "state.sqlite"), settings.role)
        self.store = open_store(settings, identity, self.state)
        self.threads = Threads(settings.lanes)
        self.tls = clients.tls_context(identity.ca_file)
        self._http = provider or clients.asyncio_client(
            settings.provider_url,
            credential=identity.credential("crypto_provider"),
            timeout=30,
            ca=identity.ca_file,
        )
        self.provider = Provider(self._http, self.metrics.provider_bytes)
        self.pools = Pools(settings, self.store, self.provider, self.threads.offline, self.metrics, tracer)
        self.checks = Checks(self.state, self.metrics, self.threads.online, self.boot, settings.run_seconds)
        self.models = Models(settings, identity, self.state, self.store, self.provider, self.pools, self.threads)
        self.replicas = Replicas(self.boot, self.state, self.store, self.pools.drop_model)
        self.admission = Admission(self.state)
        self.audit = Audit(folder / "audit.jsonl")
        self.kept_runs = KeptRuns()

    def witness(self, model: Model, start: Start, ticket: str, secrets: Sequence[Secret | None]) -> RunWitness | None:
        """Who signs what both parties send in this run; None for a model whose runs are not signed.

        What the other party signed is kept for a while for each request: of a verified run whatever comes of it, of
        any other if it was answered. `secrets` are the requests', None for one that is refused.
        """
        if model.manifest.statement_keys is None:
            return None

        def keep(witness: RunWitness, outcomes: Sequence[Outcome]) -> None:
            for place, secret in enumerate(secrets):
                refused = bool(outcomes) and isinstance(outcomes[place], Problem)
                if secret is not None and (witness.is_verified or not refused):
                    key = audit_key(secret.result_key, secret.request_id)
                    self.kept_runs.keep(witness, place, secret.request_id, ticket, key)

        return RunWitness(self.settings.party, model, self.identity.statement_key, start, keep)

    async def transcript(self, upload_id: str, asked: TranscriptRequest) -> RunTranscript:
        """Show the owner what the other party signed of one of the owner's own requests, and this party's words of its
        rows, which the crypto provider seals to the owner while the lease lives.

        Raises Problem NOT_FOUND unless whoever asks proves to have sent the request.
        """
        kept = self.kept_runs.get(upload_id, bytes.fromhex(asked.request_id), bytes.fromhex(asked.proof))
        try:
            place = kept.lease_id, kept.ticket, kept.first_row, kept.rows
            words = await self.provider.words(*place, asked.challenge)
        except Problem as problem:
            if problem.kind is not ProblemType.UNKNOWN_LEASE:
                raise
            words = b""
        return RunTranscript(peer=kept.shown(), words=base64.b64encode(words).decode())

    async def close(self) -> None:
        await self.replicas.close()
        await self.pools.close()
        await self._http.aclose()
        await self.admission.close()
        self.state.close()
        self.audit.close()
        self.threads.close()
