"""Settings of the client and its sidecar: `MOIETY_CLIENT_*`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from moiety_service.settings import Names, ServiceSettings


class SdkSettings(BaseSettings):
    """What the SDK reads from the environment if its caller does not pass it."""

    model_config = SettingsConfigDict(env_prefix="MOIETY_CLIENT_", frozen=True, extra="ignore")

    key_file: Path | None = Field(
        None,
        description="File with the private key that the token is bound to, as `moiety keys client` makes it. Needed if "
        "the access file holds no key.",
    )
    state: Path | None = Field(
        None,
        description="File in which the client records the newest revision of each model's catalogue entry. A process "
        "that starts later then refuses an older one. Default: each process keeps its own record.",
    )


class ClientSettings(SdkSettings, ServiceSettings):
    """What the sidecar and the client's commands read from the environment."""

    model_config = SettingsConfigDict(env_prefix="MOIETY_CLIENT_", frozen=True, extra="ignore")

    port: int = Field(7704, ge=0, le=65535, description="Port that the sidecar listens on.")
    access_file: Path = Field(
        Path(".moiety/access.json"), description="Access file from the model's owner: addresses, keys and a token."
    )
    timeout: float = Field(30.0, gt=0, description="Seconds that a prediction may take, retries included.")
    expose: bool = Field(
        False, description="Allow the sidecar to listen on other addresses than loopback. It serves whoever connects."
    )
    hosts: Names = Field(
        (),
        description="Host names, besides those of loopback, that requests to the sidecar may use, separated by commas.",
    )

    withhold_trace: bool = Field(
        False,
        description="Send the service a random trace id for each prediction, instead of the id of your own trace.",
    )

    status_metrics: Names = Field(
        (), description="For operators: metrics addresses that `moiety status` also reads, separated by commas."
    )
