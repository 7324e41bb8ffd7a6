"""Where a model fails: the conditions that were found, on a run's page and in its card."""

from __future__ import annotations

from collections.abc import Sequence

from vecaf_hf.conditions.condition import Condition
from vecaf_hf.conditions.stored import FOLDER, MAP_FILE, Failing
from vecaf_hf.printable import listed
from vecaf_hf.reporting.contact_sheet import Tile, contact_sheet
from vecaf_hf.reporting.page import Picture, Section, Table

# Conditions that a page shows.
SHOWN = 8
TITLE = "Where it fails"
NONE_FOUND = (
    "No condition was found: no group of samples that lies together in the embedding space fails far more than its "
    "classes."
)


def rows(conditions: Sequence[Condition]) -> list[list[str]]:
    """A header, and one row a condition."""
    loops = max((len(one.by_loop) for one in conditions), default=0)
    header = ["condition", "samples", "accuracy", "of its classes", *(f"loop {loop}" for loop in range(loops))]
    return [header, *([_title(one), f"{len(one.members):,}", *_accuracies(one)] for one in conditions)]


def _title(condition: Condition) -> str:
    return f"{condition.title}: {listed(condition.classes, 3)}"


def _accuracies(condition: Condition) -> list[str]:
    values = (condition.accuracy, condition.class_accuracy, *condition.by_loop)
    return ["-" if value is None else f"{100 * value:.0f} %" for value in values]


def section(failing: Failing) -> Section:
    """Of a run's page."""
    conditions = failing.conditions[:SHOWN]
    if not conditions:
        return Section(TITLE, texts=[NONE_FOUND])
    header, *cells = rows(conditions)
    groups = [
        (_heading(one), [Tile(image, [f"#{index}"]) for index, image in zip(one.members, images, strict=False)])
        for one, images in zip(conditions, failing.images, strict=False)
    ]
    texts = [
        f'{one.title} by {one.named_by} ({one.name_score:.1f}): "{one.captions[0]}"'
        for one in conditions
        if one.captions and one.name
    ]
    return Section(
        TITLE,
        texts=[
            f"Groups of samples that fail far more than their classes: {len(failing.conditions)}. {FOLDER}/{MAP_FILE} "
            "shows where they lie.",
            *texts,
        ],
        tables=[Table(header, cells)],
        pictures=[Picture("conditions", contact_sheet(groups), "Images of each condition, those that failed first")],
        notes=[
            "A group lies together in the embedding space, and at least half of the resamples find it. Its accuracy is "
            "that of the model on its members, beside that on all samples of their classes. A loop's is what the model "
            "said when the loop began, of the members that were scored then.",
        ],
    )


def _heading(condition: Condition) -> str:
    accuracy, of_classes = (f"{100 * value:.0f} %" for value in (condition.accuracy, condition.class_accuracy))
    return f"{condition.title}, {len(condition.members)} samples: {accuracy} right, {of_classes} of their classes"
