"""The page of a run, from what its folder holds, and its summary in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from vecaf_hf.cost import KINDS
from vecaf_hf.reporting import plots, run_figures, where_it_fails
from vecaf_hf.reporting.page import Page, Picture, Section, Table, links, work_table, write_page
from vecaf_hf.reporting.run import FinishedRun, covered, overlaps
from vecaf_hf.reporting.summary import class_table, cost_table, loop_rows, table

# The augmentation's figures in a loop's record, and what they are.
CEA_FIGURES = {
    "cea_alpha_max": "largest alpha",
    "cea_relative_shift": "mean shift",
    "cea_missing_captions": "missing captions",
    "cea_truncated_captions": "truncated captions",
}


def write_run_page(run: FinishedRun, folder: Path) -> list[Path]:
    """Write the page and its pictures; returns their paths, the page first."""
    return write_page(page_of(run), folder)


def page_of(run: FinishedRun) -> Page:
    """Its sections; one whose data the folder lacks says so."""
    sections = [_selection(run), _curves(run), _failing(run), _cost(run), _augmentation(run), _strategy(run)]
    return Page(f"A run: {run.folder.resolve().name}", lead(run), [section for section in sections if section])


def lead(run: FinishedRun) -> list[str]:
    """What was run, where it was read and what is missing."""
    selected = run.records[-1].selected if run.records else 0
    plan = (
        f"Strategy {run.strategy}, {len(run.records)} loops, {selected:,} samples in the last one of a pool of "
        f"{run.pool_size:,}; {run.step:,} of {run.total_steps:,} optimizer steps."
    )
    # No path of this machine: a page may be shown to others.
    place = "its own folder" if run.source == run.folder else run.source.name
    return [plan, f"Read from {place}.", *run.missing]


# --- Sections ---


def _selection(run: FinishedRun) -> Section | None:
    if not run.records:
        return None
    ever = covered(run.selections)
    shares = overlaps(run.selections)
    again = [shares[loop][loop - 1] for loop in range(1, len(shares))]
    texts = [
        f"{ever[-1]:,} different samples were selected, {100 * ever[-1] / max(1, run.pool_size):.3g} % of the pool."
    ]
    if again:
        texts.append(f"Of a selection, {100 * sum(again) / len(again):.1f} % had been in the one before, in the mean.")
    rows = loop_rows(run.records, run.history)
    return Section(
        "Selection over the loops",
        texts=texts,
        tables=[Table(rows[0], rows[1:])],
        pictures=[
            Picture("selection", plots.selection(run.records, run.class_names), "Selected samples by class and loop"),
            Picture("overlap", run_figures.overlap(shares, ever, run.pool_size), "Overlap of the loops' selections"),
        ],
        notes=["The pool's loss is that of the candidates, as the selection saw them; - where nothing was scored."],
    )


def _curves(run: FinishedRun) -> Section | None:
    if not run.history:
        return None
    picture = Picture("curves", plots.curves(run.records, run.history), "Loss and accuracy over optimizer steps")
    return Section("Loss and accuracy", pictures=[picture])


def _failing(run: FinishedRun) -> Section | None:
    return None if run.failing is None else where_it_fails.section(run.failing)


def _cost(run: FinishedRun) -> Section:
    pictures = []
    if any(work["flops"] or work["seconds"] for work in run.work.values()):
        pictures = [Picture("cost", plots.cost(run.work), "Seconds and FLOPs by kind of work")]
    notes = [f"{kind}: {text}." for kind, text in KINDS.items()]
    return Section("Cost by kind of work", tables=[work_table(run.work)], pictures=pictures, notes=notes)


def _augmentation(run: FinishedRun) -> Section:
    title = "What CEA did"
    if not run.has_cea:
        return Section(title, texts=["The run had no CEA."])
    if not any(name in record.info for record in run.records for name in CEA_FIGURES):
        return Section(title, texts=["No loop has figures of it."])
    rows = [[str(record.loop), *(_figure(record.info.get(name)) for name in CEA_FIGURES)] for record in run.records]
    picture = Picture(
        "augmentation", run_figures.augmentation(run.records, run.attention), "Attention and shift of CEA by loop"
    )
    notes = [
        "Alpha is the strength of the pull towards a caption (Eq. 8); the shift is the mean norm of what training adds "
        "to a selected sample's embedding, as a part of the embedding's norm."
    ]
    return Section(title, tables=[Table(["loop", *CEA_FIGURES.values()], rows)], pictures=[picture], notes=notes)


def _strategy(run: FinishedRun) -> Section | None:
    names = sorted({name for record in run.records for name in record.info} - CEA_FIGURES.keys())
    if not names:
        return None
    rows = [[str(record.loop), *(_figure(record.info.get(name)) for name in names)] for record in run.records]
    return Section("The strategy's own figures", tables=[Table(["loop", *names], rows)])


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


# --- A terminal ---


def summary_of(run: FinishedRun, paths: Sequence[Path]) -> str:
    """The same in short."""
    sections: Iterable[tuple[str, str]] = [
        ("Run", "\n".join(f"  {text}" for text in lead(run))),
        ("Selection by loop", table(loop_rows(run.records, run.history))),
        ("Selected samples by class", class_table(run.records, run.class_names)),
        ("Cost", cost_table(run.work)),
        ("Files", links(paths)),
    ]
    return "\n".join(f"\n{title}\n{text}" for title, text in sections)
