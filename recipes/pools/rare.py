"""A few images of a pool under conditions that its other images are not under, and what selections hold of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from torch import Tensor

from pools.conditions import CONDITIONS, under_condition
from vecaf_hf.data.columns import check_column, read_column
from vecaf_hf.seeding import seed_of

# The column of captions; and those that pools add, which tell a sample's condition, or nothing.
CAPTION, DOMAIN, CONDITION = "caption", "domain", "condition"
# Part of the pool that each condition gets, and the corruptions' severity.
PART, SEVERITY = 0.01, 3


def with_rare(
    dataset: datasets.Dataset,
    image: str,
    column: str,
    conditions: Sequence[str],
    generator: np.random.Generator,
    *,
    part: float = PART,
    severity: int = SEVERITY,
    phrases: Mapping[str, str] | None = None,
) -> datasets.Dataset:
    """The dataset with some images, drawn at random, under each condition; a column that is added tells which. All
    others stay as they are.

    Args:
        dataset: With a column of images.
        image: That column.
        column: What is added: the condition's name, or nothing.
        conditions: Of `pools.conditions.CONDITIONS`.
        generator: Draws the samples, and what a condition draws.
        part: Of the dataset, each condition's; one image at least.
        severity: Of corruptions, 1 to 5.
        phrases: Condition -> what is added to the captions of its images; None leaves captions as they are. A sample
            without a caption gets none.

    Raises:
        ValueError: The dataset has the column already or is too small, an image of those cannot be read, or there are
            phrases and no column `caption`.
        ImportError: A condition needs a package that is not there.
    """
    if phrases is not None:
        check_column(dataset, CAPTION)
    if column in dataset.column_names:
        raise ValueError(f"the dataset has a column {column!r} already, which this pool adds: rename or remove it")
    order, seed = generator.permutation(len(dataset)), int(generator.integers(2**31))
    count = max(1, round(part * len(dataset)))
    if count * len(conditions) > len(dataset):
        raise ValueError(
            f"the dataset has {len(dataset)} samples, too few for {len(conditions)} conditions of {count} each"
        )
    *chosen, others = np.split(order, count * np.arange(1, len(conditions) + 1))
    names = np.full(len(dataset), "", dtype=object)
    for name, rows in zip(conditions, chosen, strict=True):
        names[rows] = name
    said = dataset if phrases is None else _said(dataset, names, phrases)
    marked = said.add_column(column, names.tolist())
    parts = [
        under_condition(marked, image, name, severity, seed_of(seed, number), rows.tolist())
        for number, (name, rows) in enumerate(zip(conditions, chosen, strict=True))
    ]
    # Apart from them, since an image that goes through `map` is encoded anew.
    pool = datasets.concatenate_datasets([*parts, marked.select(others)])
    return pool.select(np.argsort(np.concatenate([*chosen, others])))


def _said(dataset: datasets.Dataset, names: Iterable[str], phrases: Mapping[str, str]) -> datasets.Dataset:
    """The dataset whose captions say the condition: "a dress, on a snowy day"."""
    captions = [
        f"{caption}, {phrases[name]}" if name and caption else caption
        for name, caption in zip(names, read_column(dataset, CAPTION), strict=True)
    ]
    return dataset.remove_columns(CAPTION).add_column(CAPTION, captions, feature=dataset.features[CAPTION])


def rare_shares(
    pool: Any, selections: Sequence[Tensor], columns: Mapping[str, Sequence[str]] | None = None
) -> dict[str, dict[str, Any]]:
    """Each condition's part of the pool and of each selection: {"snow": {"pool": 0.01, "selected": [0.05, ...]}}.

    For the evaluation of a run: nothing that selects or trains may know it.

    Args:
        pool: As `domains` or `hidden` made it, or with columns of its own; of any other there is nothing to tell.
        selections: Positions in it, one selection a loop. LongTensor [K] each.
        columns: Column -> the conditions that it tells, beside those which pools add.
    """
    there = getattr(pool, "column_names", None) or []
    found: dict[str, dict[str, Any]] = {}
    for column, names in {**dict.fromkeys((DOMAIN, CONDITION), CONDITIONS), **(columns or {})}.items():
        of = np.array(read_column(pool, column) if column in there else [], dtype=object)
        for name in names:
            # A dataset may have a column of this name for something else.
            if (of == name).any():
                found[name] = {
                    "pool": float((of == name).mean()),
                    "selected": [float((of[indices.numpy()] == name).mean()) for indices in selections],
                }
    return found
