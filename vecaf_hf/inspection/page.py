"""The page of an inspection."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from vecaf_hf.inspection import figures
from vecaf_hf.inspection.extremes import CENTROID
from vecaf_hf.inspection.inspection import Inspection
from vecaf_hf.inspection.out_of_fold import BOUNDARY, CONFIDENT, FOLDS, LISTED_LABELS
from vecaf_hf.inspection.words import (
    budget_rows,
    budget_sentence,
    class_name,
    class_rows,
    duplicates_sentence,
    labels_sentence,
    lead,
    suspicious_rows,
)
from vecaf_hf.reporting.contact_sheet import Tile, contact_sheet
from vecaf_hf.reporting.images import ImageOf
from vecaf_hf.reporting.page import Page, Picture, Section, Table, work_table, write_page

JSON_FILE = "inspection.json"
# Rows of the table of classes; more are in the JSON file.
LISTED_CLASSES = 40


def write_inspection(inspection: Inspection, image_of: ImageOf, folder: Path) -> list[Path]:
    """Write the page, its pictures and the figures as JSON; returns their paths, the page first."""
    paths = write_page(page_of(inspection, image_of), folder)
    path = folder / JSON_FILE
    path.write_text(json.dumps(inspection.to_json()), encoding="utf-8")
    return [*paths, path]


def page_of(inspection: Inspection, image_of: ImageOf) -> Page:
    """Its sections; what there is nothing to say of is left out."""
    sections = [
        _budget(inspection),
        _classes(inspection),
        _losses(inspection),
        _extremes(inspection, image_of),
        _map(inspection),
        _duplicates(inspection, image_of),
        _labels(inspection, image_of),
    ]
    return Page(f"Before training: {inspection.strategy}", lead(inspection), [one for one in sections if one])


# --- Sections ---


def _budget(inspection: Inspection) -> Section:
    cost = inspection.cost
    return Section(
        "What it will cost",
        texts=[budget_sentence(inspection)],
        tables=[
            Table(*budget_rows(inspection), emphasised=frozenset({len(cost.loops), len(cost.loops) + 1})),
            work_table({kind: asdict(work) for kind, work in cost.total.items()}),
        ],
        pictures=[Picture("budget", figures.budget(cost), "FLOPs and seconds by kind of work and loop")],
        notes=[
            "FLOPs per sample are measured on this model; seconds are an estimate from a few timed batches on this "
            "machine, loading included. A pass of training counts as three forward passes.",
            *cost.notes,
        ],
    )


def _classes(inspection: Inspection) -> Section | None:
    shares = inspection.classes
    if not shares:
        return None
    header, rows = class_rows(inspection)
    more = f"; {len(shares) - LISTED_CLASSES} more are in {JSON_FILE}" if len(shares) > LISTED_CLASSES else ""
    absent = sum(one.selected == 0 for one in shares)
    text = (
        f"{absent} of {len(shares)} classes have no selected sample" if absent else "Every class has selected samples"
    )
    return Section(
        "Classes: selected against pool",
        texts=[f"{text}{more}."],
        tables=[Table(header, rows[:LISTED_CLASSES])],
        pictures=[Picture("classes", figures.classes(shares), "Part of each class in pool and selection")],
    )


def _losses(inspection: Inspection) -> Section | None:
    found = {"Under the model as it is": inspection.losses, "Out of fold": inspection.fold_losses}
    shown = {title: one for title, one in found.items() if one is not None}
    if not shown:
        return None
    texts = [
        f"{title}: mean loss {one.selected_mean:.3f} of the selected, {one.pool_mean:.3f} of the pool."
        for title, one in shown.items()
    ]
    return Section(
        "Losses: selected against pool",
        texts=texts,
        pictures=[Picture("losses", figures.losses(shown), "Histograms of losses of pool and selection")],
        notes=[
            "A head that is still fresh gives all samples much the same loss. Out of fold: the loss under a logistic "
            f"regression on the embeddings, fitted on the other {FOLDS - 1} of {FOLDS} parts of the samples."
        ],
    )


def _extremes(inspection: Inspection, image_of: ImageOf) -> Section | None:
    found = inspection.extremes
    if not found.nearest:
        return None
    how = f"By the cosine similarity of the selected samples' embeddings to {found.reference}"
    how += "." if found.reference == CENTROID else ": the strategy has no centroids."

    def tiles(samples: Iterable[tuple[int, float]]) -> list[Tile]:
        return [
            Tile(image_of(index), [f"#{index}  {similarity:.3f}", *_described(inspection, index)])
            for index, similarity in samples
        ]

    sheet = contact_sheet(
        [
            (f"Nearest to {found.reference}", tiles(found.nearest)),
            (f"Farthest from {found.reference}", tiles(found.farthest)),
        ]
    )
    return Section(
        "Selected samples, typical and not",
        texts=[how],
        pictures=[Picture("samples", sheet, f"Selected images nearest to and farthest from {found.reference}")],
    )


def _map(inspection: Inspection) -> Section:
    found = inspection.map
    texts = []
    if found.boundary_shares:
        names = {"candidates": "all candidates", "selected": "the selected", "activeft": "ActiveFT's selection"}
        listed = ", ".join(f"{100 * part:.1f} % of {names[name]}" for name, part in found.boundary_shares.items())
        texts.append(f"On a class boundary: {listed}.")
    notes = [
        f"On a boundary are the {100 * BOUNDARY:.0f} % of samples whose two likeliest classes, out of fold, are "
        "nearest to each other."
        if found.boundary_shares
        else "Boundaries are not known: that takes two classes with a few samples each."
    ]
    if len(found.indices) < inspection.looked_at:
        notes.append("Of the candidates that no strategy selected, the map shows an even part.")
    if inspection.strategy != "activeft" and any(found.chosen):
        notes.append("ActiveFT has selected as many from the same candidates, to compare with.")
    picture = figures.embedding_map(found, inspection.strategy)
    return Section(
        "Where the selection lies",
        texts=texts,
        pictures=[Picture("map", picture, "Selected candidates among the others in the embedding space")],
        notes=notes,
    )


def _duplicates(inspection: Inspection, image_of: ImageOf) -> Section:
    found = inspection.duplicates
    tiles = [
        Tile(
            image_of(index),
            [f"#{index}  {similarity:.3f}" if place == 0 else f"#{index}", *_described(inspection, index)],
        )
        for first, second, similarity in found.most_similar
        for place, index in enumerate((first, second))
    ]
    heading = "The most similar pairs, each side by side; at the left the pair's similarity"
    pictures = []
    if tiles:
        pictures = [Picture("duplicates", contact_sheet([(heading, tiles)]), "Pairs of nearly the same images")]
    return Section(
        "Near duplicates in the selection",
        texts=[duplicates_sentence(inspection)],
        pictures=pictures,
        notes=[
            f"Pairs with a cosine similarity of at least {found.threshold:g} after the mean embedding is taken off, "
            "which all share."
        ],
    )


def _labels(inspection: Inspection, image_of: ImageOf) -> Section:
    shown = inspection.suspicious[:LISTED_LABELS]
    tiles = [
        Tile(
            image_of(one.index),
            [
                f"#{one.index}",
                f"label: {class_name(inspection, one.label)}",
                f"like: {class_name(inspection, one.other)}",
            ],
        )
        for one in shown
    ]
    pictures = []
    if tiles:
        sheet = contact_sheet([("The largest losses first", tiles)])
        pictures = [Picture("labels", sheet, "Images whose label looks wrong")]
    header, rows = suspicious_rows(inspection, shown)
    return Section(
        "Suspicious labels",
        texts=[labels_sentence(inspection)],
        tables=[Table(header, rows, words=frozenset({1, 2}))] if shown else [],
        pictures=pictures,
        notes=[
            f"A label is suspicious where a logistic regression on the embeddings, fitted on the other {FOLDS - 1} of "
            f"{FOLDS} parts of the samples, gives another class at least {100 * CONFIDENT:.0f} %: the model's own head "
            "is fresh before training, and its confidence says nothing."
        ],
    )


def _described(inspection: Inspection, index: int) -> list[str]:
    sample = inspection.samples.get(index)
    if sample is None:
        return []
    return [text for text in (sample.class_name, sample.caption) if text]
