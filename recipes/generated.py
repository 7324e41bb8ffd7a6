"""Tables in a page that are written anew from results, between `<!-- MARK NAME -->` and `<!-- /MARK -->`."""

from __future__ import annotations

import re
from collections.abc import Callable


def _part(mark: str) -> re.Pattern[str]:
    return re.compile(rf"(?s)(<!-- {mark} (\w+) -->\n).*?(<!-- /{mark} -->)")


def names_of_tables(text: str, mark: str) -> list[str]:
    """NAME of each, in the page's order."""
    return [part[2] for part in _part(mark).finditer(text)]


def with_tables(text: str, mark: str, table: Callable[[str], str]) -> str:
    """The page with what `table` gives for each NAME."""
    return _part(mark).sub(lambda part: f"{part[1]}\n{table(part[2])}\n\n{part[3]}", text)
