"""Settings of the model owner: `MOIETY_SERVER_*`."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from moiety_shared.service.settings import ServiceSettings


class ServerSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="MOIETY_SERVER_", frozen=True, extra="ignore")

    port: int = Field(7700, ge=0, le=65535, description="Port to listen on.")
    alice_url: str = Field("http://127.0.0.1:7701", description="Where alice is; clients are told the same.")
    bob_url: str = Field("http://127.0.0.1:7702", description="Where bob is.")
    alice_credential: SecretStr = Field(SecretStr(""), description="What the owner presents to alice.")
    bob_credential: SecretStr = Field(SecretStr(""), description="What the owner presents to bob.")
    mnist_dir: Path = Field(
        Path("data"), description="Folder with MNIST/raw, as torchvision lays it out; filled if it is empty."
    )
