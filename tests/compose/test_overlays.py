"""The files that are added to docker-compose.yml, as they run: PostgreSQL for every role, replicas behind nginx."""

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.compose.project import Project, ask, docker, label, still_serves, wait_for

pytestmark = [pytest.mark.compose, pytest.mark.long]

HERE = Path(__file__).parent
DATABASES = ("crypto_provider", "alice", "bob", "server")


@pytest.fixture(scope="module")
def images() -> None:
    """The public images, or what stands in for them where they cannot be pulled."""
    for tag in ("postgres:17", "nginx:1.28"):
        if subprocess.run(["docker", "image", "inspect", tag], capture_output=True).returncode == 0:
            continue
        if subprocess.run(["docker", "pull", "--quiet", tag], capture_output=True).returncode != 0:
            docker("build", "--network", "host", "--tag", tag, str(HERE / "stand-ins" / tag.partition(":")[0]))


@pytest.fixture
def project(request: pytest.FixtureRequest, images: None) -> Iterator[Project]:
    """With the overlays that the test names."""
    with Project(overlays=request.param).taken_down() as made:
        made.compose("build")
        made.compose("up", "-d")
        still_serves(made)
        yield made


def rows(project: Project, role: str, table: str) -> int:
    command = [
        "psql",
        "--username",
        "moiety",
        "--tuples-only",
        "--no-align",
        "--command",
        f"select count(*) from {table}",
    ]
    return int(docker("exec", project.container(f"{role}_database"), *command))


def files(project: Project, service: str) -> set[str]:
    program = "import json, pathlib; print(json.dumps([p.name for p in pathlib.Path('/data').rglob('*')]))"
    return set(project.python(service, program))


@pytest.mark.parametrize("project", [("postgres",)], indirect=True)
def test_every_role_keeps_its_state_in_postgresql(project: Project) -> None:
    assert [label(ask(project, digit)) for digit in range(10)] == list(range(10))
    for role in DATABASES:
        assert rows(project, role, "alembic_version") == 1
        assert not {name for name in files(project, role) if "sqlite" in name}, role
    assert rows(project, "server", "grants") == 1, "the sidecar's token"
    project.compose("stop", "--timeout", "15")
    project.compose("up", "-d")
    still_serves(project)
    assert rows(project, "server", "grants") == 1
    # Without its database a role answers that it is not ready, and goes on by itself.
    before = project.inspect("alice_database")
    os.kill(before["State"]["Pid"], signal.SIGKILL)
    wait_for(
        lambda: project.inspect("alice_database")["RestartCount"] > before["RestartCount"], "it does not come back"
    )
    still_serves(project)


@pytest.mark.parametrize("project", [("postgres", "scale")], indirect=True)
def test_replicas_share_the_work_and_one_of_each_may_die(project: Project) -> None:
    def served() -> dict[str, int]:
        """Requests that each replica of alice answered."""
        program = (
            "import json, pathlib; p = pathlib.Path('/data/audit.jsonl');"
            "print(json.dumps(p.read_text().count('\"prediction\"') if p.exists() else 0))"
        )
        return {name: project.python(name, program) for name in ("alice", "alice2")}

    def all_right() -> None:
        """What is refused on the way may be asked again; what is answered is right."""
        digits = list(range(10)) * 4
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda digit: ask(project, digit), digits))
        refused = [answer for answer in answers if answer.status_code == 503]
        assert len(refused) < len(answers) / 2 and all(int(answer.headers["retry-after"]) > 0 for answer in refused)
        assert all(label(a) == digit for a, digit in zip(answers, digits, strict=True) if a not in refused)

    all_right()
    wait_for(lambda: all(served().values()), "one of alice's replicas served nothing")
    docker("kill", "--signal", "KILL", project.container("bob"), project.container("alice"))  # they stay dead
    still_serves(project)
    all_right()
