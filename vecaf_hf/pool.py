"""The training pool: its samples, their classes, and loaders over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader, IterableDataset

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.candidates import Candidates
from vecaf_hf.data.columns import read_labels
from vecaf_hf.data.indexed import Draw
from vecaf_hf.data.loading import indexed_loader

Collator = Callable[[list[Any]], Any]


class Pool:
    """Samples by position.

    Args:
        dataset: What is trained on, map-style.
        scoring_dataset: The same samples under the evaluation transform; `dataset` itself if None.
        args: The run's options.
        prepare: dataset -> (dataset, collator), without the columns that the model does not take.
        label_name: The batch's key for the labels.

    Attributes:
        labels: Class of each sample, LongTensor [N], or None where no column has it.

    Raises:
        ValueError: A dataset is iterable only, the two have different lengths, or there is no such label column.
    """

    def __init__(
        self,
        dataset: Any,
        scoring_dataset: Any,
        args: VeCAFArguments,
        prepare: Callable[[Any], tuple[Any, Collator]],
        label_name: str,
    ) -> None:
        self.dataset = dataset
        self.scoring_dataset = dataset if scoring_dataset is None else scoring_dataset
        self.args, self.prepare, self.label_name = args, prepare, label_name
        for samples in (self.dataset, self.scoring_dataset):
            if isinstance(samples, (IterableDataset, datasets.IterableDataset)) or not hasattr(samples, "__getitem__"):
                raise ValueError(
                    "train_dataset is iterable only; selection needs a map-style dataset (with len and [index])"
                )
        if len(self.scoring_dataset) != len(self.dataset):
            raise ValueError(
                f"scoring_dataset has {len(self.scoring_dataset)} samples and train_dataset {len(self.dataset)}: they "
                "must be the same samples in the same order"
            )
        self.seed = args.seed if args.data_seed is None else args.data_seed
        self.labels = read_labels(dataset, args.label_column)

    def __len__(self) -> int:
        return len(self.dataset)

    def training_loader(self, draws: Any, batch_size: int) -> DataLoader:
        """Batches of the dataset, in the order of a sampler of draws."""
        dataset, collator = self.prepare(self.dataset)
        persistent = self.args.dataloader_persistent_workers
        return indexed_loader(dataset, collator, draws, batch_size, self.args, self.seed, persistent)

    def scoring_loader(self, indices: Iterable[int]) -> DataLoader:
        """Batches of the scoring dataset, these positions in this order; the scorer deals them out to the processes."""
        dataset, collator = self.prepare(self.scoring_dataset)
        batch_size = self.args.scoring_batch_size or self.args.eval_batch_size
        return indexed_loader(dataset, collator, [Draw(index) for index in indices], batch_size, self.args, self.seed)

    def load_labels(self) -> None:
        """Find the labels in the batches, where no column has them: loads every sample once, without the model."""
        if self.labels is None:
            self.labels = torch.cat([batch[self.label_name] for batch in self.scoring_loader(range(len(self)))])

    def check_labels(self, scored: Candidates) -> None:
        """Raise a ValueError if the batches of these samples have other classes than the label column."""
        if self.labels is None or scored.classes is None:
            return
        differing = (self.labels[scored.indices] != scored.classes).nonzero().squeeze(1)
        if len(differing):
            index = int(scored.indices[differing[0]])
            raise ValueError(
                f"the label column gives sample {index} class {int(self.labels[index])}, and the collator's batch "
                f"class {int(scored.classes[differing[0]])}: set label_column to the column that the model trains on"
            )
