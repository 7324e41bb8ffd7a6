"""A table or figure of the paper, by its name: that of a YAML file in this folder.

    python recipes/paper/run.py table1 --scale small

Scale `full` is the paper's setting, by Hub ids; `small` the same file on two CPU cores, with models and images that
come with two Python packages and this repository. Whatever ran before is not run again, by this table or another.
Several processes, one a GPU, share the runs. Results are written to recipes/paper/results.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from compare import Report, carry_out, trainer_of
from comparison import Array, Results, all_methods, markdown, mean_curve, methods_of
from grid import Grid
from one_vs_all import OneVsAllGrid, write_table
from ood import write_report as write_domains
from report import write_report
from selected_sheet import write_sheet

from vecaf_hf.cli.cells import going_on
from vecaf_hf.cli.terminal import Parser, run_in_terminal
from vecaf_hf.cli.verdict import to_target
from vecaf_hf.inspection.page import JSON_FILE
from vecaf_hf.inspection.words import summary_of
from vecaf_hf.validation import check_choice

FOLDER = Path(__file__).parent
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml") if file.stem != "base")
# Of one class against all others; of selections alone; with a contact sheet of what is selected first.
ONE_VS_ALL, INSPECTED, SHOWN = ("table2",), ("figure6",), ("figure3",)
MAP = "map.png"


def grid_of(name: str, scale: str) -> Grid:
    """A table's grid, whose report is in a folder of that name."""
    check_choice("the table or figure", name, NAMES, or_callable=False)
    kind = OneVsAllGrid if name in ONE_VS_ALL else Grid
    grid = kind.load(FOLDER / f"{name}.yaml", scale)
    return replace(grid, report=grid.report / name)


def batches_to_reach(results: Results, reached: dict[str, list[float]]) -> str:
    """One row a method: batches until its mean curve on validation is first at each accuracy asked for."""
    asked = [(pool, accuracy) for pool, accuracies in reached.items() for accuracy in accuracies]
    rows = [["method", *(f"`{pool}`, {accuracy:.0%}" for pool, accuracy in asked)]]
    for method in all_methods(results):
        cells = []
        for pool, accuracy in asked:
            entry = methods_of(results, pool).get(method)
            cells.append("" if entry is None else _batches(mean_curve(entry["runs"]), accuracy))
        rows.append([f"`{method}`", *cells])
    return markdown(rows)


def _batches(curve: dict[str, Array], accuracy: float) -> str:
    (step,) = to_target(curve["accuracy"][None], curve["step"][None], np.array([accuracy]))
    return "never" if np.isnan(step) else f"{step:.0f}"


def write_batches(reached: dict[str, list[float]], results: Results, folder: Path) -> str:
    """The tables and plots of every grid, and the batches until these accuracies; returns the latter."""
    write_report(results, folder)
    text = f"{batches_to_reach(results, reached)}\n"
    (folder / "batches.md").write_text(text)
    return text


def report_of(name: str, grid: Grid) -> Report:
    """What writes a table's report."""
    if name in ONE_VS_ALL:
        return write_table
    if grid.targets:
        return write_domains
    return partial(write_batches, grid.reached) if grid.reached else write_report


def inspect(grid: Grid) -> None:
    """Each method's first selection, as `vecaf-hf inspect` writes it; nothing is trained. Map and figures are the
    report."""
    for pool, method in grid.groups():
        trainer, _ = trainer_of(grid, grid.tuning(pool, method)[0])
        page, report = (folder / pool / method for folder in (grid.folder / "inspections", grid.report))
        print(summary_of(trainer.inspect(page), [page / "index.html", page / JSON_FILE]))
        report.mkdir(parents=True, exist_ok=True)
        for name in (JSON_FILE, MAP):
            shutil.copy(page / name, report)


def main(name: str, scale: str, report_only: bool = False) -> None:
    grid = grid_of(name, scale)
    if name in INSPECTED:
        inspect(grid)
    else:
        carry_out(grid, report_only, report_of(name, grid))
    if name in SHOWN and not report_only:
        write_sheet(grid, list(grid.methods))


def command() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("name", metavar="NAME", help=f"One of {', '.join(NAMES)}.")
    parser.add_argument("--scale", default="full", help="full (the paper's setting) or small (two CPU cores).")
    parser.add_argument(
        "--report", action="store_true", help="Report on the methods that are through, and run nothing."
    )
    asked = parser.parse_args()
    with going_on():
        main(asked.name, asked.scale, asked.report)


if __name__ == "__main__":
    sys.exit(run_in_terminal(Path(sys.argv[0]).name, command))
