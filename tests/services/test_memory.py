"""What start-up mapped is let go of, and nothing is lost with it."""

import platform
import subprocess
import sys

import pytest

from moiety_service.memory import _unchanged_code

PROGRAM = """
import re
from pathlib import Path
import torch
from moiety_service.memory import release_code

def resident():
    return int(re.search(r"RssFile:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

a = torch.arange(12, dtype=torch.int64).reshape(3, 4)
before = (a @ a.T).tolist()
full = resident()
release_code()
left = resident()
assert (a @ a.T).tolist() == before and torch.relu(torch.tensor([-1, 2])).tolist() == [0, 2]
assert left < full / 2, (full, left)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_library_code_is_let_go_of_and_runs_again() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


HOLES = """
import re
from pathlib import Path
from moiety_service.memory import keep_freed_pages, release_freed

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

keep_freed_pages()
blocks = [bytearray(b"1") * (1 << 20) for _ in range(128)]
full = resident()
del blocks[::2]
kept = resident()
release_freed()
assert full - kept < 10_000 and full - resident() > 50_000, (full, kept, resident())
assert all(block == bytearray(b"1") * (1 << 20) for block in blocks)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators keep what they like")
def test_holes_between_blocks_in_use_are_let_go_of() -> None:
    subprocess.run([sys.executable, "-c", HOLES], check=True)


def test_only_unchanged_code_of_files_is_let_go_of() -> None:
    mappings = [
        ("00001000-00003000 r-xp 00000000 fe:00 1                  /lib/with a space.so", 0),
        ("00003000-00004000 r--p 00000000 fe:00 1                  /lib/a.so", 0),  # relocated data may be among it
        ("00004000-00005000 rw-p 00000000 fe:00 1                  /lib/a.so", 0),
        ("00005000-00006000 r-xp 00000000 fe:00 1                  /lib/b.so", 4),  # somebody changed a page
        ("00006000-00007000 r-xp 00000000 00:00 0 ", 0),
        ("7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0          [vdso]", 0),
        ("0000a000-0000b000 r-xp 00000000 fe:00 1                  /lib/c.so", 0),
    ]
    smaps = "".join(f"{head}\nSize: 8 kB\nAnonymous: {own} kB\nVmFlags: rd ex\n" for head, own in mappings)
    assert list(_unchanged_code(smaps)) == [(0x1000, 0x3000), (0xA000, 0xB000)]
