"""What a command says of its steps."""

import os
import pty
import sys
import threading

import pytest

from moiety_service.cli import steps

SCRIPT = """
from moiety_service.cli.steps import steps
with steps() as tell:
    tell("compiling [red]a\\x1b[31m", 0, 0)
    for sent in (0, 3_000_000, 6_000_000):
        tell("uploading to bob", sent, 6_000_000)
    tell("waiting for rows", 0, 0)
"""


def test_where_there_is_no_terminal_each_step_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    with steps.steps() as tell:
        tell("compiling", 0, 0)
        for sent in range(5):
            tell("uploading", sent, 4)
        tell("waiting", 0, 0)
    out, err = capsys.readouterr()
    assert out == "" and err == "compiling\nuploading\nwaiting\n"


def test_on_a_terminal_a_bar_counts_bytes_and_no_name_is_obeyed() -> None:
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm", COLUMNS="120")
        os.execv(sys.executable, [sys.executable, "-c", SCRIPT])
    seen = bytearray()

    def read() -> None:
        try:
            while part := os.read(terminal, 4096):
                seen.extend(part)
        except OSError:  # the other end is gone
            pass

    reader = threading.Thread(target=read)
    reader.start()
    assert os.waitpid(child, 0)[1] == 0
    reader.join()
    os.close(terminal)
    text = seen.decode()
    assert "6.0 of 6.0 MB" in text and "waiting for rows" in text
    assert "[red]a\\x1b[31m" in text and "\x1b[31m" not in text
