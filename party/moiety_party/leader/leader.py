"""alice's part in a prediction: she lets the client's request in, runs it with bob, and returns both sealed shares."""

import asyncio

from moiety_party.admission import ANYBODY, client_pays
from moiety_party.capacity import request_rows
from moiety_party.envelopes import open_envelope
from moiety_party.lane import Refused
from moiety_party.leader.journal import Journal
from moiety_party.leader.lanes import Connect, Lanes, connect
from moiety_party.leader.leases import Leases
from moiety_party.leader.queue import RunStats, Waiting
from moiety_party.leader.requests import Requests
from moiety_party.leader.runs import Runs
from moiety_party.leader.suspects import Suspects
from moiety_party.party import Party
from moiety_party.store import Model
from moiety_service.observability import tracing
from moiety_shared.crypto.tokens import Grant
from moiety_shared.messages.wire import Asked, FrameKind, Request


class Leader:
    """alice: faces the clients, and leads bob."""

    def __init__(self, party: Party, connect: Connect = connect) -> None:
        """`connect` opens a link to bob."""
        self._party = party
        seconds = 2 * party.settings.request_seconds
        journal = Journal(party.state, party.boot, seconds) if party.state.shared else None
        self._requests = Requests(seconds, journal)
        self._suspects = Suspects()
        self._lanes = Lanes(party, connect)
        self._leases = Leases(party, self._lanes)
        self._runs = Runs(party, self._lanes, self._leases, self._suspects)
        party.replicas.start()

    async def close(self) -> None:
        await self._runs.close()
        await self._leases.close()
        await self._lanes.close()

    async def ready(self) -> None:
        """Raises a Problem while alice could serve no prediction."""
        if not self._lanes.all_lent:  # if all are lent, bob is there: runs are under way on every lane
            async with self._lanes.lend() as lane:
                await lane.send_json(FrameKind.PING, {})
                await lane.expect(FrameKind.STOCK)
        await self._party.pools.check_stock(model.upload_id for model in self._party.store.all())

    async def predict(self, body: bytes, token: str | None) -> tuple[bytes, RunStats]:
        """Serve a client's request. Returns both sealed result shares, and what the run took.

        Raises a Problem of alice's own, or Refused with bob's.
        """
        party = self._party
        request = Request.unpack(body)
        model = await party.replicas.model(request.binding.upload_id.hex())
        grant = party.admission.admit(model, token)
        request.check(model.plan, request_rows(party.settings, model.plan))
        party.admission.check_time(request.binding, party.settings.request_seconds, 0)
        stats = RunStats()

        async def run() -> bytes:
            return await self._run(model, request, grant, token or "", stats)

        subject, name = grant.subject if grant else ANYBODY, model.manifest.name
        counted = party.metrics.prediction(name, request.rows)
        audited = party.audit.event(
            "prediction", subject=subject, model=name, upload=model.upload_id, rows=request.rows
        )
        with counted, audited:
            try:
                return await self._requests.once(request.binding, subject, run), stats
            finally:  # when the answer is out
                tell = stats.timeline.tell
                asyncio.get_running_loop().call_soon(tell, party.tracer, tracing.current(), party.metrics.phase)

    async def _run(self, model: Model, request: Request, grant: Grant | None, token: str, stats: RunStats) -> bytes:
        """Open alice's envelope, count the request against the client's quota, and run it.

        alice opens her envelope before any row is taken, so a request that she cannot open burns none. Where the token
        is bound to a key, she opens it before she counts, so nobody but the key's holder uses up the quota. The quota
        pays for no failure that was not the client's doing.
        """
        party = self._party
        party.kept_runs.check(request.binding.request_id)
        proven = await open_envelope(party, 0, model, request, grant, token) if grant and grant.key else None
        receipt = await party.admission.spend(model, grant, request.rows)
        waiting: Waiting | None = None
        try:
            secret = proven or await open_envelope(party, 0, model, request, grant, token)
            stats.timeline.passed("open")
            asked = Asked(tracing.pack(tracing.current()), token, request)
            client = (model.manifest.owner_key, grant.subject) if grant else None
            waiting = Waiting(model, secret, asked, client, stats)
            with party.pools.running():
                return await self._runs.answer(waiting)
        except BaseException as error:
            again = waiting is not None and waiting.first is not None
            if not client_pays(error, by_bob=isinstance(error, Refused), again=again):
                await party.admission.refund(receipt)
            elif isinstance(error, Refused):
                self._suspects.note(model, token)
            raise
