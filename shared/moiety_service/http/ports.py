"""TCP ports of this machine: taking one, keeping one for another process, and saying who has it where it is taken."""

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from moiety_service import processes
from moiety_service.startup import StartRefused

LOOPBACK = "127.0.0.1"


def bind(host: str, port: int, fix: str) -> socket.socket:
    """A socket with that address, which does not listen yet; port 0 takes one that is free.

    Raises StartRefused, which says who has the port if this machine tells, and `fix`: what else can be done.
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
    """Why an address cannot be had, and what to do."""
    if error.errno == errno.EADDRINUSE:
        who = processes.of_port(port)
        return StartRefused(f"port {port} of {host} is in use{f' by {who}' if who else ''}: end that, or {fix}")
    if error.errno == errno.EACCES:
        return StartRefused(f"port {port} is not for this user, as those below 1024 are not: {fix}")
    return StartRefused(f"{host}:{port} is no address to listen on ({error.strerror}): {fix}")


@contextmanager
def reserved(port: int = 0, fix: str = "choose another") -> Iterator[int]:
    """A port of 127.0.0.1 for a process that is yet to start, and binds it itself with SO_REUSEADDR, as servers do.

    Meanwhile, and between two such processes, nobody else is given it: it stays bound here, where nothing listens. Only
    Linux lets another process have it then; elsewhere it is let go of at once. Raises StartRefused, as `bind`.
    """
    with bind(LOOPBACK, port, fix) as held:
        number = int(held.getsockname()[1])
        if sys.platform != "linux":
            held.close()
        yield number
