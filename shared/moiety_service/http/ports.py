"""TCP ports of this machine: binds one, reserves one for another process, and tells which process has a port."""

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from moiety_service import processes
from moiety_service.startup import StartRefused

LOOPBACK = "127.0.0.1"


def bind(host: str, port: int, fix: str) -> socket.socket:
    """A socket bound to that address, which does not listen yet. Port 0 takes a free one.

    Raises StartRefused. Its text names the process that has the port, if the system tells, and then says `fix`.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier process may linger
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise refused(host, port, fix, error) from None
    return bound


def refused(host: str, port: int, fix: str, error: OSError) -> StartRefused:
    """Why this process cannot have an address, and what to do."""
    if error.errno == errno.EADDRINUSE:
        who = processes.of_port(port)
        return StartRefused(f"port {port} of {host} is in use{f' by {who}' if who else ''}: stop it, or {fix}")
    if error.errno == errno.EACCES:
        return StartRefused(f"port {port} is below 1024, and this user may not listen there: {fix}")
    return StartRefused(f"{host}:{port} is not an address that this machine can listen on ({error.strerror}): {fix}")


@contextmanager
def reserved(port: int = 0, fix: str = "choose another") -> Iterator[int]:
    """Reserve a port of 127.0.0.1 for a process that will start later and bind it with SO_REUSEADDR, as servers do.

    Until then, and between two such processes, the system gives the port to nobody else: this socket stays bound and
    does not listen. Only Linux lets another process bind it meanwhile; on other systems this socket is closed at once.
    Raises StartRefused when the port is unavailable.
    """
    with bind(LOOPBACK, port, fix) as held:
        number = int(held.getsockname()[1])
        if sys.platform != "linux":
            held.close()
        yield number
