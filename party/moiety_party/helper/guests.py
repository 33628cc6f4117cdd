"""The clients' requests of one run at bob: each is let in, counted and answered by itself, or refused by itself."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moiety_party.admission import Receipt
from moiety_party.capacity import request_rows
from moiety_party.envelopes import open_envelope
from moiety_party.helper.answered import Answered
from moiety_party.party import Party
from moiety_party.results import ResultShare, sealed_result
from moiety_party.store import Model
from moiety_service.observability.logs import log, where
from moiety_shared import fixed_point
from moiety_shared.crypto.prg import Stream
from moiety_shared.crypto.tokens import Grant
from moiety_shared.messages.wire import Asked, Outcome, Request, Secret, malformed
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.ring import Array


@dataclass(eq=False)
class Guest:
    """One client's request in a run. It has a problem once bob refuses it, and then nothing of it is given out."""

    asked: Asked
    grant: Grant | None = None
    secret: Secret | None = None
    receipt: Receipt | None = None
    problem: Problem | None = None

    @property
    def request(self) -> Request:
        return self.asked.request


class Guests:
    """The requests of one run, in the order of their rows. None of them changes what another is answered."""

    def __init__(self, party: Party, answered: Answered, model: Model, asked: Sequence[Asked]) -> None:
        self._party, self._answered = party, answered
        self.model = model
        self.all = [Guest(one) for one in asked]
        self._spending: asyncio.Future[list[None]] | None = None

    @property
    def welcome(self) -> list[Guest]:
        """Those that have no problem."""
        return [guest for guest in self.all if guest.problem is None]

    async def let_in(self) -> None:
        """Check all of each request, and open what its client sealed to bob."""
        for guest in self.all:
            try:
                await self._let_in(guest)
            except Problem as problem:
                guest.problem = problem
            except Exception as error:  # whatever a request brings about is its own
                log().error("unexpected", where=where(error))
                guest.problem = Problem(ProblemType.INTERNAL)

    async def _let_in(self, guest: Guest) -> None:
        party, plan, request, token = self._party, self.model.plan, guest.request, guest.asked.token
        if request.binding.plan_digest != plan.digest or not 1 <= request.rows <= request_rows(party.settings, plan):
            raise malformed("the leader's request does not fit the model")
        guest.grant = party.admission.admit(self.model, token)
        party.admission.check_time(request.binding, party.settings.request_seconds, 1)
        guest.secret = await open_envelope(party, 1, self.model, request, guest.grant, token)
        self._answered.check(request.binding.request_id)
        party.kept_runs.check(request.binding.request_id)

    def begin_spending(self) -> None:
        """Begin to count each request against its client's quota, if it has one."""
        counted = [guest for guest in self.welcome if guest.grant is not None and guest.grant.quota is not None]
        if counted:
            self._spending = asyncio.gather(*map(self._spend, counted))

    async def _spend(self, guest: Guest) -> None:
        try:
            guest.receipt = await self._party.admission.spend(self.model, guest.grant, guest.request.rows)
        except Problem as problem:
            guest.problem = problem

    async def spent(self) -> None:
        """Wait until all is counted."""
        if self._spending is not None:
            await self._spending

    async def take_back(self) -> None:
        """Give back all that was counted, once it is."""
        if self._spending is not None:
            await asyncio.gather(self._spending, return_exceptions=True)
        await self._refund(self.all)

    async def _refund(self, guests: Sequence[Guest]) -> None:
        for guest in guests:
            receipt, guest.receipt = guest.receipt, None
            await self._party.admission.refund(receipt)

    def shares(self) -> Array:
        """bob's shares of all inputs, (rows, ring elements of each). They are zeros for requests that he refuses: their
        rows are taken all the same, and what is opened of them has one-time masks as ever."""
        plan = self.model.plan
        dtype, size = fixed_point.ring_dtype(plan.ring_bits), plan.input.shared_size
        return np.concatenate(
            [
                Stream(bytes(guest.secret.share), "input").words("share", (guest.request.rows, size), dtype)
                if guest.secret is not None and guest.problem is None
                else np.zeros((guest.request.rows, size), dtype)
                for guest in self.all
            ]
        )

    def secrets(self) -> list[Secret | None]:
        """What each client sealed to bob; None for requests that he refuses."""
        return [None if guest.problem is not None else guest.secret for guest in self.all]

    def rows(self) -> list[int]:
        """How many rows each request has."""
        return [guest.request.rows for guest in self.all]

    async def outcomes(self, shares: Sequence[ResultShare]) -> list[Outcome]:
        """Seal bob's share of each request's result, of those that he does not refuse.

        The share of a request leaves once: one that left before is refused now, and what was counted for it is given
        back. So nothing may fail between this and the frame that carries the outcomes.
        """
        welcome = self.welcome
        late = await self._answered.note([guest.request.binding.request_id for guest in welcome])
        for place, problem in late.items():
            welcome[place].problem = problem
        await self._refund([welcome[place] for place in late])
        outcomes = list[Outcome]()
        for guest, share in zip(self.all, shares, strict=True):
            if guest.problem is not None:
                outcomes.append(guest.problem)
            elif guest.secret is not None:
                outcomes.append(sealed_result(self.model.plan, 1, share, guest.secret, guest.request.binding))
        return outcomes
