"""Text and tables in Markdown: whatever is in a name, it stays text, and a row stays a line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vecaf_hf.printable import printable
from vecaf_hf.reporting.summary import WIDEST_CELL

# What may begin a mark of Markdown, of HTML or of a formula; after a backslash it is a character.
MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|$~&:@^=])")


def escaped(text: object, longest: int | None = None) -> str:
    """The text on one printable line, none of it read as markup; `longest` counts its own characters."""
    return MARKUP.sub(r"\\\1", printable(text, longest))


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head, the first column to the left, the others to the right."""
    head, *body = ([escaped(cell, WIDEST_CELL) for cell in row] for row in rows)
    rule = [":---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))
