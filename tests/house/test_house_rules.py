"""The rules of the house that a linter does not know."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLOORS = (
    {"moiety_shared"},
    {"moiety_service"},
    {"moiety_crypto_provider", "moiety_party", "moiety_server", "moiety_client"},
    {"moiety"},  # the client's face
    {"moiety_local"},
    {"moiety_syft", "benchmarks"},
)
"""A package imports those on floors below its own, and no other."""
FOLDERS = ("shared", "crypto_provider", "party", "server", "client", "local", "dialect", "benchmarks")


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


def package(path: Path) -> str:
    """The top-level package of a file."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] == "benchmarks" else parts[1]


def test_arrows_point_downwards() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    files = list(sources(*FOLDERS))
    assert {package(path) for path in files} == set(floor), "every package has its floor"
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in (whole.split(".")[0] for whole in imports(path))
        if name in floor and name != package(path) and floor[name] >= floor[package(path)]
    }
    assert not wrong


def test_modules_import_no_circle() -> None:
    """Of what is imported with a module; what a function imports when it is called, or types alone need, is not."""
    files = {path: module(path) for path in sources(*FOLDERS)}
    known = set(files.values())
    graph = {name: set(imports_at_once(path, known)) - {name} for path, name in files.items()}
    assert sum(map(len, graph.values())) > 500, "the arrows were found"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    dotted = parts if parts[0] == "benchmarks" else parts[1:]
    return ".".join(dotted[:-1] if dotted[-1] == "__init__" else dotted)


def imports_at_once(path: Path, known: set[str]) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:  # a module of that package, or something in it
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else node.module


def test_the_core_does_no_input_or_output() -> None:
    forbidden = {"socket", "asyncio", "httpx", "fastapi", "uvicorn", "pathlib", "time", "datetime", "os", "threading"}
    wrong = [
        f"{path.name} imports {name}"
        for path in sources("shared/moiety_shared")
        for name in imports(path)
        if name.split(".")[0] in forbidden
    ]
    assert not wrong


def test_no_randomness_but_the_systems_and_our_streams() -> None:
    forbidden = ("pickle", "random", "numpy.random", "torch.load", "cloudpickle", "marshal", "shelve")
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(*FOLDERS)
        for name in imports(path)
        if name in forbidden
    ]
    assert not wrong
    calls = ("np.random", "torch.rand", "torch.Generator", "torch.load(", "eval(", "exec(")
    for path in sources(*FOLDERS):
        if path.name in ("network.py", "characters.py", "topics.py"):  # training: shuffling real data is not a secret
            continue
        text = path.read_text()
        assert not [call for call in calls if call in text], path


def test_the_client_needs_no_torch() -> None:
    program = (
        "import sys, moiety_client, moiety_client.sidecar, moiety_client.cli.main, moiety_local.demo;"
        "assert 'torch' not in sys.modules and 'safetensors' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_command_imports_the_client_only_when_it_asks() -> None:
    program = (
        "import sys, moiety_client, moiety_service.cli.main as cli; cli.build();"
        "assert not {'httpx', 'numpy', 'fastapi', 'sqlalchemy'} & set(sys.modules);"
        "import moiety; assert all(hasattr(moiety, name) for name in moiety.__all__);"
        "assert moiety_client.Client is moiety.Client and 'httpx' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_files_stay_readable() -> None:
    lines = {path: path.read_text().count("\n") for path in sources(*FOLDERS)}
    assert not [path for path, count in lines.items() if count > 400]
    assert not [path for path, count in lines.items() if path.parent.name == "protocols" and count >= 300]
    tests = {path: path.read_text().count("\n") for path in sources("tests")}
    assert len(tests) > 100 and not [path for path, count in tests.items() if count > 500]


def test_a_public_class_name_means_one_class() -> None:
    """Who reads a name in a traceback, a log or an API document finds one definition."""
    defined: dict[str, list[str]] = {}
    for path in sources(*FOLDERS):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                defined.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert len(defined) > 300, "the classes were found"
    assert not {name: paths for name, paths in defined.items() if len(paths) > 1}


def test_classes_stay_readable() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sources(*FOLDERS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno >= 200
    ]
    assert not long


def test_docstrings_stand_alone() -> None:
    """Who reads one in an editor, or in the reference, does not see the one before it."""
    wrong = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sources(*FOLDERS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (ast.get_docstring(node) or "").startswith("The same")
    ]
    assert not wrong


def test_no_path_of_a_machine_is_written_down() -> None:
    for path in (*sources(*FOLDERS, "tests"), ROOT / "Makefile", ROOT / "pyproject.toml"):
        text = path.read_text()
        assert "/" + "work/" not in text and "/" + "root/" not in text, path
