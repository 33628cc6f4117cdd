"""Settings of the crypto provider: `MOIETY_PROVIDER_*`."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from moiety_service.settings import RoleSettings


class ProviderSettings(RoleSettings):
    model_config = SettingsConfigDict(env_prefix="MOIETY_PROVIDER_", frozen=True, extra="ignore")

    port: int = Field(7703, ge=0, le=65535, description="Port to listen on.")
    lease_hours: float = Field(
        168,
        gt=0,
        le=8760,
        description="How long a lease serves at most: then its key is wiped, and the parties open another one.",
    )
    max_bundle_bytes: int = Field(
        1 << 32, gt=0, description="Largest bundle dealt; a lease that asks for more rows is refused."
    )
