"""Names that come from data (classes, captions, files, folders), made safe to print."""

from __future__ import annotations

from collections.abc import Iterable


def printable(text: object, longest: int | None = None) -> str:
    """The text on one line, with Python's escapes for whatever breaks a line or cannot be seen: control characters,
    which steer a terminal, marks that reverse the reading direction, halves of characters that no file can hold.

    Args:
        text: Anything that has a text.
        longest: Characters of the result at most; what is cut off leaves an ellipsis.
    """
    line = str(text)
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if longest is None or len(line) <= longest else line[: longest - 1] + "…"


def listed(names: Iterable[object], most: int | None = None) -> str:
    """Names on one printable line, so many at most: the others are counted."""
    names = list(names)
    shown = names[:most]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return printable(", ".join(map(str, shown))) + more
