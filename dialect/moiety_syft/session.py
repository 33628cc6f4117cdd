"""Connects the program to moiety's processes, and has them compute its expressions.

The program plays two roles. As the owner, it uploads the model's tensors. As the client, it shares inputs and opens
results. The settings of both roles (MOIETY_SERVER_*, MOIETY_CLIENT_*) say where the processes are. If they name none,
the program starts the other four on this machine at the first `share`, and stops them when it ends.

The program compiles each plan once, and uploads it once while it is in use.
"""

import atexit
import os
import shutil
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moiety_client.client import Client
from moiety_client.errors import from_problem
from moiety_client.settings import ClientSettings
from moiety_local.deployment import Deployment
from moiety_local.site import ROLES
from moiety_server.compiler.ir import NotServable
from moiety_server.owner import Owner
from moiety_server.publication import publish
from moiety_server.settings import ServerSettings
from moiety_service.security.identity import Identity
from moiety_shared.problems import Problem
from moiety_shared.ring import Array
from moiety_syft.compilation import Program, compile_expression
from moiety_syft.errors import Unsupported
from moiety_syft.expression import Sums, TensorNode, sums
from moiety_syft.translation import Expression

_TIMEOUT = 120.0
_ROLES = tuple(role for role in ROLES if role != "client")  # that is this program
# A program runs an expression once or a few times, so the parties keep little randomness for each.
_POOLS = {"POOL_ROWS": "512", "POOL_BYTES": str(1 << 26), "MAX_ROWS": "512"}
_MOST_UPLOADS = 16  # enough for the expressions of a loop; each has a pool of randomness at both parties


class Services:
    """The processes at which the program is owner and client, and what it has uploaded to them."""

    def __init__(self, owner: Owner, client: Client) -> None:
        self.owner, self.client = owner, client
        self._uploads: dict[str, int] = {}  # the version of each name, in the order of their last use

    def upload(self, name: str, program: Program) -> None:
        """Publish a program, unless it is published already.

        If there are many, this first withdraws the one that was used longest ago.
        """
        version = self._uploads.pop(name, None)
        if version is None:
            while len(self._uploads) >= _MOST_UPLOADS:
                self._withdraw(next(iter(self._uploads)))
            version = publish(
                self.owner,
                name,
                program.compiled,
                preprocessing=None,
                classes=(),
                description="PySyft 0.2",
                offer_canaries=False,
            ).entry.version
        self._uploads[name] = version

    def withdraw(self) -> None:
        """Withdraw all that was uploaded. The parties wipe its shares and their randomness."""
        for name in list(self._uploads):
            self._withdraw(name)

    def _withdraw(self, name: str) -> None:
        version = self._uploads.pop(name)
        try:
            self.owner.withdraw(name, version)
        except Problem as problem:
            text = f"the parties still hold an expression's plan ({problem}): run moiety withdraw {name} {version}"
            warnings.warn(text, stacklevel=2)

    def disconnect(self) -> None:
        """End the connections. The processes go on, and keep what was uploaded."""
        self.owner.close()
        self.client.close()

    def close(self) -> None:
        """Withdraw what was uploaded, and end the connections."""
        atexit.unregister(self.close)
        self.withdraw()
        self.disconnect()

    @classmethod
    def of(cls, deployment: Deployment) -> "Services":
        """Connect to a deployment that runs."""
        prefix = "MOIETY_SERVER_"
        values = {k.removeprefix(prefix).lower(): v for k, v in deployment.settings("server").items()}
        return cls(_owner(ServerSettings.model_validate(values)), deployment.client(timeout=_TIMEOUT))

    @classmethod
    def configured(cls) -> "Services | None":
        """Connect to the processes that the environment names, until the program ends.

        Returns None if it names none.
        """
        if "MOIETY_SERVER_ALICE_URL" not in os.environ:
            return None
        client = Client.from_access(ClientSettings().access_file, timeout=_TIMEOUT)
        made = cls(_owner(ServerSettings()), client)
        atexit.register(made.close)
        return made


def _owner(settings: ServerSettings) -> Owner:
    return Owner(settings, Identity.load(settings.keys_dir / "server", "server"))


class Session:
    """Computes the tensors of one hook: it compiles their expressions and asks the services."""

    def __init__(self, services: Services | None = None) -> None:
        self._services = services
        self._starting: threading.Thread | None = None
        self._failed: Exception | None = None
        self._programs: dict[tuple[str, bool], Program | NotServable] = {}

    def prepare(self) -> None:
        """Connect to the processes in the background, and start them if need be, unless that was done."""
        if self._services is None and self._starting is None:
            self._starting = threading.Thread(target=self._start, daemon=True)
            self._starting.start()

    def _start(self) -> None:
        try:
            self._services = Services.configured() or self._local()
        except Exception as error:  # `services` raises it
            self._failed = error

    def _local(self) -> Services:
        root = Path(tempfile.mkdtemp(prefix="moiety-syft-"))
        deployment = Deployment(root, extra={"alice": _POOLS, "bob": _POOLS}, roles=_ROLES)

        def stop() -> None:
            if self._starting is not None:
                self._starting.join()
            if self._services is not None:
                self._services.disconnect()  # what was uploaded ends with the processes
            deployment.stop()
            shutil.rmtree(root, ignore_errors=True)

        atexit.register(stop)
        deployment.start()
        return Services.of(deployment)

    def services(self) -> Services:
        """Wait for the services that `prepare` connects to. Raises the error that kept them from coming up."""
        self.prepare()
        if self._starting is not None:
            self._starting.join()
        if self._services is None:
            failed, self._failed, self._starting = self._failed, None, None
            raise failed or Unsupported("the processes did not start")
        return self._services

    def withdraw(self) -> None:
        """Have the parties wipe what was uploaded for this hook's expressions. Another `get` uploads it again."""
        if self._services is not None:
            self._services.withdraw()

    # Revealing

    def reveal(self, root: TensorNode) -> Tensor:
        """Return a node's value: float64, or int64 for whole numbers and bits. The program knows it from now on."""
        if root.value is None:
            try:
                value = self._revealed(root)
            except NotServable as error:
                raise Unsupported(str(error)) from None
            except Problem as problem:
                raise from_problem(problem) from problem
            whole = not root.dtype.is_floating_point
            root.settle(value.round().long() if whole else value)
        assert root.value is not None  # noqa: S101  it was settled
        return root.value

    def _revealed(self, root: TensorNode) -> Tensor:
        parts = sums(root)
        if parts is not None:
            if not parts.terms:
                return parts.known
            total = self._totals(parts)
            if total is not None:
                return parts.known + total.reshape(root.shape)
        for rows in self._rows_of(root):
            expression = Expression(root, rows)
            if expression.inputs and self._servable(expression, total=False):
                return self._run(expression, total=False).reshape(root.shape)
        return self._run(Expression(root, None), total=False).reshape(root.shape)

    @staticmethod
    def _rows_of(root: TensorNode) -> list[int]:
        """Return how many rows the tensors have, if their first axis is that of rows."""
        return [root.shape[0]] if root.shape else []

    def _totals(self, parts: Sums) -> Tensor | None:
        """Return the sum of the terms, from one request over the rows of all. Returns None if they are not alike."""
        expressions = [Expression(term.rows, term.rows.shape[0]) for term in parts.terms]
        if not all(e.inputs for e in expressions) or len({term.factor for term in parts.terms}) > 1:
            return None
        if len({e.signature for e in expressions}) > 1 or not self._servable(expressions[0], total=True):
            return None
        values = np.concatenate([e.values() for e in expressions])
        return parts.terms[0].factor * self._run(expressions[0], total=True, values=values)

    def _servable(self, expression: Expression, *, total: bool) -> bool:
        return isinstance(self._program(expression, total=total), Program)

    def _program(self, expression: Expression, *, total: bool) -> Program | NotServable:
        key = (expression.signature, total)
        if key not in self._programs:
            try:
                self._programs[key] = compile_expression(expression, total=total)
            except NotServable as error:
                self._programs[key] = error
        return self._programs[key]

    def _run(self, expression: Expression, *, total: bool, values: Array | None = None) -> Tensor:
        """Upload the plan and its weights, unless that was done, and ask for the values."""
        program = self._program(expression, total=total)
        if isinstance(program, NotServable):
            raise program
        x = expression.values() if values is None else values
        if total and len(x) > program.most_rows():
            raise NotServable(f"the sum of {len(x)} rows would not fit in the ring. Instead: call get() on parts of it")
        services, name = self.services(), f"syft-{expression.signature[:32]}{'-sum' if total else ''}"
        services.upload(name, program)
        found = services.client.total(name, x) if total else services.client.predict(name, x).outputs
        return torch.from_numpy(np.array(found, dtype=np.float64))
