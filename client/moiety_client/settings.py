"""Settings of the client and its sidecar: `MOIETY_CLIENT_*`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from moiety_shared.service.settings import ServiceSettings


class ClientSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="MOIETY_CLIENT_", frozen=True, extra="ignore")

    port: int = Field(7704, ge=0, le=65535, description="Port of the sidecar.")
    access_file: Path = Field(
        Path(".moiety/access.json"), description="What the model's owner handed out: addresses, keys, a token."
    )
    timeout: float = Field(30.0, gt=0, description="Seconds that a prediction may take, retries included.")
