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
        description="Most hours that a lease lasts. Then the provider wipes its key, and the parties open another.",
    )
    max_bundle_bytes: int = Field(
        1 << 32,
        gt=0,
        description="Largest bundle that the provider deals, in bytes. It refuses a lease with larger bundles.",
    )
