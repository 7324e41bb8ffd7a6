"""A pool with a few images of other domains, whose captions say so: does a prompt find them (VeCAF's Figure 3)?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from torch import Tensor

from vecaf_hf.data.columns import check_column, read_column
from vecaf_hf.data.corruptions import corrupted
from vecaf_hf.seeding import seed_of

# Corruption -> what is added to the captions of images under it.
DOMAINS = {"snow": "on a snowy day", "fog": "on a foggy day"}
# Part of the pool that each domain gets, and the corruptions' severity.
PART, SEVERITY = 0.01, 3
# The column of captions, and the one that is added: a sample's domain, or nothing.
CAPTION, DOMAIN = "caption", "domain"


def domains(dataset: datasets.Dataset, label: str, image: str, generator: np.random.Generator) -> datasets.Dataset:
    """A hundredth of the images in snow and another in fog, as their captions say: "a dress, on a snowy day".

    The column `domain` tells them. All others stay as they are. A sample without a caption gets none.

    Raises:
        ValueError: The dataset has no column `caption`, has a column `domain` already, or an image of those cannot be
            read.
    """
    check_column(dataset, CAPTION)
    if DOMAIN in dataset.column_names:
        raise ValueError(f"the dataset has a column {DOMAIN!r} already, which this pool adds: rename or remove it")
    order, seed = generator.permutation(len(dataset)), int(generator.integers(2**31))
    count = max(1, round(PART * len(dataset)))
    *chosen, others = np.split(order, count * np.arange(1, len(DOMAINS) + 1))
    names = np.full(len(dataset), "", dtype=object)
    for name, rows in zip(DOMAINS, chosen, strict=True):
        names[rows] = name
    captions = [
        f"{caption}, {DOMAINS[name]}" if name and caption else caption
        for name, caption in zip(names, read_column(dataset, CAPTION), strict=True)
    ]
    said = dataset.remove_columns(CAPTION).add_column(CAPTION, captions, feature=dataset.features[CAPTION])
    marked = said.add_column(DOMAIN, names.tolist())
    parts = [
        corrupted(marked, image, name, SEVERITY, seed_of(seed, number), rows.tolist())
        for number, (name, rows) in enumerate(zip(DOMAINS, chosen, strict=True))
    ]
    # Apart from them, since an image that goes through `map` is encoded anew.
    pool = datasets.concatenate_datasets([*parts, marked.select(others)])
    return pool.select(np.argsort(np.concatenate([*chosen, others])))


def domain_shares(pool: Any, selections: Sequence[Tensor]) -> dict[str, dict[str, Any]]:
    """Each domain's part of the pool and of each selection: {"snow": {"pool": 0.01, "selected": [0.05, ...]}}.

    Args:
        pool: As `domains` made it; of any without the column `domain` there is nothing to tell.
        selections: Positions in it, one selection a loop. LongTensor [K] each.
    """
    if DOMAIN not in (getattr(pool, "column_names", None) or []):
        return {}
    of = np.array(read_column(pool, DOMAIN))
    return {
        name: {
            "pool": float((of == name).mean()),
            "selected": [float((of[indices.numpy()] == name).mean()) for indices in selections],
        }
        for name in DOMAINS
    }
