"""`moiety healthcheck`: asks a service on this machine whether it is ready.

Container engines run it every few seconds in each container. So it uses the standard library's HTTP client, which is
quick to import.
"""

import http.client
import ssl
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from moiety_service.cli.terminal import Exit, ended, example

SECONDS = 8.0


def register(app: typer.Typer) -> None:
    shown = example("moiety healthcheck https://localhost:7701 --ca /keys/alice/tls/ca.pem")
    app.command(rich_help_panel="Operators", epilog=shown)(healthcheck)


def healthcheck(
    url: Annotated[str, typer.Argument(help="The service's own address, such as https://localhost:7701.")],
    ca: Annotated[Path | None, typer.Option(help="The CA to trust: tls/ca.pem in the role's secrets folder.")] = None,
    path: Annotated[str, typer.Option(help="Path to ask. /health/live checks only that the service answers.")] = (
        "/health/ready"
    ),
) -> None:
    """Ask whether a service is ready: exit code 0 if it is, or else 1 and the reason on standard error."""
    try:
        status, said = _ask(url, ca, path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ended(Exit.FAILED, f"{url} does not answer ({type(error).__name__})") from None
    if status != http.client.OK:
        raise ended(Exit.FAILED, f"{url}{path} answers {status}: {said}")


def _ask(url: str, ca: Path | None, path: str) -> tuple[int, str]:
    """The status, and the beginning of the answer. TLS 1.3 and nothing older, as every service has it."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        trust = ssl.create_default_context(cafile=ca)
        trust.minimum_version = ssl.TLSVersion.TLSv1_3
        connection = http.client.HTTPSConnection(host, port, timeout=SECONDS, context=trust)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(500).decode(errors="replace")
    finally:
        connection.close()
