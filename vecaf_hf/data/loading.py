"""Loaders as Trainer makes them, and loaders whose batches say which samples of the pool they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.trainer_utils import seed_worker

from vecaf_hf.data.indexed import Check, Draw, IndexedCollator, IndexedDataset


def loader_by(
    args: TrainingArguments,
    dataset: Any,
    collator: Callable[[list[Any]], Any],
    sampler: Iterable[Any],
    batch_size: int,
    **options: Any,
) -> DataLoader:
    """A loader as Trainer makes them from its arguments; `options` are further ones of torch's DataLoader."""
    workers = args.dataloader_num_workers
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collator,
        num_workers=workers,
        # Pinning without an accelerator does nothing but warn.
        pin_memory=args.dataloader_pin_memory and args.device.type != "cpu",
        prefetch_factor=args.dataloader_prefetch_factor,
        # Since transformers 5.15.
        multiprocessing_context=getattr(args, "dataloader_multiprocessing_context", None),
        worker_init_fn=partial(seed_worker, num_workers=workers, rank=args.process_index),
        **options,
    )


def indexed_loader(
    dataset: Any,
    collator: Callable[[list[Any]], Any],
    draws: Iterable[Draw],
    batch_size: int,
    args: TrainingArguments,
    seed: int,
    persistent_workers: bool = False,
    check: Check | None = None,
) -> DataLoader:
    """A loader over these draws of the dataset, whose batches are checked where they are made."""
    indexed, collate = IndexedDataset(dataset, seed), IndexedCollator(collator, seed, check)
    return loader_by(args, indexed, collate, draws, batch_size, persistent_workers=persistent_workers)
