"""`moiety up`: runs all five processes until Ctrl-C."""

import shlex
import signal
import time
from pathlib import Path
from typing import Never

from rich.console import Console
from rich.markup import escape

from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_local.folder import DeploymentError
from moiety_local.shell import program

_METRICS = 10
_OFFSETS = {"server": 0, "alice": 1, "bob": 2, "crypto_provider": 3, "client": 4}


def run(root: Path, base_port: int) -> int:
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _up(root.resolve(), base_port, console)
    except KeyboardInterrupt:
        console.print("\nstopping")
        return 0
    except DeploymentError as error:
        console.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        return 1


def _up(root: Path, base_port: int, console: Console) -> Never:
    """Start the roles, print what to do next, and run until something ends it."""
    deployment = Deployment(
        root,
        {role: base_port + offset for role, offset in _OFFSETS.items()},
        {role: base_port + _METRICS + offset for role, offset in _OFFSETS.items()},
    )
    try:
        with console.status("starting five processes"):
            deployment.start(lambda role: console.print(f"[green]ready[/]  {role:16} {deployment.url(role)}"))
        path = deployment.write_environment()
        moiety = escape(f". {shlex.quote(str(path))} && {program()}")
        digits = escape(shlex.quote(str(mnist.drawn_digits())))
        for line in (
            f"\nPublish the MNIST network:   [bold]{moiety} publish[/]",
            f"Private predictions:         [bold]{moiety} predict mnist {digits}[/]",
            f"Web page and REST:           [bold]{deployment.url('client')}[/]\nCtrl-C stops all five.",
        ):
            console.print(line, soft_wrap=True)  # unwrapped: people copy it
        while True:
            time.sleep(0.5)
            deployment.check()
    finally:
        deployment.stop()
