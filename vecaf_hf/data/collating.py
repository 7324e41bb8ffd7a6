"""What a collator does to the samples of a batch: whether it mixes them, as CutMix and MixUp do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vecaf_hf.printable import listed
from vecaf_hf.seeding import seeded

logger = logging.getLogger(__name__)

# CutMix and MixUp draw how much they mix, and some leave half of the batches alone.
TRIES = 8


def check_collator(collator: Callable[[list[Any]], Any], items: Sequence[Any], label_name: str) -> None:
    """Try a collator on samples that are scored, several times on the same ones; warn if their inputs differ.

    Args:
        collator: Makes a batch of samples.
        items: Some samples; a collator that fails on them fails later, with an error that says which.
        label_name: The batch's key for the labels.

    Raises:
        ValueError: Their labels differ: it mixes samples, and what is scored is none of them.
    """
    try:
        batches = [_collated(collator, items, seed) for seed in range(TRIES if len(items) > 1 else 0)]
    except Exception:
        return
    if not all(isinstance(batch, Mapping) for batch in batches):
        return
    if not batches:
        return
    random = [name for name in batches[0] if any(_differ(batches[0], one, name) for one in batches)]
    advice = (
        "pass scoring_collator, a collator that does without, to VeCAFTrainer (such as "
        "transformers.default_data_collator)"
    )
    if label_name in random:
        raise ValueError(
            f"the collator mixes samples (the {label_name!r} of the same batch differ from one call to the next), and "
            f"the run scores each sample by itself: {advice}"
        )
    if random:
        logger.warning("the collator's %s are random, and scored so: to change it, %s", listed(random), advice)


def _collated(collator: Callable[[list[Any]], Any], items: Sequence[Any], seed: int) -> Any:
    with seeded(seed):
        return collator(list(items))


def _differ(batch: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool:
    first, second = batch[name], other.get(name)
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return False
    return first.shape != second.shape or not torch.equal(first.nan_to_num(), second.nan_to_num())
