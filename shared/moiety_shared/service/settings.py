"""Base of each role's settings: environment variables `MOIETY_<ROLE>_<NAME>`."""

import hashlib
import hmac
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """What every service needs."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(0, ge=0, le=65535, description="Port to listen on.")
    data_dir: Path = Field(Path(".moiety"), description="Folder for this role's state; created with mode 0700.")
    log_format: str = Field("json", pattern="^(json|text)$", description="`json` for machines, `text` for people.")

    max_connections: int = Field(
        1024, ge=1, description="Open connections at the same time; further ones are answered 503 and closed."
    )
    header_seconds: float = Field(
        10.0, gt=0, description="How long a request's header may take to arrive; then the connection is cut off."
    )

    def private_dir(self) -> Path:
        """The data folder, made if need be, closed to other users."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.data_dir


def matches(secret: SecretStr, presented: str | None) -> bool:
    """Constant-time comparison; an empty secret matches nothing."""
    expected = secret.get_secret_value()
    if not expected or presented is None:
        return False
    digests = [hashlib.sha256(text.encode()).digest() for text in (expected, presented)]
    return hmac.compare_digest(*digests)
