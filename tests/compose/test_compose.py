"""The images as they run: who can read and reach what, what holds them, and that they come back."""

import json
import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import yaml

from tests.compose.project import ONE_SHOTS, SERVICES, Project, ask, docker, label, still_serves, wait_for

pytestmark = pytest.mark.compose

PORTS = {"server": 7700, "alice": 7701, "bob": 7702, "crypto_provider": 7703, "client": 7704}
NETWORKS = ("randomness", "peer", "uploads", "clients", "page")
services = pytest.mark.parametrize("service", SERVICES)

# Which address of which role a container can open a connection to.
REACHES = {
    "client": {"alice", "server"},
    "server": {"alice", "client"},
    "owner": {"alice", "bob"},
    "alice": {"bob", "crypto_provider", "server", "client"},
    "bob": {"alice", "crypto_provider"},
    "crypto_provider": {"alice", "bob"},
}


def test_the_first_prediction(project: Project, seconds: dict[str, float]) -> None:
    print({what: round(time, 1) for what, time in seconds.items()})
    assert [label(ask(project, digit)) for digit in range(10)] == list(range(10))
    assert "<title>" in httpx.get(project.page).text


def test_up_again_changes_nothing(project: Project) -> None:
    def state() -> object:
        return project.python(
            "server",
            "import json, pathlib as p; print(json.dumps([x.stat().st_mtime for x in p.Path('/keys').rglob('*')]))",
        ), [project.container(service) for service in SERVICES]

    before, models = state(), httpx.post(f"{project.page}/v2/repository/index", json={}).json()
    project.compose("up", "-d")
    assert state() == before
    assert httpx.post(f"{project.page}/v2/repository/index", json={}).json() == models
    still_serves(project)


# Who can do what


@services
def test_nobodys_user_and_nothing_to_write_to(project: Project, service: str) -> None:
    found = project.python(
        service,
        """
import json, os, pathlib
def written(path):
    try:
        pathlib.Path(path).write_text("x")
        pathlib.Path(path).unlink()
        return True
    except OSError:
        return False
status = dict(line.split(":\\t", 1) for line in open("/proc/1/status").read().splitlines() if ":\\t" in line)
folders = [p for p in ("/", "/venv", "/venv/bin", "/tmp", "/etc", "/keys", "/root", "/usr/bin", "/dev/shm/..")]
print(json.dumps({"users": [os.getuid(), os.getgid(), *map(int, status["Uid"].split())],
                  "capabilities": [status[name] for name in ("CapPrm", "CapEff", "CapBnd")],
                  "new privileges": status["NoNewPrivs"],
                  "written": [p for p in folders if written(f"{p}/written")],
                  "data": written("/data/written")}))
""",
    )
    assert set(found["users"]) == {10001}
    assert all(int(mask, 16) == 0 for mask in found["capabilities"]) and found["new privileges"] == "1"
    assert not found["written"] and found["data"] == (service != "client"), "a client keeps nothing"
    inspected = project.inspect(service)
    assert inspected["Config"]["User"] == "10001:10001" and inspected["HostConfig"]["ReadonlyRootfs"]
    assert inspected["Config"]["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


SECRETS = """
import hashlib, json, pathlib
found = {}
for folder in ("/keys", "/access"):
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
print(json.dumps(found))
"""


def test_no_secret_of_one_role_can_be_read_by_another(project: Project) -> None:
    found: dict[str, dict[str, str]] = {service: project.python(service, SECRETS) for service in SERVICES}
    for service, files in found.items():
        folder = "/access/" if service == "client" else f"/keys/{service}/"
        assert files and all(path.startswith(folder) for path in files), service
    secret = Counter(
        digest
        for files in found.values()
        for digest in {d for path, d in files.items() if not path.endswith(("tls/ca.pem", "/role", ".pub"))}
    )
    assert len(secret) > 15 and max(secret.values()) == 1, (
        "nothing is in two places but the certificate of the CA and the provider's public key"
    )
    mounted = Counter(
        mount["Name"].removeprefix(f"{project.name}_")
        for service in SERVICES
        for mount in project.inspect(service)["Mounts"]
        if mount["Type"] == "volume"
    )
    assert "keys_ca" not in mounted and max(mounted.values()) == 1
    writable = {
        s for s in SERVICES for mount in project.inspect(s)["Mounts"] if "/keys" in mount["Destination"] and mount["RW"]
    }
    sealing = {s for s, files in found.items() if any(path.startswith(f"/keys/{s}/sealing/") for path in files)}
    assert writable == sealing, "who has sealing keys wipes the retired ones; nobody else writes to keys"
    for service in SERVICES:  # and nothing secret is an environment variable, which `docker inspect` shows
        names = [pair.split("=")[0] for pair in project.inspect(service)["Config"]["Env"]]
        assert not [name for name in names if any(word in name for word in ("SECRET", "TOKEN", "PASSWORD"))]


REACHING = """
import concurrent.futures, json, socket
def open_(host, port):
    try:
        socket.create_connection((host, port), timeout=2).close()
        return True
    except OSError:
        return False
"""


def test_who_reaches_whom(project: Project) -> None:
    """By name, and by each address that a container has on whatever network; and who is on the one that leads out."""
    addresses = {
        name: [net["IPAddress"] for net in project.inspect(name)["NetworkSettings"]["Networks"].values()]
        for name in PORTS
    }
    program = f"""{REACHING}
targets = {json.dumps({name: [name, *found] for name, found in addresses.items()})}
ports = {json.dumps(PORTS)}
every = [(name, host) for name, hosts in targets.items() for host in hosts]
with concurrent.futures.ThreadPoolExecutor(len(every)) as threads:
    opened = list(threads.map(lambda one: open_(one[1], ports[one[0]]), every))
print(json.dumps(sorted({{name for (name, _), was in zip(every, opened, strict=True) if was}})))
"""

    def reached(who: str) -> set[str]:
        text = project.once("owner", program).stdout if who == "owner" else None
        return set(json.loads(text) if text is not None else project.python(who, program)) - {who}

    with ThreadPoolExecutor(len(REACHES)) as threads:  # most of it is waiting for answers that do not come
        assert dict(zip(REACHES, threads.map(reached, REACHES), strict=True)) == REACHES
    networks = json.loads(docker("network", "inspect", *(f"{project.name}_{name}" for name in NETWORKS)))
    assert [network["Internal"] for network in networks] == [name != "page" for name in NETWORKS]
    for service in SERVICES:
        on_page = f"{project.name}_page" in project.inspect(service)["NetworkSettings"]["Networks"]
        assert on_page == (service == "client")


def test_what_the_owner_reaches_of_bob_is_his_upload_address_alone(project: Project) -> None:
    """One port serves uploads and the link to alice: which of them answers is up to the credential."""
    program = """
import asyncio, json, websockets
from pathlib import Path
from moiety_service.http import clients
keys = Path("/keys/server")
credential = (keys / "present" / "bob").read_text()
bob = clients.client("https://bob:7702", credential=credential, ca=keys / "tls" / "ca.pem")
async def link():
    async with websockets.connect("wss://bob:7702/v1/peer", ssl=clients.tls_context(keys / "tls" / "ca.pem"),
                                  additional_headers={"authorization": f"Bearer {credential}"}) as socket:
        await socket.recv()
def refused():
    try:
        asyncio.run(link())
    except websockets.WebSocketException as error:
        return getattr(getattr(error, "response", None), "status_code", None) or error.rcvd.code
revoked = bob.put("/v1/revocations", json={"token_ids": []})
print(json.dumps([bob.get("/v1/keys").status_code, revoked.status_code, refused()]))
"""
    done = project.once("owner", program)
    assert json.loads(done.stdout or "null") in ([200, 204, 403], [200, 204, 4401]), done.stderr


# Bounds


@pytest.mark.parametrize("service", [*SERVICES, *ONE_SHOTS])
def test_every_container_is_bounded(project: Project, service: str) -> None:
    host = project.inspect(service)["HostConfig"]
    assert 0 < host["Memory"] == host["MemorySwap"] and host["NanoCpus"] > 0 and host["PidsLimit"] > 0
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}


@pytest.mark.parametrize("service", ["client", "bob"])
def test_the_bounds_hold(project: Project, service: str) -> None:
    memory = project.inspect(service)["HostConfig"]["Memory"]
    greedy = project.once(service, f"x = bytearray({memory} + (64 << 20)); print(len(x))")
    assert greedy.returncode != 0 and not greedy.stdout.strip(), "killed, or refused the memory"
    forking = project.once(
        service,
        "import threading as t, time\n"
        "started = 0\n"
        "try:\n"
        "    for started in range(1000): t.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
        "except RuntimeError: print('no more', started)",
    )
    assert forking.stdout.startswith("no more"), forking.stderr


# Coming back


@services
def test_what_is_killed_comes_back(project: Project, service: str) -> None:
    before = project.inspect(service)
    os.kill(before["State"]["Pid"], signal.SIGKILL)
    wait_for(lambda: project.inspect(service)["RestartCount"] > before["RestartCount"], f"{service} does not come back")
    still_serves(project)


def test_what_is_told_to_stop_does_so_by_itself_and_starts_again(project: Project) -> None:
    project.compose("stop", "--timeout", "10")
    codes = {service: project.inspect(service)["State"]["ExitCode"] for service in SERVICES}
    assert codes == dict.fromkeys(SERVICES, 128 + signal.SIGTERM), "137: it was killed after its grace"
    project.compose("up", "-d")
    still_serves(project)


def test_a_rolling_restart_under_load(project: Project) -> None:
    over, counted = threading.Event(), Counter[str]()

    def client(start: int) -> None:
        digit = start
        while not over.is_set():
            answer = ask(project, digit)  # its timeout is an error: no request hangs
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) > 0
                counted["refused"] += 1
                over.wait(0.2)
                continue
            assert label(answer) == digit, "a wrong answer"
            counted["answered"] += 1
            digit = (digit + 1) % 10

    with ThreadPoolExecutor(4) as threads:
        clients = [threads.submit(client, i) for i in range(4)]
        try:
            for service in ("alice", "bob", "crypto_provider"):
                done = counted["answered"]
                project.compose("restart", "--timeout", "15", service)
                project.wait_healthy(service)
                wait_for(lambda done=done: counted["answered"] > done + 20 or any(c.done() for c in clients), service)
        finally:
            over.set()
        for one in clients:
            one.result()
    print(dict(counted))


def test_healthcheck_says_why(project: Project) -> None:
    """Exit code 1 where nobody answers, where the CA is another one, and where a service is not ready."""
    alice = project.container("alice")
    ca = "/keys/alice/tls/ca.pem"
    docker("exec", alice, "moiety", "healthcheck", "https://localhost:7701", "--ca", ca)
    docker("exec", alice, "moiety", "healthcheck", "https://bob:7702", "--ca", ca)
    for arguments in (("https://localhost:1", "--ca", ca), ("https://localhost:7701",), ("http://localhost:7701",)):
        with pytest.raises(AssertionError, match="localhost"):
            docker("exec", alice, "moiety", "healthcheck", *arguments)


OVERLAYS = ("postgres", "scale", "monitoring")


@pytest.mark.parametrize("chosen", [("postgres",), ("monitoring",), ("postgres", "scale"), OVERLAYS], ids="+".join)
def test_the_files_that_add_to_it_go_together(project: Project, chosen: tuple[str, ...]) -> None:
    files = ["docker-compose.yml", *(f"ops/{name}/compose.yml" for name in chosen)]
    found = yaml.safe_load(project.compose(*(part for file in files for part in ("-f", file)), "config"))
    for name, service in found["services"].items():
        assert service["mem_limit"] and service["pids_limit"] and service["cpus"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    reached = {name: set(service.get("networks") or ()) for name, service in found["services"].items()}
    assert not reached["client"] & (reached["bob"] | reached["crypto_provider"])
    for name in reached:
        if name.endswith("_database"):
            members = {other for other, networks in reached.items() if name in networks}
            role = name.removesuffix("_database")
            assert members <= {name, role, f"{role}2", *(("owner", "access") if role == "server" else ())}, name
