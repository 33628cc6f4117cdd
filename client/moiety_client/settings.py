"""Settings of the client and its sidecar: `MOIETY_CLIENT_*`."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from moiety_service.settings import ServiceSettings


class SdkSettings(BaseSettings):
    """What the SDK reads from the environment if its caller does not pass it."""

    model_config = SettingsConfigDict(env_prefix="MOIETY_CLIENT_", frozen=True, extra="ignore")

    key_file: Path | None = Field(
        None,
        description="Private key that the token is bound to, as `moiety keys client` makes it: for an access file that "
        "holds none.",
    )
    state: Path | None = Field(
        None,
        description="File that remembers the newest catalogue entry seen of each model, so that no process that starts "
        "later believes an older one. Default: each process remembers for itself.",
    )


class ClientSettings(SdkSettings, ServiceSettings):
    """What the sidecar and the client's commands read from the environment."""

    model_config = SettingsConfigDict(env_prefix="MOIETY_CLIENT_", frozen=True, extra="ignore")

    port: int = Field(7704, ge=0, le=65535, description="Port of the sidecar.")
    access_file: Path = Field(
        Path(".moiety/access.json"), description="What the model's owner handed out: addresses, keys, a token."
    )
    timeout: float = Field(30.0, gt=0, description="Seconds that a prediction may take, retries included.")
    expose: bool = Field(
        False, description="Let the sidecar listen on other addresses than loopback, to whoever connects."
    )
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Names besides loopback's under which the sidecar may be asked, separated by commas."
    )

    withhold_trace: bool = Field(
        False, description="Send the service a random id for each prediction instead of that of your own trace."
    )

    status_metrics: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Addresses of metrics that `moiety status` reads besides, separated by commas: for operators."
    )

    @field_validator("hosts", "status_metrics", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value
