"""Loaders whose batches say which samples of the pool they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.trainer_utils import seed_worker

from vecaf_hf.data.indexed import Draw, IndexedCollator, IndexedDataset


def indexed_loader(
    dataset: Any,
    collator: Callable[[list[Any]], Any],
    draws: Iterable[Draw],
    batch_size: int,
    args: TrainingArguments,
    seed: int,
    persistent_workers: bool = False,
) -> DataLoader:
    """A loader as Trainer makes them from its arguments, over these draws of the dataset."""
    workers = args.dataloader_num_workers
    return DataLoader(
        IndexedDataset(dataset, seed),
        batch_size=batch_size,
        sampler=draws,
        collate_fn=IndexedCollator(collator, seed),
        num_workers=workers,
        # Pinning without an accelerator does nothing but warn.
        pin_memory=args.dataloader_pin_memory and args.device.type != "cpu",
        persistent_workers=persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        worker_init_fn=partial(seed_worker, num_workers=workers, rank=args.process_index),
    )
