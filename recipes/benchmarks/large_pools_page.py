"""The tables of docs/large_pools.md: `streamed_pools.py` measures, `large_pools_plan.py` has the formulas.

    python recipes/benchmarks/large_pools_page.py

writes them anew from docs/large_pools/results.json.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from comparison import markdown
from generated import with_tables
from large_pools_plan import (
    CLASSES,
    DECODING_RATE,
    EMBEDDING,
    IMAGE_BYTES,
    READING_RATE,
    SELECTING_RATE,
    by_class,
    model_seconds,
)

from vecaf_hf.cost import TRAINING_FACTOR

DOCS = Path(__file__).parents[2] / "docs"
PAGE, RESULTS = DOCS / "large_pools.md", DOCS / "large_pools" / "results.json"
MARK = "large_pools"
PLANNED_SIZES, PLANNED_SELECTED, PLANNED_SCORED = (10**8, 10**9), 0.001, (1.0, 0.02)

Results = Mapping[str, Any]


def streamed_table(results: Results) -> str:
    rows = [["N", "scored", "samples", "s scoring", "µs a sample", "s selecting", "peak GiB"]]
    for one in results["streamed"]:
        each = 1e6 * one["scoring"] / one["scored"]
        cells = [f"{one['samples']:,}", f"{one['fraction']:.1%}", f"{one['scored']:,.0f}", f"{one['scoring']:.1f}"]
        rows.append([*cells, f"{each:.0f}", f"{one['selecting']:.1f}", f"{one['memory']:.2f}"])
    return markdown(rows)


def checked_table(results: Results) -> str:
    """The formulas beside what was measured at the largest N."""
    largest = max(one["samples"] for one in results["streamed"])
    runs = [one for one in results["streamed"] if one["samples"] == largest]
    last, dimension = runs[-1], results["dimension"]
    counted = by_class(round(last["scored"]), results["selected"], dimension, results["classes"])
    rows = [["", "formula", "measured"]]
    rows.append(["selecting", f"{counted / 1e9:.1f} GFLOP", f"{last['select_flops'] / 1e9:.1f} GFLOP"])
    held = slope([one["scored"] for one in runs], [one["memory"] * 2**30 for one in runs])
    rows.append(["memory for a scored sample", f"4 d = {4 * dimension} bytes, and copies", f"{held:.0f} bytes"])
    return markdown([*rows, ["memory for a sample of the pool", "", f"{per_sample(results):.0f} bytes"]])


def per_sample(results: Results) -> float:
    """Bytes of memory for each sample of the pool, scored or not: by the runs that score as many of two pools."""
    alike = results["bookkeeping"]
    return slope([one["samples"] for one in alike], [one["memory"] * 2**30 for one in alike])


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    return float(np.polyfit(sizes, values, 1)[0])


def plan_table(results: Results) -> str:
    columns = [(size, part) for size in PLANNED_SIZES for part in PLANNED_SCORED]
    header = ["stage", "formula", *(f"{power(size)}, {part:.0%} scored" for size, part in columns)]
    each = per_sample(results)
    rows: dict[tuple[str, str], Callable[[int, int, int], str]] = {
        ("read", "M x 25 kB; 1 GB/s"): lambda n, m, k: read(m * IMAGE_BYTES),
        ("decode", "M; 200/s a core"): lambda n, m, k: hours(m / DECODING_RATE),
        ("score", "35 GFLOP x M; 100 TFLOP/s"): lambda n, m, k: hours(model_seconds(m)),
        ("embeddings, in all processes together", "4 d bytes x M"): lambda n, m, k: amount(4 * EMBEDDING * m),
        ("select by class", "ODS's FLOPs; 10 TFLOP/s"): lambda n, m, k: hours(
            by_class(m, k, EMBEDDING, CLASSES) / SELECTING_RATE
        ),
        ("positions, in every process", f"{each:.0f} bytes x N, measured"): lambda n, m, k: amount(each * n),
        ("on disk while scored", "M x 25 kB"): lambda n, m, k: amount(m * IMAGE_BYTES),
        ("on disk while trained on", "K x 25 kB"): lambda n, m, k: amount(k * IMAGE_BYTES),
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


TABLES: dict[str, Callable[[Results], str]] = {
    "streamed": streamed_table,
    "checked": checked_table,
    "plan": plan_table,
}


def page(text: str, results: Results) -> str:
    return with_tables(text, MARK, lambda name: TABLES[name](results))


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(), json.loads(RESULTS.read_text())))
