"""The bases of each role's settings: environment variables `MOIETY_<ROLE>_<NAME>`."""

import ipaddress
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from moiety_service.security.identity import Identity


def _split(value: Any) -> Any:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A setting of several names, separated by commas."""


class ServiceSettings(BaseSettings):
    """What every service needs."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(0, ge=0, le=65535, description="Port to listen on.")
    data_dir: Path = Field(Path(".moiety"), description="Folder for this role's state; created with mode 0700.")
    log_format: str = Field("json", pattern="^(json|text)$", description="`json` for machines, `text` for people.")
    log_level: Literal["info", "warning", "error"] = Field("info", description="Lowest level that is logged.")

    max_connections: int = Field(
        256,
        ge=1,
        description="Most open connections at a time. The service refuses more. With TLS, each can take 0.7 MB.",
    )
    header_seconds: float = Field(
        10.0, gt=0, description="Seconds that a request's header may take. Then the service closes the connection."
    )

    metrics_host: str = Field(
        "127.0.0.1",
        description="Address of the metrics. They show how much is asked: keep them in the operator's own network.",
    )
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Port of `/metrics`, plain HTTP for Prometheus. 0 turns the metrics off."
    )

    def private_dir(self) -> Path:
        """The data folder. It is made when it is missing, closed to other users."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.data_dir


class RoleSettings(ServiceSettings):
    """What the four roles besides the client need: secrets, and TLS."""

    keys_dir: Path = Field(
        Path(".moiety/keys"), description="Folder that `moiety keys init` made. A role needs only its own subfolder."
    )
    transport: Literal["tls", "plain"] = Field(
        "tls", description="`plain` turns TLS off, to measure its cost. Allowed only within one machine."
    )
    database_url: SecretStr | None = Field(
        None,
        description="URL of a PostgreSQL database, `postgresql://user@host/name`. The password may lie in the role's "
        "secrets folder, as `database.password`. Default: a SQLite file in the data folder.",
    )

    def tls(self, identity: Identity) -> ssl.SSLContext | None:
        """The context to serve TLS with; None for plain connections."""
        return identity.server_context() if self.transport == "tls" else None

    def check_link(self, name: str, url: str) -> str:
        """Return the URL of another role. Raises ValueError when the URL is not for TLS.

        The reason: whoever records the traffic between the parties and learns the dealer's randomness can read
        everything. Within one machine, the transport `plain` allows such a URL.
        """
        parts = urlsplit(url)
        if parts.scheme in ("https", "wss"):
            return url
        if self.transport == "plain" and is_loopback(parts.hostname or "") and is_loopback(self.host):
            return url
        raise ValueError(
            f"{name} must begin with https:// or wss://: without TLS, whoever listens can learn everything"
        )


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
