"""What the owner asks of a party, alice or bob alike: to take models, to delete them, to revoke tokens."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from moiety_party.capacity import request_rows
from moiety_party.party import Party
from moiety_service.http.app import bearer, documented_bearer
from moiety_service.observability.logs import log
from moiety_shared.crypto.signing import key_text
from moiety_shared.messages.leases import RekeyRequest
from moiety_shared.messages.parties import HeldModel, HeldModels, ModelState, PublicKeys, Revocations
from moiety_shared.messages.statements import RunTranscript, TranscriptRequest
from moiety_shared.problems import Problem, ProblemType

_OWNER = "server"
_MODELS, _MODEL, _REVOCATIONS = "/v1/models", "/v1/models/{upload_id}", "/v1/revocations"
_REKEY, _TRANSCRIPTS = f"{_MODEL}/rekey", f"{_MODEL}/transcripts"
_SMALL, _REVOCATION_BYTES = 1 << 16, 1 << 19
UploadId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]


def body_limit(party: Party, path: str) -> int:
    """The bytes of the largest body that the owner may send to this path."""
    if path == _REVOCATIONS:
        return _REVOCATION_BYTES
    is_upload = path.startswith(f"{_MODELS}/") and not path.endswith(("/rekey", "/transcripts"))
    return party.settings.max_upload_bytes if is_upload else _SMALL


def guard(party: Party, request: Request) -> None:
    """Raises Problem UNAUTHORIZED before a stranger's body is read: a model is large."""
    if request.url.path.startswith((f"{_MODELS}/", _REVOCATIONS)):
        _check_owner(party, request)


def routes(party: Party) -> APIRouter:
    """The owner's addresses, under the owner's credential, and the party's public key, which anybody may read."""

    def owner(request: Request) -> None:
        _check_owner(party, request)

    router = APIRouter()
    of_owner = [documented_bearer(), Depends(owner)]

    @router.get("/v1/keys", summary="Get this party's public sealing key")
    async def keys() -> PublicKeys:
        identity = party.identity
        statements = key_text(identity.statement_key.public_key())
        return PublicKeys(
            role=party.settings.role, sealing_key=identity.keyring.public.text(), statement_key=statements
        )

    @router.get(_MODELS, dependencies=of_owner, summary="List the uploads that this party holds")
    async def held_models() -> HeldModels:
        await party.replicas.look()
        manifests = [model.manifest for model in party.store.all()]
        served = [HeldModel(upload_id=m.upload_id, name=m.name, version=m.version) for m in manifests]
        refused = [HeldModel(upload_id=upload_id) for upload_id in party.store.refused()]
        return HeldModels(models=(*served, *refused))

    @router.put(_MODEL, status_code=201, dependencies=of_owner, summary="Upload a masked model")
    async def put_model(upload_id: UploadId, request: Request) -> dict[str, str]:
        with party.audit.event("upload", subject=_OWNER, upload=upload_id):
            await party.models.receive(upload_id, request.stream(), int(request.headers.get("content-length", "0")))
        log().info("upload", upload=upload_id)
        return {"upload_id": upload_id, "state": "stored"}

    @router.post(_REKEY, status_code=204, dependencies=of_owner, summary="Give an upload another key")
    async def rekey(upload_id: UploadId, body: RekeyRequest) -> None:
        with party.audit.event("rekey", subject=_OWNER, upload=upload_id):
            await party.models.rekey(upload_id, body.key_id)
        log().info("rekeyed", upload=upload_id)

    @router.post(_TRANSCRIPTS, dependencies=of_owner, summary="Show what the other party signed of an owner's own run")
    async def transcript(upload_id: UploadId, body: TranscriptRequest) -> RunTranscript:
        with party.audit.event("transcript", subject=_OWNER, upload=upload_id):
            return await party.transcript(upload_id, body)

    @router.delete(_MODEL, status_code=204, dependencies=of_owner, summary="Wipe a model's share")
    async def delete_model(upload_id: UploadId) -> None:
        with party.audit.event("delete", subject=_OWNER, upload=upload_id):
            await party.models.delete(upload_id)
        log().info("deleted", upload=upload_id)

    @router.put(_REVOCATIONS, status_code=204, dependencies=of_owner, summary="Revoke clients' tokens")
    async def revoke(body: Revocations) -> None:
        with party.audit.event("revoke", subject=_OWNER, rows=len(body.token_ids)):
            await party.threads.run(party.state.revoke, body.token_ids)

    @router.get(_MODEL, dependencies=of_owner, summary="Get the state of an upload")
    async def model_state(upload_id: UploadId) -> ModelState:
        model = await party.replicas.model(upload_id)
        pools = party.pools.of_model(upload_id)
        return ModelState(
            upload_id=model.upload_id,
            state="ready" if party.pools.is_prepared(upload_id) else "preparing",
            max_rows=request_rows(party.settings, model.plan),
            rows_ready=sum(pool.stock for pool in pools),
            pool_full=bool(pools) and all(pool.full for pool in pools),
            bundle_rows=party.pools.fetched_rows,
            bundle_bytes=party.pools.fetched_bytes,
        )

    return router


def _check_owner(party: Party, request: Request) -> None:
    if not party.identity.accepts(_OWNER, bearer(request)):
        raise Problem(ProblemType.UNAUTHORIZED)
