"""First runs that end badly: a folder or a port that is in use, a full disk, a role that is not installed."""

import errno
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from sqlalchemy.exc import OperationalError

import benchmarks
from benchmarks.__main__ import bench
from moiety_client.cli.status import Observer, Role
from moiety_local import folder, mnist
from moiety_local.deployment import Deployment
from moiety_local.folder import MADE, DeploymentError, claimed, fresh
from moiety_server.owner import Owner
from moiety_server.records import records
from moiety_server.settings import ServerSettings
from moiety_service.cli import main
from moiety_service.cli.terminal import Exit
from moiety_service.database import Database
from moiety_service.http import clients
from moiety_service.http.app import create_app
from moiety_service.http.ports import bind, reserved
from moiety_service.security import keys
from moiety_service.startup import StartRefused
from moiety_shared.problems import PROBLEM_JSON, Problem, ProblemType
from tests.asgi import InProcess
from tests.cli.conftest import Run
from tests.client.sdk.conftest import Paid

LOCAL, BENCHMARKS = Path(folder.__file__).parent, Path(benchmarks.__file__).parent
OURS = f"process {os.getpid()} ("


# Folders


def test_what_no_run_made_is_never_deleted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mnist, "test_images", lambda *_: ((), ()))
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "roles").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(typer.Exit) as ended:
        bench(root=Path(), data=tmp_path)
    assert ended.value.exit_code == Exit.FAILED
    for told in (run("demo", "--root", ".").stderr, capsys.readouterr().err):
        assert "deleted nothing" in told and "--root" in told
        assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_a_file_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    done = run("demo", "--root", "file")
    assert done.exit_code == Exit.FAILED and "is not a folder" in done.stderr
    assert (tmp_path / "file").read_text() == "precious"


def test_what_an_earlier_run_made_is_deleted_and_told(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    root, told = tmp_path / "root", list[str]()
    root.mkdir()  # an empty one may be taken
    with fresh(root, told.append):
        (root / "roles" / "alice").mkdir(parents=True)
        (root / "shares.png").write_bytes(b"x")
        (root / "near").symlink_to(tmp_path / "precious")
    assert not told
    with fresh(root, told.append):
        assert not any((root / name).exists() for name in MADE)
    assert len(told) == 1 and all(name in told[0] for name in ("roles", "shares.png", "near", str(root)))
    assert (tmp_path / "precious" / "file").exists(), "a link is deleted, and not what it names"
    (root / "roles").mkdir()
    (root / "notes.txt").write_text("mine")
    with pytest.raises(DeploymentError, match=r"holds notes\.txt, which no earlier run"), fresh(root, told.append):
        pass
    assert (root / "roles").is_dir() and len(told) == 1


def test_a_folder_of_a_release_that_left_no_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "roles").mkdir()
    with pytest.raises(DeploymentError, match="roles"), fresh(tmp_path, print):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["roles"]


def test_all_that_the_demo_and_the_bench_make_is_listed() -> None:
    text = "".join(path.read_text() for folder in (LOCAL, BENCHMARKS) for path in folder.rglob("*.py"))
    made = set(re.findall(r'\broot / "([^"/]+)"', text))
    made -= {"keys", "access.json", "owner.env", "junk.json"}  # a deployment's own, in its folder
    assert made == set(MADE)


def test_a_folder_is_one_runs_at_a_time(run: Run, tmp_path: Path) -> None:
    with claimed(tmp_path / "root") as claim:
        done = run("up", "--root", "root")
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(claim,))
    assert done.exit_code == Exit.FAILED and f"root is in use by {OURS}" in done.stderr and "--root" in done.stderr
    try:  # the run ended, and left a process behind
        with pytest.raises(DeploymentError, match=rf"in use by process {child.pid} \("), claimed(tmp_path / "root"):
            pass
    finally:
        child.communicate(b"\n")
    with claimed(tmp_path / "root"):
        pass


# Ports


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_a_port_in_use_names_who_has_it_and_what_to_do(busy: int) -> None:
    with pytest.raises(StartRefused) as refused:
        bind("127.0.0.1", busy, "set X to another")
    said = str(refused.value)
    assert f"port {busy} of 127.0.0.1 is in use by {OURS}" in said and "set X to another" in said
    with pytest.raises(StartRefused, match="is not an address that this machine can listen on"):
        bind("192.0.2.1", 0, "set X")


def test_a_reserved_port_is_nobody_elses() -> None:
    with reserved() as port:
        for _ in range(2):  # a process may come again
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
            with bind("127.0.0.1", port, "") as ours:
                ours.listen()
                with pytest.raises(StartRefused, match=f"port {port} of 127.0.0.1 is in use"), reserved(port):
                    pass
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))


def test_up_names_the_port_that_is_taken(run: Run, busy: int) -> None:
    done = run("up", "--root", "root", "--base-port", busy - 4)
    assert done.exit_code == Exit.FAILED
    assert f"port {busy} of 127.0.0.1 is in use by {OURS}" in done.stderr and "--base-port" in done.stderr


@pytest.mark.parametrize("name", ["PORT", "METRICS_PORT"])
def test_a_service_says_in_its_output_and_in_its_log_why_it_does_not_start(
    tmp_path: Path, busy: int, name: str
) -> None:
    roles = ("crypto_provider",)
    with Deployment(tmp_path, roles=()) as prepared:
        for port in (*prepared.ports.values(), *prepared.metrics_ports.values()):
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
        prepared.roles, prepared.extra = roles, {"crypto_provider": {name: str(busy)}}
        with pytest.raises(DeploymentError) as failed:
            prepared.start()
    lines = (tmp_path / "crypto_provider" / "log").read_text().splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    (reason,) = [line["reason"] for line in logged if line["event"] == "start refused"]
    assert f"port {busy} of 127.0.0.1 is in use by {OURS}" in reason and f"MOIETY_PROVIDER_{name}" in reason
    assert reason in lines, "a sentence for people"
    assert reason in str(failed.value), "whoever started it is told"


# A full disk


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_room(*_: Any, **__: Any) -> None:
    raise FULL


def from_a_shell(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command that is run as the shell runs it."""
    monkeypatch.setattr(sys, "argv", ["moiety", *arguments])
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        main.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("command", [("keys", "init"), ("token", "issue", "x"), ("publish", "mnist")], ids=" ".join)
def test_a_command_says_that_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    if command[0] != "keys":
        keys.init(tmp_path / ".moiety" / "keys", {})
    written = {"keys": (keys, "_write"), "token": (os, "write"), "publish": (Path, "touch")}
    monkeypatch.setattr(*written[command[0]], no_room)
    assert from_a_shell(monkeypatch, *command) == Exit.FAILED
    said = capsys.readouterr()
    assert "the disk is full: make room" in said.err and "Traceback" not in said.err and not said.out


def test_of_a_party_whose_disk_is_full_the_owner_is_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.init(tmp_path / ".moiety" / "keys", {})
    told = Problem(ProblemType.DISK_FULL)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "alice":
            return httpx.Response(200, json={"role": "alice", "sealing_key": "k"})
        return httpx.Response(507, content=json.dumps(told.document()), headers={"content-type": PROBLEM_JSON})

    def client(base_url: str, **_: Any) -> httpx.Client:
        return httpx.Client(base_url=base_url, transport=httpx.MockTransport(answer))

    monkeypatch.setattr(clients, "client", client)
    for name in ("alice", "bob"):
        monkeypatch.setenv(f"MOIETY_SERVER_{name.upper()}_URL", f"https://{name}:1")
    done = run("refresh")
    assert done.exit_code == Exit.FAILED and "The disk is full: that of bob, at https://bob:1" in done.stderr
    monkeypatch.setattr(Owner, "refresh", lambda _: (_ for _ in ()).throw(told))  # as the owner's own database does
    done = run("refresh")
    assert done.exit_code == Exit.FAILED and "The disk is full: it is this machine's, under .moiety" in done.stderr


def test_a_service_whose_disk_is_full_says_so() -> None:
    app = create_app("wrong")

    @app.get("/write")
    def write() -> None:
        no_room()

    answer = InProcess(app).get("/write")
    assert answer.status_code == 507 and answer.json()["type"] == ProblemType.DISK_FULL.urn


def test_a_database_whose_disk_is_full_says_so(tmp_path: Path) -> None:
    settings = ServerSettings(data_dir=tmp_path)
    with closing(records(settings)) as database:
        with database.read() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        with pytest.raises(Problem) as full, database.write() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            connection.exec_driver_sql("CREATE TABLE large AS SELECT zeroblob(1 << 20)")
    assert full.value.kind is ProblemType.DISK_FULL


def test_a_database_that_cannot_be_opened_on_a_full_disk_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite calls it an I/O error when there is no room for the index of its log."""
    refusal = sqlite3.OperationalError("disk I/O error")
    refusal.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE

    def refused(*_: Any) -> None:
        raise OperationalError("", {}, refusal)

    monkeypatch.setattr(Database, "_migrate", refused)
    with pytest.raises(OSError, match="No space left on device") as full:
        records(ServerSettings(data_dir=tmp_path))
    assert full.value.errno == errno.ENOSPC and full.value.filename == str(tmp_path / "server.sqlite")


# What a client sees of bob, whom it need not reach


@pytest.mark.parametrize(
    ("alice", "state", "told_by"),
    [
        (None, "ready", "alice"),
        (ProblemType.RANDOMNESS_EXHAUSTED, "ready", "alice"),
        (ProblemType.PEER_UNAVAILABLE, "down", "alice"),
        (ProblemType.PEER_VERSION, "not ready", "alice"),
        (ProblemType.OVERLOADED, "not reachable", ""),
        (httpx.ConnectError("no route"), "not reachable", ""),
    ],
    ids=str,
)
def test_bob_is_as_alice_says_where_he_gives_no_answer(
    served: Paid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alice: Any, state: str, told_by: str
) -> None:
    (entry,) = served.entries
    parties = tuple(party.model_copy(update={"url": f"https://{party.name}"}) for party in entry.parties)
    served.entries = [entry.model_copy(update={"parties": parties})]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/health/ready":
            return served(request)
        if request.url.host == "bob":
            raise httpx.ConnectError("no such host")
        if request.url.host != "alice" or alice is None:
            return httpx.Response(200, json={"status": "ready"})
        if isinstance(alice, Exception):
            raise alice
        document = json.dumps(Problem(alice).document())
        return httpx.Response(503, content=document, headers={"content-type": PROBLEM_JSON})

    def client(base_url: str, **_: Any) -> httpx.Client:
        return httpx.Client(base_url=base_url, transport=httpx.MockTransport(answer))

    monkeypatch.setattr(clients, "client", client)
    with Observer(tmp_path / "access.json", "http://127.0.0.1:1", ()) as observer:
        status = observer.look()
    bob: Role = next(role for role in status.roles if role.role == "bob")
    assert (bob.state, bob.told_by) == (state, told_by) and bob.problem
    assert status.well == (alice is None)


# Where one role alone is installed, as in its image


PACKAGES = {
    "client": {"moiety_client", "PIL", "psutil"},
    "alice": {"moiety_party", "torch", "sqlalchemy", "alembic", "safetensors", "fsspec"},
    "crypto_provider": {"moiety_crypto_provider", "torch", "sqlalchemy", "alembic"},
    "server": {"moiety_server", "torch", "sqlalchemy", "alembic", "safetensors", "matplotlib"},
}
"""Of what not all images have, what each has, by the role that it is of."""
_ALONE = """
import contextlib, io, json, sys

missing, commands = sys.argv[1].split(","), sys.argv[2:]

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from moiety_service.cli import main as cli

for command in commands:
    code, failed, sys.argv = 0, None, ["moiety", *command.split()]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException as error:
            failed = repr(error)
    print(json.dumps([command, code, failed, out.getvalue(), err.getvalue()]))
"""
_COMMANDS = {
    "client": ("models", "status", "predict x x.png", "sidecar"),
    "alice": ("party alice", "party bob"),
    "crypto_provider": ("provider",),
    "server": ("server", "versions x", "token list", "inspect x.onnx", "publish x.onnx"),
}


@pytest.mark.parametrize("role", PACKAGES)
def test_every_command_of_an_image_with_one_role(tmp_path: Path, role: str) -> None:
    others = {"moiety", "moiety_local", "moiety_syft", "onnx", "torchvision"}.union(*PACKAGES.values()) - PACKAGES[role]
    commands = ("--help", "--version", "doctor --json", f"doctor {role} --json", "doctor --help", "keys --help")
    commands += ("keys init --root k", "healthcheck http://127.0.0.1:9", *_COMMANDS[role])
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, ",".join(others), *commands], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ended = {command: rest for command, *rest in map(json.loads, done.stdout.splitlines())}
    assert set(ended) == set(commands)
    for command, (code, failed, _, _) in ended.items():
        assert failed is None, f"{command}: {failed}"
        assert (code == 0) == (command.startswith(("--", "keys")) or command.endswith("--help")), (command, code)
    for command in ("doctor --json", f"doctor {role} --json"):
        found = [json.loads(line) for line in ended[command][2].splitlines()]
        checks = {(row["role"], row["check"]): row for row in found}
        assert checks["", "packages"]["status"] == "ok"
        assert command == "doctor --json" or any(named == role for named, _ in checks)
