"""Settings of the client and its sidecar: `MOIETY_CLIENT_*`."""

from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from moiety_shared.service.settings import ServiceSettings


class ClientSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="MOIETY_CLIENT_", frozen=True, extra="ignore")

    port: int = Field(7704, ge=0, le=65535, description="Port of the sidecar.")
    catalogue_url: str = Field("http://127.0.0.1:7700", description="Where the model owner's catalogue is.")
    owner_key: str = Field(
        "", description="The owner's Ed25519 key, base64url. Without it the first key seen is trusted."
    )
    timeout: float = Field(30.0, gt=0, description="Seconds that a prediction may take, retries included.")
    expose: bool = Field(
        False, description="Let the sidecar listen on other addresses than loopback, to whoever connects."
    )
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Names besides loopback's under which the sidecar may be asked, separated by commas."
    )

    @field_validator("hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value
