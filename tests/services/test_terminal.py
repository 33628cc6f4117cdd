"""What others wrote is shown, and not obeyed: neither by a terminal nor as markup."""

import pytest
from rich.console import Console

from moiety_client.cli import screen
from moiety_client.cli.status import LastProblem, PoolLevel, PublishedModel, Role, Status
from moiety_service.cli import terminal
from moiety_shared.text import printable

EVIL = "\x1b]0;owned\x07 \x9b31m \r\u202e\u2028[red]hello"


def harmless(text: str) -> bool:
    return all(c == "\n" or c.isprintable() for c in text)


def test_what_a_terminal_obeys_is_written_out() -> None:
    assert printable("a\x1b[1m\r\nb\u202e") == "a\\x1b[1m\\r\\nb\\u202e"
    assert printable("two\nlines\x07", lines=True) == "two\nlines\\x07"
    assert printable("Füße, 手, \u00a0naïve \U0001f600") == "Füße, 手, \u00a0naïve \U0001f600"


def test_commands_show_it_so(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say(EVIL)
    terminal.ended(terminal.Exit.FAILED, ValueError(EVIL))
    terminal.table(("model", "description"), [("m", EVIL)])
    terminal.line({"description": EVIL})
    out, err = capsys.readouterr()
    assert harmless(out) and harmless(err)
    assert all("\\x1b]0;owned\\x07" in text for text in (out, err)) and "[red]hello" in out


def test_status_shows_it_so(capsys: pytest.CaptureFixture[str]) -> None:
    role = Role(
        role="alice", url="https://a", state="down", problem=EVIL, version=EVIL, pools=[PoolLevel(EVIL, EVIL, 1, 2)],
        last_problems=[LastProblem(EVIL, 0.0)],
    )  # fmt: skip
    for models in ([], [PublishedModel(name="m", version=1, description=EVIL, expires=4e9)]):
        Console(width=1000).print(screen.screen(Status(time=1.0, roles=[role], models=models)))
        out, _ = capsys.readouterr()
        assert harmless(out) and out.count("[red]hello") >= 4
