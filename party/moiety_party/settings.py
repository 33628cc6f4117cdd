"""Settings of a computing party: `MOIETY_PARTY_*`."""

from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from moiety_service.http.origins import Origins
from moiety_service.settings import RoleSettings


class PartySettings(RoleSettings):
    model_config = SettingsConfigDict(env_prefix="MOIETY_PARTY_", frozen=True, extra="ignore")

    role: Literal["alice", "bob"] = Field(
        "alice", description="alice leads each run and answers the clients. bob computes with her."
    )
    port: int = Field(7701, ge=0, le=65535, description="Port to listen on.")
    provider_url: str = Field("https://127.0.0.1:7703", description="URL of the crypto provider (https://).")
    peer_url: str = Field("wss://127.0.0.1:7702", description="alice: URL of bob (wss://).")
    store_url: SecretStr | None = Field(
        None,
        description="URL of the store for the models' encrypted shares: any that fsspec supports, such as "
        "`s3://bucket/alice`. Default: the data folder.",
    )
    pool_rows: int = Field(
        2048,
        ge=1,
        description="Rows of randomness that the party keeps ready per model and replica of the peer. It refills a "
        "pool in quiet moments. It refills at once a pool that is less than half full.",
    )
    pool_bytes: int = Field(
        1 << 30,
        gt=0,
        description="Most bytes of corrections in a pool. Of a model with large rows, the party keeps fewer rows, but "
        "at least one. If even one row is larger, the party makes the next one when no run is under way, or when a "
        "request waits for it. The limit also bounds the inputs in one request.",
    )
    bundle_bytes: int = Field(
        1 << 23, gt=0, description="alice: approximate size in bytes of the bundles that she asks the provider for."
    )
    max_rows: int = Field(512, ge=1, description="Most inputs in one request, for models with small rows.")
    max_upload_bytes: int = Field(1 << 31, gt=0, description="Largest model share that the party accepts, in bytes.")
    lanes: int = Field(
        4, ge=1, description="alice: most runs with bob at the same time. She uses no more of his replicas than that."
    )
    max_waiting: int = Field(
        64,
        ge=1,
        description="alice: most requests that may wait for a lane. At most half of them wait for rows of randomness.",
    )
    batch_milliseconds: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="alice: how long a free lane waits for more requests that may share its run. Requests of several "
        "clients for one model share a run in any case, if they wait for a lane.",
    )
    run_seconds: float = Field(60.0, gt=0, description="Seconds that one run may take, from its start to its result.")
    request_seconds: float = Field(
        300.0,
        gt=0,
        description="Most seconds between the time in a request and this party's clock. The party remembers requests "
        "for twice as long. alice also keeps their sealed results, while there is room, for clients that ask again.",
    )

    origins: Origins = Field(
        (),
        description="alice: origins of pages that may ask for predictions from a browser, separated by commas: "
        "`https://app.example,https://other.example:8443`. She refuses the predictions that other pages ask for.",
    )

    @model_validator(mode="after")
    def _encrypted_links(self) -> Self:
        self.check_link("the provider's URL", self.provider_url)
        if self.role == "alice":
            self.check_link("the peer's URL", self.peer_url)
        return self

    @property
    def party(self) -> int:
        """0 for alice, 1 for bob."""
        return 0 if self.role == "alice" else 1
