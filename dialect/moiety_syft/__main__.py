"""`python -m moiety_syft PROGRAM [ARGUMENTS]` does what `moiety syft run` does."""

import sys
from pathlib import Path

from moiety_syft.program import run

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m moiety_syft PROGRAM [ARGUMENTS]: run a program that was written for PySyft 0.2")
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
