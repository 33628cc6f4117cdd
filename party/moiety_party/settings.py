"""Settings of a computing party: `MOIETY_PARTY_*`."""

from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from moiety_service.settings import RoleSettings


class PartySettings(RoleSettings):
    model_config = SettingsConfigDict(env_prefix="MOIETY_PARTY_", frozen=True, extra="ignore")

    role: Literal["alice", "bob"] = Field("alice", description="alice leads and faces the clients; bob helps.")
    port: int = Field(7701, ge=0, le=65535, description="Port to listen on.")
    provider_url: str = Field("https://127.0.0.1:7703", description="Where the crypto provider is (https://).")
    peer_url: str = Field("wss://127.0.0.1:7702", description="alice: where bob is (wss://).")
    store_url: SecretStr | None = Field(
        None,
        description="Where the models' shares are kept, encrypted: any URL of fsspec's, such as `s3://bucket/alice`. "
        "Default: the data folder.",
    )
    pool_rows: int = Field(
        2048,
        ge=1,
        description="Rows of randomness kept ready per model and replica of the peer; refilled in quiet moments, and "
        "at once below half of it.",
    )
    pool_bytes: int = Field(
        1 << 30,
        gt=0,
        description="The same in bytes of corrections: of a model with large rows fewer are kept, and one at least. "
        "It limits the inputs in one request too.",
    )
    bundle_bytes: int = Field(
        1 << 23, gt=0, description="alice: about how much the provider deals at a time, in bytes."
    )
    max_rows: int = Field(512, ge=1, description="Inputs in one request at most, for models with small rows.")
    max_upload_bytes: int = Field(1 << 31, gt=0, description="Largest model share taken, in bytes.")
    lanes: int = Field(
        4, ge=1, description="alice: runs with bob at the same time; with that many of his replicas at most."
    )
    max_waiting: int = Field(64, ge=1, description="alice: requests that may wait for a lane.")
    run_seconds: float = Field(60.0, gt=0, description="How long one run may take, from start to result.")
    request_seconds: float = Field(
        300.0,
        gt=0,
        description="How far the time in a request may be from this party's clock. Requests are remembered twice as "
        "long, and at alice their sealed results are kept for repetitions.",
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
