"""Settings of the crypto provider: `MOIETY_PROVIDER_*`."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from moiety_shared.service.settings import RoleSettings


class ProviderSettings(RoleSettings):
    model_config = SettingsConfigDict(env_prefix="MOIETY_PROVIDER_", frozen=True, extra="ignore")

    port: int = Field(7703, ge=0, le=65535, description="Port to listen on.")
    max_bundle_bytes: int = Field(
        1 << 32, gt=0, description="Largest bundle dealt; a lease that asks for more rows is refused."
    )
