"""The tables and the figure of docs/large_pools.md: `large_pools.py` measures, `large_pools_plan.py` has the formulas.

    python recipes/benchmarks/large_pools_page.py

writes the page's tables, docs/large_pools/tables.md and the figure anew from docs/large_pools/results.json.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from comparison import markdown
from generated import with_tables
from large_pools_plan import (
    DECODING_RATE,
    IMAGE_BYTES,
    READING_RATE,
    SELECTING_RATE,
    STORED_BYTES,
    assigning,
    fitting_cells,
    in_cells,
    model_seconds,
    planned_bytes,
    selection_bytes,
    selection_flops,
)
from large_pools_readings import Results, fitted, kept, kept_error, slope, stages
from sharded_pool import DIMENSION

from vecaf_hf.cli.terminal import Parser, run_in_terminal
from vecaf_hf.cost import TRAINING_FACTOR

DOCS = Path(__file__).parents[2] / "docs"
PAGE, FOLDER = DOCS / "large_pools.md", DOCS / "large_pools"
MARK = "large_pools"

PLANNED_SIZES, PLANNED_SELECTED, PLANNED_SCORED = (10**8, 10**9), 0.001, (1.0, 0.02)
# Colours and marks of the figure's lines.
STYLES = ("#0072B2", "#D55E00"), ("o", "s")


# --- Tables ---


def fractions_table(results: Results) -> str:
    rows = [
        ["selected", "`scoring_fraction`", "candidates a selected one", "J", "its decrease kept", "loss", "coverage"]
    ]
    for selected in dict.fromkeys(one["selected"] for one in results["fractions"]):
        for one in (*results["fractions"], *results["chance"]):
            if one["selected"] == selected:
                part = one.get("fraction")
                many = "" if part is None else f"{max(1, part / selected):.0f}"
                rows.append(
                    [f"{selected:.1%}", "random" if part is None else f"{part:g}", many, *measured(results, one)]
                )
    return markdown(rows)


def cells_table(results: Results) -> str:
    rows = [["cells", "share by", "largest / mean cell", "J", "its decrease kept", "loss", "coverage"]]
    selected = results["cells"][0]["selected"]
    whole = next(one for one in results["fractions"] if (one["selected"], one["fraction"]) == (selected, 1.0))
    rows.append(["whole pool", "", "", *measured(results, whole)])
    for one in results["cells"]:
        rows.append([str(one["cells"]), one["share"], f"{one['largest']:.1f}", *measured(results, one)])
    return markdown(rows)


def measured(results: Results, one: Results) -> list[str]:
    cells = [f"{one[name][0]:.3f} ± {one[name][1]:.3f}" for name in ("objective", "loss", "coverage")]
    return [cells[0], percent(kept(results, one)), *cells[1:]]


def percent(part: float) -> str:
    return f"{round(100 * part)}%"


def growth_table(results: Results) -> str:
    rows = [["N", "K", "cells", "CPU s", "GFLOP", "of equal cells, by formula", "peak MiB", "by formula"]]
    for one in results["growth"]:
        mean, share = one["size"] // one["cells"], one["budget"] // one["cells"]
        flops = one["cells"] * selection_flops(mean, share, DIMENSION)
        bound = selection_bytes(one["largest"], one["share"], DIMENSION)
        cells = [f"{one['size']:,}", f"{one['budget']:,}", str(one["cells"]), f"{one['seconds']['select']:.1f}"]
        cells += [f"{number / 1e9:.1f}" for number in (one["flops"], flops)]
        rows.append([*cells, *(f"{number / 2**20:.0f}" for number in (one["peak"], bound))])
    return markdown(rows)


def extrapolated_table(results: Results) -> str:
    header = ["stage", "follows", "CPU s at the largest N", "fit's largest error"]
    rows = [[*header, *(f"{power(size)}, extrapolated" for size in PLANNED_SIZES)]]
    selected = results["growth"][0]["budget"] / results["growth"][0]["size"]
    follows = {"select in the whole pool": "its FLOPs", "select by cell": "its FLOPs", "fit cells": "C^2"}
    for stage, points in stages(results).items():
        fit = fitted(stage, points, selected)
        error = max(abs(fit(size) / seconds - 1) for size, seconds in points)
        law = follows.get(stage, "N C" if stage == "assign to cells" else "N")
        ahead = [hours(fit(size)) for size in PLANNED_SIZES]
        rows.append([stage, law, two_digits(points[-1][1]), f"{error:.0%}", *ahead])
    ahead = [hours(slope(results, "seconds") * size) for size in PLANNED_SIZES]
    last = results["trainer"][-1]["seconds"]
    return markdown([*rows, ["today's trainer, all else small", "N", two_digits(last), "two points", *ahead]])


def plan_table(results: Results) -> str:
    columns = [(size, part) for size in PLANNED_SIZES for part in PLANNED_SCORED]
    header = ["stage", "formula", *(f"{power(size)}, {part:.0%} scored" for size, part in columns)]
    width = max(one["largest"] for one in results["cells"])

    def cells(m: int, k: int) -> int:
        return fitting_cells(m, k, width)

    rows: dict[tuple[str, str], Callable[[int, int, int], str]] = {
        ("read", "M x 25 kB; 1 GB/s"): lambda n, m, k: read(m * IMAGE_BYTES),
        ("decode", "M; 200/s a core"): lambda n, m, k: hours(m / DECODING_RATE),
        ("score", "35 GFLOP x M; 100 TFLOP/s"): lambda n, m, k: hours(model_seconds(m)),
        ("store", "(2 d + 12) bytes x M"): lambda n, m, k: amount(m * STORED_BYTES),
        ("draw candidates", "a permutation, 8 bytes x N"): lambda n, m, k: amount(8 * n),
        ("select at once", "ODS's FLOPs; 10 TFLOP/s"): lambda n, m, k: hours(in_cells(m, k, 1) / SELECTING_RATE),
        ("its memory", "6 d bytes x M, and a block"): lambda n, m, k: amount(planned_bytes(m, k)),
        ("cells of at most 40 GB", f"C; the largest {width:.1f} x the mean"): lambda n, m, k: f"{cells(m, k):,}",
        ("assign to them", "2 M C d; 10 TFLOP/s"): lambda n, m, k: hours(assigning(m, cells(m, k)) / SELECTING_RATE),
        ("select by cell", "ODS's FLOPs; 10 TFLOP/s"): lambda n, m, k: hours(
            in_cells(m, k, cells(m, k)) / SELECTING_RATE
        ),
        ("load the selected", "K x 25 kB; 1 GB/s"): lambda n, m, k: read(k * IMAGE_BYTES),
        ("train once on each", "3 x 35 GFLOP x K; 100 TFLOP/s"): lambda n, m, k: hours(
            model_seconds(k, TRAINING_FACTOR)
        ),
    }
    lines = [
        [*names, *(cell(size, round(part * size), round(PLANNED_SELECTED * size)) for size, part in columns)]
        for names, cell in rows.items()
    ]
    return markdown([header, *lines])


def read(count: float) -> str:
    return f"{amount(count)}, {hours(count / READING_RATE)}"


def findings(results: Results) -> str:
    """The results in sentences."""
    lines = []
    for part in dict.fromkeys(one["selected"] for one in results["fractions"]):
        ours = {one["fraction"]: one for one in results["fractions"] if one["selected"] == part}
        chance = next(one for one in results["chance"] if one["selected"] == part)
        parts = (f"{percent(kept(results, ours[one]))} from {one / part:.0f}" for one in (0.25, 0.1, 0.05, 0.02))
        coverage, loss = (
            [f"{one[name][0]:.3f}" for one in (ours[1.0], ours[0.02], chance)] for name in ("coverage", "loss")
        )
        lines.append(
            f"- {part:.1%} selected: {', '.join(parts)} candidates for each selected sample, in parts of what "
            f"selecting in the whole pool takes off J. Coverage is {coverage[0]} by the whole pool, "
            f"{coverage[1]} by a fiftieth, {coverage[2]} at random; "
            f"the selected samples' mean loss over the pool's {loss[0]}, {loss[1]} and {loss[2]}."
        )
    by_size = [one for one in results["cells"] if one["share"] == "size"]
    counts, left, covered = (
        ", ".join(each)
        for each in zip(
            *((str(one["cells"]), percent(kept(results, one)), f"{one['coverage'][0]:.3f}") for one in by_size),
            strict=True,
        )
    )
    lines.append(
        f"- {by_size[0]['selected']:.1%} selected from {counts} cells, for shares by their sizes: {left} of it; "
        f"coverage {covered}."
    )
    lines.append(
        f'- Today\'s trainer with `rescore="sampled"` takes {slope(results, "peak"):.0f} bytes and '
        f"{slope(results, 'seconds') * 1e6:.1f} µs of a core for each sample of the pool, in a run of two loops."
    )
    return "\n".join(lines)


TABLES: dict[str, Callable[[Results], str]] = {
    "findings": findings,
    "plan": plan_table,
    "extrapolated": extrapolated_table,
}
# Of a page of their own.
FURTHER: dict[str, Callable[[Results], str]] = {
    "Candidates: a random part of the pool": fractions_table,
    "Selecting by cell": cells_table,
    "Time and memory of selecting": growth_table,
}


def sections(named: Mapping[str, Callable[[Results], str]], results: Results) -> str:
    """Tables under their headings."""
    return "\n".join(f"## {name}\n\n{table(results).strip()}\n" for name, table in named.items())


def tables(results: Results) -> str:
    """Every table."""
    return sections({name.capitalize(): table for name, table in TABLES.items()} | FURTHER, results)


def further(results: Results) -> str:
    """The page of tables that are too long for the page."""
    return "<!-- Written by `python recipes/benchmarks/large_pools_page.py`. -->\n\n" + sections(FURTHER, results)


def power(size: int) -> str:
    return f"10^{round(math.log10(size))}"


def hours(seconds: float) -> str:
    """As people say it: 30 s, 2 min, 1.5 h, 12 days."""
    for unit, length in (("years", 365 * 86400.0), ("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{two_digits(seconds / length)} {unit}"
    return f"{two_digits(seconds)} s"


def amount(count: float) -> str:
    """Bytes, in powers of 1,000."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{two_digits(count / length)} {unit}"
    return f"{two_digits(count / 1e3)} kB"


def two_digits(number: float) -> str:
    if number <= 0:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(number)))
    return f"{round(number, 1 - math.floor(math.log10(number))):,.{min(digits, 3)}f}"


# --- Figure and page ---


def figure(results: Results) -> Figure:
    """Quality against candidates for each selected sample, quality by cell, and memory."""
    made = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = made.subplots(1, 3)
    for part, colour, mark in zip(dict.fromkeys(one["selected"] for one in results["fractions"]), *STYLES, strict=True):
        ours = [one for one in results["fractions"] if one["selected"] == part]
        quality_line(
            left, results, ours, [one["fraction"] / part for one in ours], f"{part:.1%} selected", colour, mark
        )
    left.set(xscale="log", xlabel="candidates for each selected sample")
    for share, colour, mark in zip(("size", "loss"), *STYLES, strict=True):
        ours = [one for one in results["cells"] if one["share"] == share]
        quality_line(middle, results, ours, [one["cells"] for one in ours], f"shares by {share}", colour, mark)
    middle.set(xscale="log", xlabel="cells")
    middle.set_xticks([one["cells"] for one in ours], [str(one["cells"]) for one in ours])
    middle.set_xticks([], minor=True)
    for axes in (left, middle):
        axes.axhline(100, color="#555555", linestyle="--", linewidth=1, label="whole pool")
        axes.set(ylabel="of the whole pool's decrease in J, %", ylim=(-5, 120))
    for (label, of), colour, mark in zip((("whole pool", True), ("cell by cell", False)), *STYLES, strict=True):
        ours = [one for one in results["growth"] if (one["cells"] == 1) == of]
        bound = [selection_bytes(one["largest"], one["share"], DIMENSION) / 2**20 for one in ours]
        sizes = [one["size"] for one in ours]
        right.plot(sizes, [one["peak"] / 2**20 for one in ours], mark, color=colour, label=label)
        right.plot(sizes, bound, color=colour, linewidth=1)
    right.plot([], [], color="#555555", linewidth=1, label="by formula")
    right.set(xscale="log", yscale="log", xlabel="samples of the pool", ylabel="peak memory of selecting, MiB")
    right.set_ylim(top=4 * right.get_ylim()[1])
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    left.legend(frameon=False, fontsize="small", loc="lower right")
    middle.legend(frameon=False, fontsize="small", loc="lower left")
    right.legend(frameon=False, fontsize="small", loc="upper left")
    return made


def quality_line(
    axes: Axes, results: Results, ours: Sequence[Results], across: Sequence[float], label: str, colour: str, mark: str
) -> None:
    """What is kept of J's decrease, with standard errors."""
    up = [100 * kept(results, one) for one in ours]
    error = [100 * kept_error(results, one) for one in ours]
    axes.errorbar(across, up, error, marker=mark, markersize=5, capsize=2, color=colour, label=label)


def page(text: str, results: Results) -> str:
    """The page with every table as the results have it."""
    return with_tables(text, MARK, lambda name: TABLES[name](results))


def write_document(results: Results) -> None:
    """Keep the results, and write the figure and all tables anew."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (FOLDER / "tables.md").write_text(further(results))
    figure(results).savefig(FOLDER / "large_pools.png", dpi=110)
    PAGE.write_text(page(PAGE.read_text(), results))


def command() -> None:
    Parser(description=__doc__).parse_args()
    write_document(json.loads((FOLDER / "results.json").read_text()))


if __name__ == "__main__":
    sys.exit(run_in_terminal(Path(sys.argv[0]).name, command))
