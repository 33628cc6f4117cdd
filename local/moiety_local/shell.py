"""How a shell calls the running `moiety`, for commands that moiety prints for people to copy."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """`moiety`, if every shell finds this installation by that name; or else its path, or Python's call of the module.

    In an activated environment this is the path: the environment is active in one shell, and people may copy the
    command into another.
    """
    script = Path(sys.executable).with_name("moiety")
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m moiety_service.cli.main"
    found = shutil.which("moiety")
    everywhere = found is not None and "VIRTUAL_ENV" not in os.environ and Path(found).samefile(script)
    return "moiety" if everywhere else shlex.quote(str(script))
