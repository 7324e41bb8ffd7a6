"""README's table is the strategies themselves. `python tests/test_readme.py` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from vecaf_hf.selection import STRATEGIES

README = Path(__file__).parents[1] / "README.md"
MARKER = "<!-- strategies -->"


def strategies_table() -> str:
    rows = ["| strategy | scores the pool | |", "|---|---|---|"]
    for name, strategy in STRATEGIES.items():
        scores = "yes" if strategy.needs_forward else "once" if "mistaken" in strategy.reads else "no"
        rows.append(f"| `{name}` | {scores} | {strategy.summary} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    assert MARKER in text, f"README has no {MARKER}"
    block = f"{MARKER}\n\n{strategies_table()}\n\n"
    return re.sub(re.escape(MARKER) + r"\n\n(\|[^\n]*\n)*\n?", lambda _: block, text)


def test_table_is_the_strategies() -> None:
    text = README.read_text()
    assert with_table(text) == text, "run `python tests/test_readme.py`"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
