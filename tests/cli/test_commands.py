"""Help, what is printed where, and how commands end."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import typer
from PIL import Image

from moiety_service.cli import terminal
from moiety_service.cli.main import build
from moiety_service.cli.terminal import Exit
from moiety_service.security import keys
from moiety_shared.crypto import tokens
from moiety_shared.crypto.possession import private_from_pem, public_from_pem, thumbprint
from moiety_shared.messages.access import AccessFile
from moiety_shared.problems import Problem, ProblemType
from tests.cli.conftest import HOW, Run
from tests.client.sdk.conftest import Paid

DOCS = (Path(__file__).parent.parent.parent / "docs" / "commands.md").read_text()
# Those that run until they are stopped, and those that have nothing to say.
SILENT = {
    "syft run",
    "server",
    "party",
    "provider",
    "sidecar",
    "up",
    "activate",
    "rekey",
    "withdraw",
    "token revoke",
    "healthcheck",
}


def commands() -> dict[str, Any]:
    """Every command by its whole name."""

    def inside(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield name, command
        for part, child in getattr(command, "commands", {}).items():
            yield from inside(child, f"{name} {part}".strip())

    return dict(inside(typer.main.get_command(build()), ""))


# Help


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_teaches_and_is_documented(run: Run, name: str) -> None:
    command = commands()[name]
    shown = run(*name.split(), "--help").stdout
    assert re.search(rf"Example:\s+moiety {name}\b", shown), "an example"
    assert len((command.help or "").split()) > 5
    for option in command.params:
        assert getattr(option, "help", None), f"{name} {option.name}"
    if name.split()[0] not in ("party",):
        assert f"`moiety {name}`" in DOCS
    assert ("--json" in shown) == (name not in SILENT)


def test_every_example_is_a_command_with_options_that_exist(run: Run) -> None:
    known = commands()
    for name, command in known.items():
        for example in re.findall(r"^ +moiety (.+)$", command.epilog, re.M):
            words = example.split()
            called = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
            options = {option for param in known[called].params for option in param.opts}
            used = {word for word in words if word.startswith("--") and word != "--help"}
            assert used <= options, f"{name}: {example}"


def test_every_exit_code_is_documented() -> None:
    for code in Exit:
        assert f"| {int(code)} | `{code.name}` | {code.meaning} |" in DOCS
    assert len(re.findall(r"^\| \d+ \| `", DOCS, re.M)) == len(Exit)


# How commands end, and where they print


def test_wrong_use(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    cases = [
        (("predict", "mnist"), "Missing argument"),
        (("predict", "mnist", "x.png", "--nonsense"), "No such option"),
        (("predict", "mnist", tmp_path / "bad.json"), "is not an access file"),
        (("models", "--access", tmp_path / "bad.json"), "ask the model's owner for one"),
        (("token", "revoke", "0" * 32), "does not exist"),
        (("keys", "rotate", tmp_path), "is not a secrets folder"),
        (("keys", "renew", "nobody"), "one of alice"),
        (("withdraw",), "or --upload ID"),
        (("withdraw", "mnist"), "or --upload ID"),
        (("withdraw", "mnist", "1", "--upload", "ab" * 16), "or --upload ID"),
        (("withdraw", "--upload", "1"), "32 hexadecimal digits"),
        (("doctor", "nobody"), "alice"),
        (("inspect", "mnist", "--reveal", "everything"), "one of logits, labels, decision, count"),
    ]
    for command, said in cases:
        done = run(*command)
        assert done.exit_code == Exit.USAGE, command
        assert said in done.stderr and not done.stdout, command


def test_what_a_model_will_cost(run: Run, tmp_path: Path) -> None:
    done = run("inspect", "mnist", "--json", "--chart", tmp_path / "cost.png")
    found = json.loads(done.stdout)
    assert done.exit_code == Exit.OK, done.output
    assert sum(layer["rounds"] for layer in found["layers"]) == found["total"]["rounds"] == 5
    near, far = found["seconds"]["loopback"], found["seconds"]["WAN, 100 Mbit/s, 50 ms"]
    assert 0 < near["1"] < near["32"] < far["32"]
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    assert "predicted time of a call" in run("inspect", "mnist").output


def test_settings_that_are_wrong(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOIETY_CLIENT_TIMEOUT", "soon")
    done = run("models")
    assert done.exit_code == Exit.USAGE and "TIMEOUT" in done.stderr and "soon" not in done.stderr


def test_nobody_answers(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    access = {"catalogue_url": "https://127.0.0.1:9", "owner_key": "k"}
    (tmp_path / "access.json").write_text(json.dumps(access))
    done = run("models", "--access", tmp_path / "access.json")
    assert done.exit_code == Exit.UNAVAILABLE and "check that the model owner's server runs" in done.stderr
    keys.init(tmp_path / ".moiety" / "keys", {})
    monkeypatch.setenv("MOIETY_SERVER_ALICE_URL", "https://127.0.0.1:9")
    done = run("refresh")
    assert done.exit_code == Exit.UNAVAILABLE and "alice does not answer" in done.stderr and not done.stdout
    assert run("versions", "mnist").exit_code == Exit.FAILED
    assert run("token", "issue", "x", "--out", tmp_path / "x.json").exit_code == Exit.OK
    assert run("token", "revoke", "0" * 32).exit_code == Exit.USAGE
    assert run("keys", "init").exit_code == Exit.USAGE, "name a new folder"
    assert run("keys", "init", "--if-missing").exit_code == Exit.OK


def test_a_token_is_bound_to_a_key(run: Run, tmp_path: Path) -> None:
    keys.init(tmp_path / ".moiety" / "keys", {})
    assert run("token", "issue", "x", "--out", tmp_path / "x.json").exit_code == Exit.OK
    access = AccessFile.model_validate_json((tmp_path / "x.json").read_bytes())
    own = private_from_pem(access.key.encode()).public_key()
    assert tokens.verify(access.token, access.owner_key).key == thumbprint(own.public_bytes_raw())
    assert run("keys", "client", tmp_path / "mine.pem").stdout.strip() == str(tmp_path / "mine.pub")
    done = run("keys", "client", tmp_path / "mine.pem")
    assert done.exit_code == Exit.USAGE and "exists already" in done.stderr
    assert run("token", "issue", "y", "--key", tmp_path / "mine.pub", "--out", tmp_path / "y.json").exit_code == Exit.OK
    access = AccessFile.model_validate_json((tmp_path / "y.json").read_bytes())
    mine = public_from_pem((tmp_path / "mine.pub").read_bytes())
    assert not access.key and tokens.verify(access.token, access.owner_key).key == thumbprint(mine.public_bytes_raw())
    for wrong in ("mine.pem", "missing.pub", "x.json"):
        done = run("token", "issue", "z", "--key", tmp_path / wrong, "--out", tmp_path / "z.json")
        assert done.exit_code == Exit.USAGE and "not the PEM of an Ed25519 public" in done.stderr
    assert not (tmp_path / "z.json").exists() and len(run("token", "list", "--json").stdout.splitlines()) == 2
    shown = run("token", "list").stdout
    assert "key" in shown and "yes" in shown


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(np.array([[0, 64], [128, 255]], np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (Problem(ProblemType.UNAUTHORIZED, "it was revoked"), Exit.FAILED),
        (Problem(ProblemType.FORBIDDEN), Exit.FAILED),
        (Problem(ProblemType.REQUEST_CONFLICT), Exit.FAILED),
        (Problem(ProblemType.INTERNAL), Exit.FAILED),
        (Problem(ProblemType.QUOTA_EXCEEDED, retry_after=9), Exit.UNAVAILABLE),
        (Problem(ProblemType.RANDOMNESS_EXHAUSTED), Exit.UNAVAILABLE),
        (httpx.ConnectError("down"), Exit.UNAVAILABLE),
    ],
    ids=str,
)
def test_what_the_service_says_decides_the_code(run: Run, served: Paid, picture: Path, wrong: Any, code: Exit) -> None:
    served.before = [wrong] * 1000
    done = run("predict", "small", picture, "--json")
    assert done.exit_code == code and not done.stdout and done.stderr.strip()
    assert isinstance(wrong, httpx.HTTPError) or wrong.kind.hint in done.stderr


def test_what_is_refused_here_is_wrong_use(run: Run, served: Paid, picture: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 5)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    cases = [
        ("x.npy", "inputs of shape 4"),
        ("empty", "contains no pictures"),
        ("missing.png", "does not exist"),
        ("broken.png", "not a picture file"),
    ]
    for file, said in cases:
        done = run("predict", "small", tmp_path / file)
        assert done.exit_code == Exit.USAGE and said in done.stderr and not done.stdout
    assert run("predict", "other", picture).exit_code == Exit.FAILED
    (tmp_path / "notes.txt").write_text("precious\n")
    done = run("predict", "small", picture, "--resume", tmp_path / "notes.txt")
    assert done.exit_code == Exit.USAGE and "not the file of a run" in done.stderr
    assert not served.asked


def test_an_answer_that_is_not_ours_is_a_failure(run: Run, served: Paid, picture: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(served, "compute", lambda _: b"something else")
    done = run("predict", "small", picture)
    assert done.exit_code == Exit.FAILED and "does not belong to this request" in done.stderr


def test_ctrl_c(run: Run, served: Paid, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: bytes) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(served, "compute", interrupted)
    done = run("predict", "small", picture)
    assert done.exit_code == Exit.INTERRUPTED and not done.stdout


# What predict and evaluate print


def pixels(files: int) -> np.ndarray:
    return (np.arange(files * 4).reshape(files, 2, 2) * 37 % 256).astype(np.uint8)


def labels(pictures: np.ndarray) -> list[int]:
    from tests import plans

    x = np.rint((pictures.reshape(len(pictures), 4) / 255 - HOW.mean) / HOW.std * 16).astype(np.int32)
    return plans.scores(x).argmax(axis=1).tolist()


def test_files_folders_and_stacks_come_in_the_order_they_are_named(run: Run, served: Paid, tmp_path: Path) -> None:
    made = pixels(7)
    (tmp_path / "b" / "deep").mkdir(parents=True)
    places = [tmp_path / "[bold]z.png", tmp_path / "b" / "a.PNG", tmp_path / "b" / "deep" / "c.png"]
    for path, one in zip(places, made[:3], strict=True):
        Image.fromarray(one).save(path)
    (tmp_path / "b" / "notes.txt").write_text("not a picture")
    np.save(tmp_path / "x.npy", made[3:])
    command = ("predict", "small", places[0], tmp_path / "b", tmp_path / "x.npy", "--batch", 2, "--top", 2)
    done = run(*command, "--json")
    assert done.exit_code == Exit.OK and not done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["file"], row.get("row")) for row in rows] == [
        *((str(path), None) for path in places),
        *((str(tmp_path / "x.npy"), at) for at in range(4)),
    ]
    names = served.entries[0].classes
    assert [row["class"] for row in rows] == labels(made)
    assert all(row["label"] == names[row["class"]] == row["top"][0] and len(row["top"]) == 2 for row in rows)
    assert [request.rows for request in served.asked] == [2, 2, 2, 1]
    shown = run(*command).stdout.splitlines()
    assert [line.split()[:2] for line in shown if str(tmp_path) in line] == [
        [row["file"] + (f"[{row['row']}]" if "row" in row else ""), row["label"]] for row in rows
    ], "names are shown as they are"


def test_what_came_before_it_broke_off_is_shown(run: Run, served: Paid, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", pixels(6))
    served.before = [None, Problem(ProblemType.FORBIDDEN)]
    done = run("predict", "small", tmp_path / "x.npy", "--batch", 4)
    assert done.exit_code == Exit.FAILED and done.stdout.count("x.npy[") == 4


def test_evaluate(run: Run, served: Paid, tmp_path: Path) -> None:
    made, names = pixels(6), served.entries[0].classes
    np.save(tmp_path / "x.npy", made)
    truth = labels(made)
    (tmp_path / "names.txt").write_text("\n".join(names[at] for at in truth))
    done = run("evaluate", "small", tmp_path / "x.npy", "--labels", tmp_path / "names.txt", "--json")
    assert {"correct": 6, "total": 6, "accuracy": 1.0}.items() <= json.loads(done.stdout).items()
    for at, one in enumerate(made):
        folder = tmp_path / "tree" / names[truth[at] if at else (truth[at] + 1) % 5]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(folder / f"{at}.png")
    done = run("evaluate", "small", tmp_path / "tree")
    assert done.exit_code == Exit.OK and "5 of 6" in done.stdout and "83.33%" in done.stdout
    done = run("evaluate", "small", tmp_path / "x.npy")
    assert done.exit_code == Exit.USAGE and "label is not one of the model's 5 classes" in done.stderr


def test_models(run: Run, served: Paid) -> None:
    assert "small" in run("models").stdout and "5 outputs" in run("models").stdout
    assert json.loads(run("models", "--json").stdout)["classes"] == list(served.entries[0].classes)
    assert "[emu]" in run("models", "small").stdout
    served.entries = []
    assert run("models", "--json").stdout == ""
    assert not run("models").stdout and "is empty" in run("models").stderr


def test_lines_are_out_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    terminal.lines(iter([{"a": 1}, {"b": [2]}]))
    assert capfd.readouterr() == ('{"a": 1}\n{"b": [2]}\n', "")
