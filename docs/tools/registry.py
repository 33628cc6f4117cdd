"""The registry of problems for the JavaScript client: `generated()` gives client/js/src/registry.ts."""

import json
from pathlib import Path

from docs.tools.pages import DOCS
from moiety_shared.problems import RETRY_AFTER_SECONDS, ProblemType

_HEAD = """\
/** Every problem that a service may answer with, by its type. Made from problems.py by `make docs-reference`. */

export interface Registered {
  title: string;
  hint: string;
  /** The seconds after which to try again, where a repetition makes sense. */
  retryAfter?: number;
}

"""


def generated() -> dict[Path, str]:
    """The file, with all problems in the order of the registry."""
    entries = {kind.urn: _entry(kind) for kind in ProblemType}
    lines = [f"  {json.dumps(urn)}: {json.dumps(entry, ensure_ascii=False)},\n" for urn, entry in entries.items()]
    table = f"export const PROBLEMS: Readonly<Record<string, Registered>> = {{\n{''.join(lines)}}};\n"
    internal = f"export const INTERNAL = {json.dumps(ProblemType.INTERNAL.urn)};\n"
    return {DOCS.parent / "client" / "js" / "src" / "registry.ts": f"{_HEAD}{table}\n{internal}"}


def _entry(kind: ProblemType) -> dict[str, str | int]:
    entry: dict[str, str | int] = {"title": kind.title, "hint": kind.hint}
    return entry | ({"retryAfter": RETRY_AFTER_SECONDS[kind]} if kind in RETRY_AFTER_SECONDS else {})
