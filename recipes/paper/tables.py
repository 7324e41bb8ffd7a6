"""The generated tables in recipes/paper/README.md anew: from the results' files at small scale, and what the paper's
setting is planned to take.

    python recipes/paper/tables.py

A table stands between `<!-- results NAME -->` and `<!-- /results -->`: that of the YAML file of that name, or of
`planned`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import one_vs_all
import ood
import planned
from comparison import Results, all_methods, cost_table, ends, has, markdown, methods_of, pools_of, with_error
from generated import with_tables
from readme import MARK
from run import FOLDER, INSPECTED, batches_to_reach, grid_of

from vecaf_hf.cli.terminal import Parser, run_in_terminal
from vecaf_hf.inspection.page import JSON_FILE

README = FOLDER / "README.md"
SMALL = FOLDER / "results" / "small"
NOT_RUN = "Not run."


def accuracies(results: Results) -> str:
    """One row a method, one column a pool: accuracy on the test split, %."""
    pools = pools_of(results)
    rows = [["method", *(f"`{pool}`" for pool in pools)]]
    for method in all_methods(results):
        entries = [methods_of(results, pool).get(method) for pool in pools]
        rows.append([f"`{method}`", *("" if entry is None else with_error(ends(entry["runs"])) for entry in entries)])
    return markdown(rows)


def costs(results: Results) -> str:
    """Of each pool one table."""
    return "\n\n".join(cost_table(results, pool) for pool in pools_of(results))


def on_boundaries(inspections: dict[str, dict[str, Any]]) -> str:
    """What of the pool, and of the two selections, lies on a boundary between classes."""
    rows = [["", "candidates", "VeCAF's", "ActiveFT's"]]
    for name, inspection in inspections.items():
        shares = inspection["map"]["boundary_shares"]
        rows.append([f"`{name}`", *(f"{shares[one]:.1%}" for one in ("candidates", "selected", "activeft"))])
    return markdown(rows)


def table(name: str) -> str:
    if name == "planned":
        return planned.table()
    folder = SMALL / name
    if name in INSPECTED:
        files = sorted(folder.glob(f"*/*/{JSON_FILE}"))
        found = {str(file.parent.relative_to(folder)): json.loads(file.read_text()) for file in files}
        return on_boundaries(found) if found else NOT_RUN
    if not (folder / "results.json").is_file():
        return NOT_RUN
    results = json.loads((folder / "results.json").read_text())
    if has("measures", results):
        return one_vs_all.table(results)
    if has("targets", results):
        return ood.short_tables(results)
    if reached := grid_of(name, "small").reached:
        return batches_to_reach(results, reached)
    # Cost says little beside an accuracy that nobody tells.
    return f"{costs(results)}\n\n{accuracies(results)}" if name == "table4" else accuracies(results)


def command() -> None:
    Parser(description=__doc__).parse_args()
    README.write_text(with_tables(README.read_text(), MARK, table))


if __name__ == "__main__":
    sys.exit(run_in_terminal(Path(sys.argv[0]).name, command))
