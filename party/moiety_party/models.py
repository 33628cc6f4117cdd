"""A party's models: how they arrive from the owner, and how they are deleted."""

import asyncio
from collections.abc import AsyncIterator

from moiety_party.arriving import Body, read_head, read_weights
from moiety_party.objects import objects
from moiety_party.pools import Pools
from moiety_party.provider import Provider
from moiety_party.settings import PartySettings
from moiety_party.state import State
from moiety_party.statements import check_manifest
from moiety_party.store import ModelStore
from moiety_party.threads import Threads
from moiety_party.verified import supported_layout
from moiety_service.security.identity import Identity
from moiety_shared.problems import Problem, ProblemType


def open_store(settings: PartySettings, identity: Identity, state: State) -> ModelStore:
    """The store of this party's models, without those that the state says were deleted."""
    known = state.refresh()
    deleted = {upload_id for upload_id, gone in known.items() if gone}
    store = ModelStore(objects(settings.store_url, settings.private_dir()), identity.storage_key, deleted)
    for model in store.all():
        if model.upload_id not in known:  # release 0.1.0 put it, or a process that ended before it could say so
            state.stored(model.upload_id)
    return store


class Models:
    """Takes the owner's uploads, and wipes the models that the owner deletes."""

    def __init__(
        self,
        settings: PartySettings,
        identity: Identity,
        state: State,
        store: ModelStore,
        provider: Provider,
        pools: Pools,
        threads: Threads,
    ) -> None:
        self._party = settings.party
        self._identity = identity
        self._state = state
        self._store = store
        self._provider = provider
        self._pools = pools
        self._threads = threads
        self.arrived = asyncio.Event()
        """Set when a model arrives."""

    async def receive(self, upload_id: str, source: AsyncIterator[bytes], length: int) -> None:
        """Take an upload of `length` bytes: checked, known to the provider, and durable when this returns.

        Raises Problem UPLOAD_CONFLICT for an id that was used before, also if the upload is deleted while it arrives.
        """
        if upload_id in self._store:
            raise Problem(ProblemType.UPLOAD_CONFLICT)
        body = Body(source, length)
        head = await read_head(body, upload_id, self._party)
        check_manifest(head.manifest, self._party, self._identity)
        if head.plan.verified:
            await self._threads.run(supported_layout, head.plan)
        upload = await read_weights(body, head, self._identity.keyring, self._threads.run)
        await self._provider.register(upload_id, head.plan, head.dealer_envelope)
        await self._threads.run(self._store.put, upload)
        if not await self._threads.run(self._state.stored, upload_id):
            await self._wipe(upload_id)
            raise Problem(ProblemType.UPLOAD_CONFLICT, "its owner deleted it before it arrived")
        self.arrived.set()

    async def rekey(self, upload_id: str, key_id: str) -> None:
        """Use another key for an upload's verified runs, which the provider draws under this name. May be repeated.

        All that is prepared goes. Raises UNKNOWN_MODEL when its runs are not verified.
        """
        if not self._store.get(upload_id).plan.verified:
            raise Problem(ProblemType.UNKNOWN_MODEL, "its runs are not verified, so it has no key")
        await self._provider.rekey(upload_id, key_id)
        await self._threads.run(self._state.standings.rekey, upload_id, key_id)
        await self._pools.drop_model(upload_id)

    async def delete(self, upload_id: str) -> None:
        """Wipe a model, its randomness, and what the provider keeps of it. May be repeated."""
        await self._threads.run(self._state.forget, upload_id)  # first: from now on no replica reads it again
        await self._wipe(upload_id)

    async def _wipe(self, upload_id: str) -> None:
        self._store.drop(upload_id)
        await self._pools.drop_model(upload_id)
        await self._threads.run(self._store.delete, upload_id)
        await self._provider.forget_upload(upload_id)
