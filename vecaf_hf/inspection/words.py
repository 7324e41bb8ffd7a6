"""An inspection in words and rows: what its page and its summary in a terminal say alike, and that summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from vecaf_hf.cost import KINDS, Work
from vecaf_hf.inspection.budget import extra_share, summed
from vecaf_hf.inspection.inspection import Inspection
from vecaf_hf.inspection.out_of_fold import SuspiciousLabel
from vecaf_hf.inspection.shares import class_parts
from vecaf_hf.reporting.page import links
from vecaf_hf.reporting.summary import NAMED_CLASSES, table


def lead(inspection: Inspection) -> list[str]:
    """What was looked at."""
    one = inspection
    plan = (
        f"{one.num_loops} loops, each on {one.budget:,} samples of a pool of {one.pool_size:,} "
        f"({100 * one.budget / one.pool_size:.3g} %). Nothing was trained."
    )
    if one.is_part:
        how = (
            f"The selection below was made from {one.selected_from:,} random candidates with a budget in proportion, "
            f"{len(one.selected):,}: it is like the run's first one, not the same."
        )
    elif one.scores:
        how = f"The selection below is the run's first one, from {one.selected_from:,} candidates that were scored."
    else:
        how = (
            f"The first loop's selection needs no scores. For looking, {one.looked_at:,} samples were scored here, a "
            "random part of the pool and some of the selected; the budget does not have this work."
        )
    return [plan, how]


def budget_sentence(inspection: Inspection) -> str:
    """The selection's share, and what else it would buy."""
    cost = inspection.cost
    trained = cost.total["train"]
    text = (
        f"The selection takes {100 * cost.share('flops'):.1f} % of the run's FLOPs and an estimated "
        f"{100 * cost.share('seconds'):.1f} % of its time: {cost.forwards:,} forward passes beside the "
        f"{trained.samples:,} samples trained."
    )
    extra = summed(cost.total.values()).seconds - summed(cost.plain.values()).seconds
    if extra > 0 and trained.seconds > 0:
        text += f" Plain finetuning could train {100 * extra / trained.seconds:.0f} % more batches in the same time."
    return text


def budget_rows(inspection: Inspection) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each loop, all loops, and plain finetuning."""
    cost = inspection.cost
    header = ["", "scored", "trained", "evaluated", "TFLOPs", "for selection", "seconds", "for selection"]

    def row(name: str, work: Mapping[str, Work]) -> list[str]:
        found = {kind: work.get(kind, Work()) for kind in KINDS}
        everything = summed(found.values())
        return [
            name,
            *(f"{found[kind].samples:,}" for kind in ("score", "train", "evaluate")),
            _amount(everything.flops / 1e12),
            f"{100 * extra_share(found, 'flops'):.1f} %",
            _amount(everything.seconds),
            f"{100 * extra_share(found, 'seconds'):.1f} %",
        ]

    rows = [row(f"loop {number}", loop) for number, loop in enumerate(cost.loops)]
    return header, [*rows, row("all loops", cost.total), row("plain finetuning", cost.plain)]


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def class_rows(inspection: Inspection) -> tuple[list[str], list[list[str]]]:
    """Header and rows, one a class."""
    shares = inspection.classes
    rows = [
        [
            one.name,
            f"{one.pool:,}",
            f"{100 * pool:.1f} %",
            f"{one.selected:,}",
            f"{100 * selected:.1f} %",
        ]
        for one, (pool, selected) in zip(shares, class_parts(shares), strict=True)
    ]
    return ["class", "pool", "part", "selected", "part"], rows


def duplicates_sentence(inspection: Inspection) -> str:
    """How many there are, beside chance."""
    found = inspection.duplicates
    text = f"{found.samples:,} of {found.looked_at:,} selected samples have a near duplicate among them"
    if found.samples_at_random is not None:
        text += f"; of as many random samples of the pool, {found.samples_at_random:,}"
    return f"{text}."


def labels_sentence(inspection: Inspection) -> str:
    """How many there are."""
    if not inspection.checked_labels:
        return "Not looked for: that takes two classes with a few samples each."
    chosen = sum(one.selected for one in inspection.suspicious)
    return (
        f"{len(inspection.suspicious):,} of {inspection.checked_labels:,} labels look wrong, {chosen:,} of them of "
        "selected samples."
    )


def suspicious_rows(inspection: Inspection, shown: Iterable[SuspiciousLabel]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, one a sample."""
    rows = [
        [
            f"#{one.index}",
            class_name(inspection, one.label),
            class_name(inspection, one.other),
            f"{one.confidence:.3f}",
            f"{one.loss:.2f}",
            "yes" if one.selected else "no",
        ]
        for one in shown
    ]
    return ["sample", "label", "looks like", "confidence", "loss", "selected"], rows


def class_name(inspection: Inspection, label: int) -> str:
    """Of a label, or its number where the model has no name for it."""
    names = inspection.class_names
    return names[label] if label < len(names) else str(label)


def summary_of(inspection: Inspection, paths: Iterable[Path] = ()) -> str:
    """The same in short."""
    header, rows = budget_rows(inspection)
    sections = [
        ("Before training", "\n".join(f"  {text}" for text in lead(inspection))),
        ("Cost", f"{table([header, *rows])}\n  {budget_sentence(inspection)}"),
    ]
    if inspection.classes:
        header, rows = class_rows(inspection)
        more = [f"  and {len(rows) - NAMED_CLASSES} more classes"] if len(rows) > NAMED_CLASSES else []
        sections.append(("Classes", "\n".join([table([header, *rows[:NAMED_CLASSES]]), *more])))
    sections += [
        ("Near duplicates", f"  {duplicates_sentence(inspection)}"),
        ("Suspicious labels", f"  {labels_sentence(inspection)}"),
    ]
    if inspection.suspicious:
        header, rows = suspicious_rows(inspection, inspection.suspicious[:5])
        sections[-1] = (sections[-1][0], f"{sections[-1][1]}\n{table([header, *rows])}")
    if paths := list(paths):
        sections.append(("Files", links(paths)))
    return "\n".join(f"\n{title}\n{text}" for title, text in sections)
