"""README's tables are the options themselves. `python tests/test_readme.py` writes them anew."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from transformers import TrainingArguments

from vecaf_hf import VeCAFArguments
from vecaf_hf.augmentation.options import CEAOptions
from vecaf_hf.selection import STRATEGIES

README = Path(__file__).parents[1] / "README.md"


def options_table(options: type, inherited: type | None = None) -> str:
    skipped = {field.name for field in dataclasses.fields(inherited)} if inherited else set()
    rows = ["| option | default | |", "|---|---|---|"]
    for field in dataclasses.fields(options):
        if field.name in skipped:
            continue
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        shown = " ".join(default) if isinstance(default, list) else default
        rows.append(f"| `{field.name}` | `{shown}` | {field.metadata['help']} |")
    return "\n".join(rows)


def strategies_table() -> str:
    rows = ["| strategy | scores the pool | |", "|---|---|---|"]
    for name, strategy in STRATEGIES.items():
        rows.append(f"| `{name}` | {'yes' if strategy.needs_forward else 'no'} | {strategy.summary} |")
    return "\n".join(rows)


TABLES = {
    "strategies": strategies_table(),
    "options: VeCAFArguments": options_table(VeCAFArguments, TrainingArguments),
    "options: CEACallback": options_table(CEAOptions),
}


def with_tables(text: str) -> str:
    for name, table in TABLES.items():
        marker = f"<!-- {name} -->"
        assert marker in text, f"README has no {marker}"
        text = re.sub(
            re.escape(marker) + r"\n\n(\|[^\n]*\n)*\n?", lambda _, block=f"{marker}\n\n{table}\n\n": block, text
        )
    return text


def test_tables_are_the_options() -> None:
    text = README.read_text()
    assert with_tables(text) == text, "run `python tests/test_readme.py`"


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README.read_text())
    assert links
    for link in links:
        assert (README.parent / link.split("#")[0]).exists(), link


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
