"""What the package holds: the vectors' client, small, alike each time, and nothing of this machine."""

import gzip
import shutil
import tarfile
from pathlib import Path

from tests.javascript.conftest import PACKAGE, Node

MOST_BYTES = 40_000  # of the bundle, minified and compressed: a page loads it in a third of a second at 1 Mbit/s


def test_the_vectors_come_out_and_bad_ones_are_refused(node: Node) -> None:
    told = node("npm", "test", "--silent")
    assert "\n# fail 0\n" in told
    named = (PACKAGE / "test" / "vectors.test.mjs").read_text()
    files = sorted(path.stem for path in (PACKAGE.parents[1] / "docs" / "spec" / "vectors").iterdir())
    assert len(files) == 16 and all(f'"{name}"' in named for name in files), "each file is read"


def test_the_bundle_is_small(node: Node) -> None:
    bundle = (PACKAGE / "dist" / "index.js").read_bytes()
    assert len(gzip.compress(bundle, 9)) <= MOST_BYTES
    assert b"localStorage" not in bundle and b"Math.random" not in bundle


def test_the_owners_page_has_this_client(node: Node) -> None:
    """If not: make page."""
    served = PACKAGE.parents[1] / "server" / "moiety_server" / "web"
    assert (served / "client.js").read_bytes() == (PACKAGE / "dist" / "index.js").read_bytes()
    assert (served / "client.LICENSES.txt").read_bytes() == (PACKAGE / "dist" / "LICENSES.txt").read_bytes()


def test_the_same_sources_make_the_same_package(node: Node, tmp_path: Path) -> None:
    """All is bundled twice; tsc, which takes ten times as long, writes the declarations once."""
    packages, kept = [], tmp_path / "declarations"
    shutil.copytree(PACKAGE / "dist", kept, ignore=lambda _, names: [n for n in names if not n.endswith(".d.ts")])
    for at in range(2):
        (tmp_path / str(at)).mkdir()
        if at:  # the first was built already
            node("node", "build.mjs")
            shutil.copytree(kept, PACKAGE / "dist", dirs_exist_ok=True)
        node("npm", "pack", "--ignore-scripts", "--silent", "--pack-destination", tmp_path / str(at))
        packages += (tmp_path / str(at)).iterdir()
    one, other = packages
    assert one.name == other.name and one.read_bytes() == other.read_bytes()
    with tarfile.open(one) as file:
        names = set(file.getnames())
    assert {"package/dist/index.js", "package/dist/index.d.ts", "package/dist/node.js", "package/LICENSE"} <= names
    assert "package/dist/LICENSES.txt" in names and "package/README.md" in names
    assert not [name for name in names if "node_modules" in name or "/src/" in name or "/test/" in name]


def test_the_lock_file_names_no_registry() -> None:
    text = (PACKAGE / "package-lock.json").read_text()
    assert '"resolved"' not in text and "node_modules/@hpke/core" in text
