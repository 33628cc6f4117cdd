"""The rules of the house that a linter does not know."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROLES = ("crypto_provider", "party", "server", "client")
# Modules that play several roles on purpose.
_SYFT = "client/moiety_client/syft"
MAY_IMPORT_ROLES = {f"{_SYFT}/{name}.py" for name in ("compiling", "handlers", "session", "supported", "translation")}


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_a_role_imports_only_shared() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for role in ("shared", *ROLES)
        for path in sources(role)
        for name in imports(path)
        for other in ROLES
        if other != role
        and name.split(".")[0] == f"moiety_{other}"
        and str(path.relative_to(ROOT)) not in MAY_IMPORT_ROLES
    ]
    assert not wrong


def test_the_core_does_no_input_or_output() -> None:
    forbidden = {"socket", "asyncio", "httpx", "fastapi", "uvicorn", "pathlib", "time", "datetime", "os", "threading"}
    wrong = [
        f"{path.name} imports {name}"
        for path in sources("shared")
        if "service" not in path.parts
        for name in imports(path)
        if name.split(".")[0] in forbidden
    ]
    assert not wrong


def test_no_randomness_but_the_systems_and_our_streams() -> None:
    forbidden = ("pickle", "random", "numpy.random", "torch.load", "cloudpickle", "marshal", "shelve")
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources("shared", *ROLES)
        for name in imports(path)
        if name in forbidden
    ]
    assert not wrong
    calls = ("np.random", "torch.rand", "torch.Generator", "torch.load(", "eval(", "exec(")
    for path in sources("shared", *ROLES):
        if path.name == "network.py":  # training: shuffling real data is not a secret
            continue
        text = path.read_text()
        assert not [call for call in calls if call in text], path


def test_the_client_needs_no_torch() -> None:
    program = (
        "import sys, moiety_client, moiety_client.sidecar, moiety_client.cli, moiety_client.local.demo;"
        "assert 'torch' not in sys.modules and 'safetensors' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_command_imports_the_client_only_when_it_asks() -> None:
    program = (
        "import sys, moiety_client, moiety_shared.service.cli as cli; cli.build();"
        "assert not {'httpx', 'numpy', 'fastapi', 'sqlalchemy'} & set(sys.modules);"
        "[getattr(moiety_client, name) for name in moiety_client.__all__]; assert 'httpx' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_files_stay_readable() -> None:
    lines = {path: path.read_text().count("\n") for path in sources("shared", *ROLES)}
    assert not [path for path, count in lines.items() if count > 400]
    assert not [path for path, count in lines.items() if path.parent.name == "protocols" and count >= 300]


def test_no_path_of_a_machine_is_written_down() -> None:
    for path in (*sources("shared", *ROLES, "tests"), ROOT / "Makefile", ROOT / "pyproject.toml"):
        text = path.read_text()
        assert "/" + "work/" not in text and "/" + "root/" not in text, path
