"""`moiety status` as a command, against five real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np

from moiety_client.client import Client
from moiety_local.deployment import Deployment
from moiety_local.site import ROLES

Digits = tuple[np.ndarray, np.ndarray]


def status(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moiety_service.cli.main", "status", *arguments],
        env=os.environ | {"MOIETY_CLIENT_ACCESS_FILE": "/nowhere", "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def as_client(deployment: Deployment) -> dict[str, str]:
    return {
        "MOIETY_CLIENT_ACCESS_FILE": str(deployment.access_file),
        "MOIETY_CLIENT_PORT": str(deployment.ports["client"]),
    }


def as_operator(deployment: Deployment) -> dict[str, str]:
    return {"MOIETY_CLIENT_STATUS_METRICS": ",".join(deployment.metrics_url(role) for role in ROLES)}


def test_a_client_sees_what_anybody_may(deployment: Deployment, client: Client) -> None:
    for role in ROLES:
        deployment.wait(role, "/health/ready")
    done = status("--json", **as_client(deployment))
    assert done.returncode == 0, done.stderr + done.stdout
    seen = json.loads(done.stdout)
    roles = {role["role"]: role for role in seen["roles"]}
    assert list(roles) == ["server", "alice", "bob", "client"], "a client does not know the crypto provider"
    assert {role["state"] for role in roles.values()} == {"ready"} and seen["well"]
    for name in ("server", "alice", "bob"):
        assert roles[name]["certificate_expires"] > seen["time"]
        assert roles[name]["pools"] == roles[name]["last_problems"] == [] and not roles[name]["version"]
    assert seen["models"][0]["name"] == "mnist" and seen["models"][0]["expires"] > seen["time"]


def test_an_operator_sees_more(deployment: Deployment, client: Client, digits: Digits) -> None:
    client.predict("mnist", digits[0][0])
    with deployment.http("alice") as alice:
        assert alice.post("/v1/predictions", content=b"garbage").status_code == 401
    done = status("--json", **as_client(deployment), **as_operator(deployment))
    assert done.returncode == 0, done.stderr + done.stdout
    roles = {role["role"]: role for role in json.loads(done.stdout)["roles"]}
    assert list(roles) == ["server", "alice", "bob", "crypto_provider", "client"]
    assert all(role["version"] for role in roles.values())
    assert roles["alice"]["url"] == deployment.url("alice"), "the address that clients know"
    for name in ("alice", "bob"):
        assert [(pool["model"], pool["target"]) for pool in roles[name]["pools"]] == [("mnist", 512)]
        assert 0 < roles[name]["pools"][0]["rows"] <= 512 + 64
    assert "UNAUTHORIZED" in [last["problem"] for last in roles["alice"]["last_problems"]]
    # Since it started: leases outlive the provider's process, so there may be none yet.
    metrics = httpx.get(f"{deployment.metrics_url('crypto_provider')}/metrics").text
    opened = next(line for line in metrics.splitlines() if line.startswith("moiety_opened_leases_total"))
    assert roles["crypto_provider"]["now"]["leases opened"] == float(opened.split()[1])
    assert "rows dealt" in roles["crypto_provider"]["rates"]


def test_people_get_one_screen(deployment: Deployment, client: Client) -> None:
    done = status(**as_client(deployment), **as_operator(deployment))
    assert done.returncode == 0 and not done.stderr
    for text in (*ROLES, "ready", "mnist", "rows of randomness", "days"):
        assert text in done.stdout, text
    assert len(done.stdout.splitlines()) < 60


def test_a_role_that_is_down_is_exit_code_3(deployment: Deployment) -> None:
    operator = as_operator(deployment)["MOIETY_CLIENT_STATUS_METRICS"] + ",http://127.0.0.1:9"
    done = status("--json", MOIETY_CLIENT_STATUS_METRICS=operator)
    assert done.returncode == 3
    seen = json.loads(done.stdout)
    assert [role["role"] for role in seen["roles"] if role["state"] == "down"] == ["http://127.0.0.1:9"]
    assert not seen["well"] and len(seen["roles"]) == 6, "metrics alone will do"


def test_nobody_to_ask_is_exit_code_2(tmp_path: Path) -> None:
    done = status()
    assert done.returncode == 2 and "access file" in done.stderr and not done.stdout
