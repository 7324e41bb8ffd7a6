"""The tables and plots of a grid that `compare.py` has run, from its `results.json`.

python recipes/report.py recipes/results/several_epochs
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import conditions
import matplotlib
from comparison import (
    REFERENCE,
    UNDER_TARGETS,
    Results,
    all_methods,
    bars_figure,
    cost_table,
    curves_figure,
    mean_curve,
    methods_of,
    notes,
    pools_of,
    table,
)

from vecaf_hf.cli.terminal import Parser, run_in_terminal


def write_report(results: Results, folder: Path) -> str:
    """Write tables and plots into the folder; returns the tables."""
    matplotlib.use("Agg")
    pools, methods = pools_of(results), all_methods(results)
    figures = {
        "accuracy_by_batches.png": curves_figure(results, pools, methods, x="step", y="accuracy"),
        "accuracy_by_cost.png": curves_figure(results, pools, methods, x="flops", y="accuracy"),
        "loss_by_batches.png": curves_figure(results, pools, methods, x="step", y="loss"),
    }
    if compared := [pool for pool in pools if REFERENCE in methods_of(results, pool)]:
        figures["to_target.png"] = bars_figure(results, compared, methods)
    for y in UNDER_TARGETS:
        if all(y in mean_curve(entry["runs"]) for entry in results.values()):
            figures[f"{y}_by_batches.png"] = curves_figure(results, pools, methods, x="step", y=y)
            figures[f"{y}_by_cost.png"] = curves_figure(results, pools, methods, x="flops", y=y)
    figures |= conditions.figures(results, pools)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)
    text = "\n".join(
        f"### Pool `{pool}`\n\n{table(results, pool)}\n{notes(results, pool)}\n{cost_table(results, pool)}\n"
        f"{conditions.written(conditions.sections(results, pool))}"
        for pool in pools
    )
    (folder / "tables.md").write_text(text)
    return text


def command() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="Where results.json is, and tables and plots go.")
    folder = parser.parse_args().folder
    print(write_report(json.loads((folder / "results.json").read_text()), folder))


if __name__ == "__main__":
    sys.exit(run_in_terminal(Path(sys.argv[0]).name, command))
