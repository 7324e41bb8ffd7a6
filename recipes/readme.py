"""The results' tables in recipes/README.md, and the ablations' figure, anew from the results' files.

    python recipes/readme.py

A table stands between `<!-- results NAME -->` and `<!-- /results -->`: that of the `results.json` in results/NAME, or,
for `ablations`, those of all ablations that have run, for `following`, its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import ablations
import conditions
import following
import ood
from comparison import has, pools_of, short_table
from generated import with_tables

from vecaf_hf.cli.terminal import Parser, run_in_terminal

RECIPES = Path(__file__).parent
README = RECIPES / "README.md"
MARK = "results"


def table(name: str) -> str:
    if name == "ablations":
        return ablations.tables(ablations.finished())
    if name == "following":
        return following.short_table(RECIPES / "results" / name)
    results = json.loads((RECIPES / "results" / name / "results.json").read_text())
    if name == "hidden_options":
        return ablations.table_under_conditions(results)
    if name == "shares":
        return "\n\n".join(conditions.shares_table(results, pool) for pool in pools_of(results))
    if conditions.seen_in_training(results):
        return conditions.short_tables(results)
    return ood.short_tables(results) if has("targets", results) else short_table(results)


def command() -> None:
    Parser(description=__doc__).parse_args()
    text = with_tables(README.read_text(), MARK, table)
    ablations.figure(ablations.finished()).savefig(ablations.RESULTS / "ablations.png", dpi=110)
    README.write_text(text)


if __name__ == "__main__":
    sys.exit(run_in_terminal(Path(sys.argv[0]).name, command))
