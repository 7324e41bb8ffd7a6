"""The training pool: its samples, their classes, and loaders over them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.data.checks import BatchCheck, check_classes, check_map_style
from vecaf_hf.data.collating import check_collator
from vecaf_hf.data.columns import read_groups, read_labels
from vecaf_hf.data.indexed import POOL_INDEX, UNFIT, UNLOADABLE, Draw, IndexedDataset, Unloadable
from vecaf_hf.data.labels import IGNORED, described, is_ignored, is_soft, one_per_sample
from vecaf_hf.data.ledger import SampleLedger, refuse
from vecaf_hf.data.loading import indexed_loader, loader_by
from vecaf_hf.data.sharded import ShardedDataset
from vecaf_hf.data.shards import Shards
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
            check_map_style(name, samples)
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

    @property
    def shards(self) -> Shards | None:
        """Of a streamed pool, where its samples come from."""
        return self.scoring_dataset.shards if isinstance(self.scoring_dataset, ShardedDataset) else None

    def some(self, positions: Tensor, count: int) -> Tensor:
        """A few of these to look at, evenly spaced; of a streamed pool those of one shard. LongTensor [n]."""
        if self.shards is not None and len(positions):
            positions = self._readable(self.shards, positions)
        return positions[evenly_spaced(len(positions), count)]

    def _readable(self, shards: Shards, positions: Tensor) -> Tensor:
        """Those of the first shard that can be read."""
        of = torch.as_tensor(shards.shard_of(positions))
        for shard in of.unique().tolist():
            with suppress(OSError):
                shards.fetch(shard)
                return positions[of == shard]
        return positions

    def keep(self, indices: Tensor) -> None:
        """The samples that are trained on from now on: of a streamed pool these alone stay on disk. Every process calls
        it. LongTensor [n]."""
        streamed = {one.shards for one in (self.dataset, self.scoring_dataset) if isinstance(one, ShardedDataset)}
        if not streamed:
            return
        failed = ""
        if self.accelerator.is_local_main_process:
            try:
                for shards in streamed:
                    shards.keep(indices, self.args.on_bad_sample == "skip")
            except OSError as error:
                failed = str(error)
        # The others wait for these here, and learn what went wrong.
        failures = [one for one in gather_object([failed]) if one]
        for shards in streamed:
            shards.release()
        if failures:
            raise OSError(f"the selected samples cannot be kept: {failures[0]}")

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
        indices = list(indices)
        batches = iter(self.scoring_loader(indices))
        # Once the workers are there: to fork beside a thread that reads may block.
        with nullcontext() if self.shards is None else self.shards.fetched_ahead(indices):
            for batch in batches:
                _refuse(batch)
                yield batch

    def training_loader(self, draws: Any, batch_size: int) -> DataLoader:
        """Batches of the dataset, in the order of a sampler of draws."""
        dataset, collator = self.prepare(self.dataset, False)
        persistent = self.args.dataloader_persistent_workers
        check = self._check(values=True)
        return indexed_loader(dataset, collator, draws, batch_size, self.args, self.seed, persistent, check)

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
        size, check = self.scoring_batch_size, self._check(values=False)
        return indexed_loader(dataset, collator, draws, size, self.args, self.seed, check=check)

    def _check(self, values: bool) -> BatchCheck:
        return BatchCheck(self.label_name, self.num_classes, tuple(self.columns), values)

    def check_collator(self) -> None:
        """Check, on a few samples, that the collator which samples are scored with leaves each as it is.

        Raises:
            ValueError: It mixes labels, as CutMix and MixUp do.
        """
        items, collator = self.items(self.some(torch.arange(len(self)), COLLATED).tolist(), scored=True)
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
        draws, size = [Draw(index) for index in indices[rank::world].tolist()], self.args.train_batch_size
        loader = indexed_loader(dataset, collator, draws, size, self.args, self.seed, check=self._check(values=True))
        unloadable: dict[int, Unloadable] = {}
        hidden = bool(self.args.disable_tqdm) or not self.accelerator.is_local_main_process or len(indices) == 0
        for batch in tqdm(loader, "Checking", unit="batch", disable=hidden, leave=False):
            unloadable |= batch.get(UNLOADABLE, {})
            _refuse(batch)
        before = self.ledger.skipped
        self.ledger.settle("training", self.dataset, indices, unloadable)
        self.ledger.tried[indices] = True
        return before == self.ledger.skipped

    def refuse_unfit(self, batch: Mapping[str, Any]) -> None:
        """Raise a ValueError if a sample of this training batch could not be loaded, or cannot be trained on."""
        found = batch.get(UNLOADABLE, {})
        advice = "Mend it, and training can resume from the last checkpoint"
        if found and self.ledger.tried[list(found)].all():
            advice = "It could be loaded before the loop began; training can resume from the last checkpoint"
        elif self.args.on_bad_sample == "raise":
            advice += '. A run that begins with on_bad_sample="skip" leaves it out'
        refuse(self.dataset, found, advice)
        _refuse(batch)

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
        if self.labels is not None and num_classes is not None:
            check_classes(self.labels, self.ignored, class_names, num_classes)


def _refuse(batch: Mapping[str, Any]) -> None:
    """Raise a ValueError if something was found wrong with a batch when it was made."""
    if UNFIT in batch:
        raise ValueError(batch[UNFIT])
