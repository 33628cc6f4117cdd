"""`moiety up`: all five processes until Ctrl-C."""

import signal
import time
from pathlib import Path

from rich.console import Console

from moiety_client.local.deployment import Deployment, DeploymentError

_METRICS = 10
_OFFSETS = {"server": 0, "alice": 1, "bob": 2, "crypto_provider": 3, "client": 4}


def run(root: Path, base_port: int) -> int:
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    deployment = Deployment(
        root.resolve(),
        {role: base_port + offset for role, offset in _OFFSETS.items()},
        {role: base_port + _METRICS + offset for role, offset in _OFFSETS.items()},
    )
    try:
        with console.status("starting five processes"):
            deployment.start(lambda role: console.print(f"[green]ready[/]  {role:16} {deployment.url(role)}"))
        path = deployment.write_environment()
        console.print(f"\nPublish the MNIST network:   [bold]. {path} && moiety publish[/]")
        console.print(f"Private prediction:          [bold]. {path} && moiety predict mnist digit.png[/]")
        console.print(f"Web page and REST:           [bold]{deployment.url('client')}[/]\nCtrl-C stops all.")
        while True:
            time.sleep(0.5)
            for role, process in deployment.processes.items():
                if process.poll() is not None:
                    raise DeploymentError(f"{role} ended by itself; its log is {root / role / 'log'}")
    except KeyboardInterrupt:
        console.print("\nstopping")
        return 0
    except DeploymentError as error:
        console.print(f"[red]{error}[/]")
        return 1
    finally:
        deployment.stop()
