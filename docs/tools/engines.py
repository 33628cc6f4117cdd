"""What docs/benchmarks.md and docs/comparison.md show of other engines beside moiety, from the results that are kept.

`make bench-peers` measures them anew.
"""

from pathlib import Path

from benchmarks.peers.results import KEPT, PeerResults
from docs.tools import pages


def generated() -> dict[Path, str]:
    """The pages with the tables of the kept results."""
    made = {"benchmarks.md": kept().markdown(), "comparison.md": kept().times()}
    return {
        pages.DOCS / name: pages.filled(pages.DOCS / name, {"benchmarks.peers": part}) for name, part in made.items()
    }


def kept() -> PeerResults:
    """The results of the run that the documents show."""
    return PeerResults.model_validate_json(KEPT.read_text())
