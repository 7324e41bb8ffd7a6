"""The training pool: its samples, their classes, and loaders over them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.data.checks import check_labels, check_range, check_values
from vecaf_hf.data.collating import check_collator
from vecaf_hf.data.columns import read_groups, read_labels
from vecaf_hf.data.indexed import POOL_INDEX, UNLOADABLE, Draw, IndexedDataset, Unloadable
from vecaf_hf.data.labels import IGNORED, described, is_ignored, is_soft, one_per_sample
from vecaf_hf.data.ledger import LISTED, SampleLedger, refuse
from vecaf_hf.data.loading import indexed_loader, loader_by
from vecaf_hf.printable import listed
from vecaf_hf.selection.candidates import Candidates, evenly_spaced

logger = logging.getLogger(__name__)

# Samples that a collator is tried on.
COLLATED = 4

Collator = Callable[[list[Any]], Any]


class Pool:
    """Samples by position.

    Args:
        dataset: What is trained on, map-style.
        scoring_dataset: The same samples under the evaluation transform; `dataset` itself if None.
        args: The run's options.
        prepare: (dataset, whether it is scored) -> (dataset, collator), without the columns that the model does not
            take.
        label_name: The batch's key for the labels.
        accelerator: Its processes share the loading.

    Attributes:
        labels: Class of each sample, LongTensor [N], or None where no column has it.
        size: N, when the pool was made.
        ignored: Whether training ignores each sample, by its label, as far as that is known. BoolTensor [N].
        groups: Group of each sample, for a strategy that reads it; else None. LongTensor [N].
        ledger: Which samples cannot be loaded, and so are not selected.

    Raises:
        ValueError: A dataset is iterable only, the two have different lengths, or there is no such column of labels or
            groups.
    """

    def __init__(
        self,
        dataset: Any,
        scoring_dataset: Any,
        args: VeCAFArguments,
        prepare: Callable[[Any, bool], tuple[Any, Collator]],
        label_name: str,
        accelerator: Accelerator,
    ) -> None:
        self.dataset = dataset
        self.scoring_dataset = dataset if scoring_dataset is None else scoring_dataset
        self.args, self.prepare, self.label_name, self.accelerator = args, prepare, label_name, accelerator
        self.num_classes: int | None = None
        for name, samples in (("train_dataset", self.dataset), ("scoring_dataset", self.scoring_dataset)):
            _check_map_style(name, samples)
        self.size = len(dataset)
        if len(self.scoring_dataset) != len(self.dataset):
            raise ValueError(
                f"scoring_dataset has {len(self.scoring_dataset)} samples and train_dataset {len(self.dataset)}: they "
                "must be the same samples in the same order"
            )
        self.seed = args.seed if args.data_seed is None else args.data_seed
        self.labels = read_labels(dataset, args.label_column)
        self.groups = None if args.group_column is None else read_groups(dataset, args.group_column)
        self.forget_samples()

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def columns(self) -> list[str]:
        return getattr(self.dataset, "column_names", None) or []

    def is_of(self, dataset: Any, scoring_dataset: Any, args: VeCAFArguments, accelerator: Accelerator) -> bool:
        """Whether it is made of these; a dataset that has grown since is another one."""
        scored = dataset if scoring_dataset is None else scoring_dataset
        made_of = (self.dataset, self.scoring_dataset, self.args, self.accelerator)
        same = all(mine is its for mine, its in zip(made_of, (dataset, scored, args, accelerator), strict=True))
        return same and len(dataset) == self.size

    def check_exchanged(self, dataset: Any, scoring_dataset: Any) -> None:
        """Raise a ValueError if another dataset would stand beside this pool's scoring dataset, which is of its own
        samples."""
        is_own = self.scoring_dataset is not self.dataset and scoring_dataset is self.scoring_dataset
        if is_own and dataset is not self.dataset:
            raise ValueError(
                "train_dataset was exchanged, and scoring_dataset has the samples of the old one: set "
                "trainer.scoring_dataset too, or to None"
            )

    def forget_samples(self) -> None:
        """Begin a run: whatever could not be loaded in an earlier one may be whole by now, and who is ignored is what
        the labels say that are known before."""
        self.ignored = torch.zeros(self.size, dtype=torch.bool) if self.labels is None else is_ignored(self.labels)
        self.ledger = SampleLedger(self.ignored, self.args.on_bad_sample, self.accelerator)

    def batches(self, indices: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Those of the scoring loader, their labels checked.

        Raises:
            ValueError: A sample has no label, or one that is no class of the model.
        """
        for batch in self.scoring_loader(indices):
            if len(batch[POOL_INDEX]):
                check_labels(batch, self.label_name, self.num_classes, self.columns)
            yield batch

    def training_loader(self, draws: Any, batch_size: int) -> DataLoader:
        """Batches of the dataset, in the order of a sampler of draws."""
        dataset, collator = self.prepare(self.dataset, False)
        persistent = self.args.dataloader_persistent_workers
        return indexed_loader(dataset, collator, draws, batch_size, self.args, self.seed, persistent)

    def loader_to_look_at(self, positions: Any, batch_size: int) -> DataLoader:
        """Batches of the dataset as the model sees them, in the order of a sampler of positions."""
        dataset, collator = self.prepare(self.dataset, False)
        keeps, drops = self.args.dataloader_persistent_workers, self.args.dataloader_drop_last
        return loader_by(self.args, dataset, collator, positions, batch_size, persistent_workers=keeps, drop_last=drops)

    def scoring_loader(self, indices: Iterable[int], turn: int = 0) -> DataLoader:
        """Batches of the scoring dataset, these positions in this order; the scorer deals them out to the processes.
        Another turn draws anew whatever is random in loading them."""
        dataset, collator = self.prepare(self.scoring_dataset, True)
        draws = [Draw(index, turn=turn) for index in indices]
        return indexed_loader(dataset, collator, draws, self.scoring_batch_size, self.args, self.seed)

    def check_collator(self) -> None:
        """Check, on a few samples, that the collator which samples are scored with leaves each as it is.

        Raises:
            ValueError: It mixes labels, as CutMix and MixUp do.
        """
        items, collator = self.items(evenly_spaced(len(self), COLLATED).tolist(), scored=True)
        check_collator(collator, [item for item in items if not isinstance(item, Unloadable)], self.label_name)

    def items(self, positions: Iterable[int], scored: bool) -> tuple[list[Any], Collator]:
        """A few samples as a loader's collator would be given them, `Unloadable` where one fails; and that collator."""
        dataset, collator = self.prepare(self.scoring_dataset if scored else self.dataset, scored)
        draws = [Draw(position) for position in positions]
        return [item for _, item in IndexedDataset(dataset, self.seed).__getitems__(draws)], collator

    @property
    def scoring_batch_size(self) -> int:
        return self.args.scoring_batch_size or self.args.eval_batch_size

    # --- Samples that cannot be loaded ---

    def note_scored(self, indices: Tensor, unloadable: Mapping[int, Unloadable]) -> None:
        """Take note of which of these samples could be scored; called in every process with its own share."""
        self.ledger.settle("scoring", self.scoring_dataset, indices, unloadable)
        if self.scoring_dataset is self.dataset:
            self.ledger.tried[indices] = True

    def check_trainable(self, indices: Tensor) -> bool:
        """Load, once in a run, each of these samples as training will, without the model; whether all could be.

        Raises:
            ValueError: Some cannot be loaded, have no label that is a class, or hold a NaN.
        """
        indices = indices[~self.ledger.tried[indices]]
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        dataset, collator = self.prepare(self.dataset, False)
        draws = [Draw(index) for index in indices[rank::world].tolist()]
        loader = indexed_loader(dataset, collator, draws, self.args.train_batch_size, self.args, self.seed)
        unloadable: dict[int, Unloadable] = {}
        hidden = bool(self.args.disable_tqdm) or not self.accelerator.is_local_main_process or len(indices) == 0
        for batch in tqdm(loader, "Checking", unit="batch", disable=hidden, leave=False):
            unloadable |= batch.get(UNLOADABLE, {})
            if len(batch[POOL_INDEX]):
                check_labels(batch, self.label_name, self.num_classes, self.columns)
                check_values(batch, self.label_name)
        before = self.ledger.skipped
        self.ledger.settle("training", self.dataset, indices, unloadable)
        self.ledger.tried[indices] = True
        return before == self.ledger.skipped

    def refuse_unloadable(self, batch: Mapping[str, Any]) -> None:
        """Raise a ValueError if a sample of this training batch could not be loaded."""
        advice = "It could be loaded before the loop began; training can resume from the last checkpoint"
        refuse(self.dataset, batch.get(UNLOADABLE, {}), advice)

    # --- Labels ---

    def load_labels(self) -> None:
        """Find the labels in the batches, where no column has them: loads every sample once, without the model."""
        if self.labels is not None:
            return
        everything = torch.arange(len(self))
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        labels = torch.zeros(len(self), dtype=torch.long)
        unloadable: dict[int, Unloadable] = {}
        for batch in self.batches(everything[rank::world].tolist()):
            unloadable |= batch.get(UNLOADABLE, {})
            if len(batch[POOL_INDEX]):
                found = one_per_sample(batch[self.label_name])
                if found.dim() != 1 or found.is_floating_point():
                    raise ValueError(
                        f"strategy {self.args.strategy!r} needs labels that are one class per sample, and a "
                        f"batch's are {described(found)}"
                    )
                labels[batch[POOL_INDEX]] = found.long()
        self.note_scored(everything, unloadable)
        self.labels = self.accelerator.reduce(labels.to(self.accelerator.device)).cpu()
        self._ignore(is_ignored(self.labels).nonzero().squeeze(1))

    def without_ignored(self, scored: Candidates) -> Candidates:
        """The candidates without those whose label training ignores; these are not selected in this run."""
        if scored.labels is None or not (ignored := is_ignored(scored.labels)).any():
            return scored
        self._ignore(scored.indices[ignored])
        return scored.take(~ignored)

    def _ignore(self, indices: Tensor) -> None:
        if not self.ignored[indices].all():
            self.ignored[indices] = True
            self._tell_of_ignored()

    def _tell_of_ignored(self) -> None:
        if self.ignored.any():
            logger.warning(
                "%d of %d samples have the label %d, which training ignores: they are never selected",
                int(self.ignored.sum()),
                len(self),
                IGNORED,
            )

    def with_classes(self, candidates: Candidates) -> Candidates:
        """The candidates, with their classes in place of soft labels where the pool knows them."""
        labels = candidates.labels
        if self.labels is None or labels is None or not is_soft(labels):
            return candidates
        return replace(candidates, labels=self.labels[candidates.indices])

    def check_classes(self, class_names: Sequence[str], num_classes: int | None) -> None:
        """Raise a ValueError if a label is no class of the model; warn of classes that no sample has."""
        self.num_classes = num_classes
        self._tell_of_ignored()
        if self.labels is None or num_classes is None:
            return
        advice = "; or set label_column='none' if a transform makes other labels of these"
        check_range(self.labels, torch.arange(len(self)), num_classes, advice)
        if len(class_names) < 2:
            return
        absent = torch.bincount(self.labels[~self.ignored], minlength=len(class_names)) == 0
        if absent.any():
            names = [class_names[index] for index in absent.nonzero().squeeze(1).tolist()]
            logger.warning("no sample of the pool has the class %s: the model will not learn it", listed(names, LISTED))

    def check_column(self, scored: Candidates) -> None:
        """Raise a ValueError if the batches of these samples have other classes than the label column."""
        if self.labels is None or scored.classes is None:
            return
        differing = (self.labels[scored.indices] != scored.classes).nonzero().squeeze(1)
        if len(differing):
            index = int(scored.indices[differing[0]])
            raise ValueError(
                f"the label column gives sample {index} class {int(self.labels[index])}, and the collator's batch "
                f"class {int(scored.classes[differing[0]])}: set label_column to the column that the model trains on, "
                "or to 'none' if a transform makes the labels"
            )


def _check_map_style(name: str, samples: Any) -> None:
    if isinstance(samples, Mapping):
        splits = ", ".join(map(str, samples))
        raise ValueError(
            f"{name} is a {type(samples).__name__} of {splits}: pass one split, such as "
            f"{name}=data[{next(iter(samples), 'train')!r}]"
        )
    if isinstance(samples, (IterableDataset, datasets.IterableDataset)) or not (
        hasattr(samples, "__getitem__") and hasattr(samples, "__len__")
    ):
        raise ValueError(f"{name} is iterable only; selection needs a map-style dataset (with len and [index])")
