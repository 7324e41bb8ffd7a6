"""A run in a terminal: its loops, its result, what it cost, and where its files are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vecaf_hf.cost import KINDS, Work
from vecaf_hf.loop.record import LoopRecord
from vecaf_hf.printable import printable
from vecaf_hf.reporting.report import RunReport

# Classes named one by one in the loops' table; more are counted.
NAMED_CLASSES = 12
# Of a selection, beside its losses (`vecaf_hf.selection.figures`, `View.occupied`).
FIGURES = ("following", "coverage", "occupied")
# Characters of a cell.
WIDEST_CELL = 40


def summarise(report: RunReport, metrics: Mapping[str, float], plots: Iterable[Path]) -> str:
    """The text that a recipe ends with."""
    folder = Path(str(report.args.output_dir))
    history = report.history
    results = [[name, f"{value:.4f}"] for name, value in metrics.items() if name.endswith(("loss", "accuracy"))]
    files = [("checkpoint", folder), ("log", folder / "trainer_state.json"), *(("plot", plot) for plot in plots)]
    sections = [
        ("Selection by loop", loop_table(report.records, history)),
        ("Selected samples by class", class_table(report.records, report.class_names)),
        ("Cost", cost_table(report.work)),
        ("Result", table(results) if results else "  no test split"),
        ("Files", "\n".join(f"  {name.ljust(10)}  {printable(path)}" for name, path in files)),
    ]
    return "\n".join(f"\n{title}\n{text}" for title, text in sections)


def loop_table(records: Sequence[LoopRecord], history: Sequence[Mapping[str, Any]]) -> str:
    """`loop_rows` in columns."""
    return table(loop_rows(records, history))


def loop_rows(records: Sequence[LoopRecord], history: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A header, and one row a loop: what was selected, and how training and evaluation went until the next one.

    The pool's loss is its candidates', as the selection saw them: see `LoopRecord`. Of FIGURES those that a loop has.
    """
    figures = [name for name in FIGURES if any(name in record.info for record in records)]
    rows = [["loop", "steps", "selected", "new", "pool loss", "selected loss", *figures, "train loss", "eval accuracy"]]
    ends: list[int | None] = [*(record.step for record in records[1:]), None]
    for record, until in zip(records, ends[: len(records)], strict=True):
        logs = [log for log in history if record.step < log["step"] <= (until or log["step"])]
        losses = [log["loss"] for log in logs if "loss" in log]
        accuracies = [log["eval_accuracy"] for log in logs if "eval_accuracy" in log]
        last = max((log["step"] for log in logs), default=record.step)
        rows.append(
            [
                str(record.loop),
                f"{record.step}-{last}",
                str(record.selected),
                str(record.new),
                _number(record.pool_loss),
                _number(record.selected_loss),
                *(_number(record.info.get(name)) for name in figures),
                _number(sum(losses) / len(losses) if losses else None),
                _number(accuracies[-1] if accuracies else None),
            ]
        )
    return rows


def class_table(records: Sequence[LoopRecord], names: Sequence[str]) -> str:
    """`class_rows` as a table."""
    rows = class_rows(records, names)
    return table(rows) if rows else "no labels"


def class_rows(records: Sequence[LoopRecord], names: Sequence[str]) -> list[list[str]]:
    """Selected samples of each class, one column a loop; of many classes only how many are covered; none without
    labels."""
    classes = sorted({label for record in records for label in record.class_counts})
    if not classes:
        return []
    if len(classes) > NAMED_CLASSES:
        return [["loop", "classes", "fewest", "most"]] + [
            [
                str(r.loop),
                str(len(r.class_counts)),
                str(min(r.class_counts.values(), default=0)),
                str(max(r.class_counts.values(), default=0)),
            ]
            for r in records
        ]
    rows = [["class", *(f"loop {record.loop}" for record in records)]]
    for label in classes:
        name = names[label] if label < len(names) else str(label)
        rows.append([name, *(str(record.class_counts.get(label, 0)) for record in records)])
    return rows


def cost_table(work: Mapping[str, Mapping[str, float]]) -> str:
    """`cost_rows` as a table."""
    return table(cost_rows(work))


def cost_rows(work: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """One row a kind of work, and their sum."""
    rows = [["work", "samples", "TFLOPs", "seconds"]]
    total = Work()
    for kind in KINDS:
        entry = Work(**work[kind])  # type: ignore[arg-type]
        rows.append([kind, f"{entry.samples:,}", f"{entry.flops / 1e12:.3f}", f"{entry.seconds:.1f}"])
        total.flops += entry.flops
        total.seconds += entry.seconds
    return [*rows, ["all", "", f"{total.flops / 1e12:.3f}", f"{total.seconds:.1f}"]]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell, the first to the left, numbers to the right; a row is a line whatever is in
    its cells."""
    rows = [[printable(cell, WIDEST_CELL) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
