"""Commands that are printed for people to copy: how a shell calls the `moiety` that runs."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """`moiety`, where every shell finds this installation by that name; else a path, or how Python runs it as a module.

    An activated environment is no reason for the short name: it is active in one shell, and the next may be another.
    """
    script = Path(sys.executable).with_name("moiety")
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m moiety_service.cli.main"
    found = shutil.which("moiety")
    everywhere = found is not None and "VIRTUAL_ENV" not in os.environ and Path(found).samefile(script)
    return "moiety" if everywhere else shlex.quote(str(script))
