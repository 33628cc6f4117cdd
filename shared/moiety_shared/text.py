"""Texts of others, for people to read."""

import unicodedata

_OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, marks of direction, halves of characters, ends of lines


def printable(text: str, *, lines: bool = False) -> str:
    """The text with what a terminal obeys written out, as \\x1b: a name cannot colour, move, hide or forge a line.

    With `lines`, ends of lines stay.
    """
    kept = "\n" if lines else ""
    return "".join(
        c if c in kept or unicodedata.category(c) not in _OBEYED else c.encode("unicode_escape").decode() for c in text
    )
