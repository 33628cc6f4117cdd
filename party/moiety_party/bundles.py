"""Prepares a bundle layer by layer, in the offline thread. bob prepares one layer while the next is on its way.

The raw bundle is never in memory as a whole. Small layers are prepared in one step, so that a tiny model does not pay
for many steps. Other models' steps come in between, so that a large model does not hold them up.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor
from contextlib import aclosing

import numpy as np

from moiety_party.provider import LeaseGrant, Provider
from moiety_party.store import Model
from moiety_party.verified import VerifiedLease
from moiety_shared.crypto.prg import Stream
from moiety_shared.plan.layers import Layer
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols.preparation import Preparation, PreparedRows
from moiety_shared.protocols.verified.layout import NUMBERS, views

_STEP_BYTES = 1 << 20  # of corrections


async def prepare_bundle(
    model: Model, party: int, grant: LeaseGrant, number: int, provider: Provider, offline: Executor
) -> PreparedRows:
    """Prepare bundle `number` of a lease. bob fetches its corrections from the provider, which issues them once.

    Raises a Problem when the provider does not send them as they were dealt.
    """
    loop = asyncio.get_running_loop()
    stream = Stream(grant.seed, "bundle", number)
    preparation = Preparation(model.plan, party, grant.rows, stream, model.weights)
    steps = _steps(model.plan, grant.rows)
    pending: asyncio.Future[None] | None = None
    try:
        async with aclosing(_corrections(preparation, steps, grant, number, provider)) as received:
            async for step, raw in received:
                if pending is not None:
                    await pending
                pending = loop.run_in_executor(offline, _prepare, preparation, step, raw)
        if pending is not None:
            await pending
    finally:
        if pending is not None:
            pending.cancel()
    return preparation.ready


async def receive_bundle(
    lease: VerifiedLease, party: int, grant: LeaseGrant, number: int, provider: Provider
) -> PreparedRows:
    """Get bundle `number` of a lease whose runs are verified: the numbers of its rows, and what the provider sends bob.

    No row is prepared. Raises a Problem when the provider does not send what was dealt.
    """
    rows, row = grant.rows, lease.model.layout.row
    bundle: PreparedRows = {NUMBERS: (np.arange(rows) + number * rows, np.full(rows, None))}
    if party:
        sizes = [rows * sum(part.row_bytes for part in parts) for parts in row.values()]
        async with aclosing(provider.bundle(grant, number, sizes)) as received:
            raw = [part async for part in received]
        bundle |= {name: views(parts, one, rows) for (name, parts), one in zip(row.items(), raw, strict=True)}
    return bundle


def _prepare(preparation: Preparation, layers: Sequence[Layer], raw: Sequence[bytes | bytearray]) -> None:
    for layer, corrections in zip(layers, raw, strict=True):
        preparation.add(layer, corrections)


async def _corrections(
    preparation: Preparation, steps: Sequence[Sequence[Layer]], grant: LeaseGrant, number: int, provider: Provider
) -> AsyncGenerator[tuple[Sequence[Layer], list[bytes | bytearray]], None]:
    """Yield each step with the corrections of its layers. They are empty at alice: the provider sends her none."""
    sizes = [preparation.wanted(layer) for step in steps for layer in step]
    if not any(sizes):
        for step in steps:
            yield step, [b""] * len(step)
        return
    async with aclosing(provider.bundle(grant, number, sizes)) as parts:
        for step in steps:
            yield step, [await anext(parts) for _ in step]
        async for _ in parts:  # nothing is left, but the stream is checked at its end
            pass


def _steps(plan: Plan, rows: int) -> list[list[Layer]]:
    """The layers in order, in steps of about `_STEP_BYTES`."""
    steps: list[list[Layer]] = [[]]
    size = 0
    for layer in plan.layers:
        steps[-1].append(layer)
        size += rows * sum(c.row_bytes for c in layer.corrections(plan.ring_bits))
        if size >= _STEP_BYTES:
            steps.append([])
            size = 0
    return [step for step in steps if step]
