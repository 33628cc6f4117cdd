"""Makes text from others safe to show to people."""

import unicodedata

_OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control characters, direction marks, surrogates, line ends


def printable(text: str, *, lines: bool = False) -> str:
    """Return the text with every character that a terminal obeys written out, such as \\x1b. So a name cannot colour,
    move, hide or forge a line.

    With `lines`, line ends stay.
    """
    if text.isascii() and text.isprintable():  # nearly every name is
        return text
    kept = "\n" if lines else ""
    return "".join(
        c if c in kept or unicodedata.category(c) not in _OBEYED else c.encode("unicode_escape").decode() for c in text
    )
