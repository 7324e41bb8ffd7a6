"""A streamed dataset as a pool: by position, as a map-style dataset."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.data.columns import check_column, label_among
from vecaf_hf.data.shards import Shards
from vecaf_hf.data.streams import check_order, counted, features_of, fingerprint, parquet_parts, tables
from vecaf_hf.data.whole_files import write_whole

logger = logging.getLogger(__name__)

# The folder of a run's output in which samples of its stream lie.
STREAMS = "streamed"

Transform = Callable[[dict[str, list[Any]]], Mapping[str, Any]]


class ShardedDataset(Dataset):
    """A stream of shards (Parquet files, tars of WebDataset, a generator's parts) that can be asked for any sample.

    A loop boundary with `rescore="sampled"` reads whole shards, once and in order, and the loop trains on the selected
    samples from the local disk. `VeCAFTrainer` makes one of a `datasets.IterableDataset` that it is given; make it
    yourself to give training and scoring a transform each, or to choose the folder.

    Args:
        stream: From `load_dataset(..., streaming=True)` or the like, with the same samples each time. What `map` does
            is done when a shard is read: leave what is random to a transform.
        folder: Where shards and selected samples lie while one run needs them; the processes of a machine share it.
        sizes: Samples of each shard. If None they are counted: of Parquet files by their footers; any other stream is
            read whole, once, and the counts are kept in the folder.
        label_column: Of the classes; by default `labels`, `label` or `label_ids`, or the only ClassLabel.

    Attributes:
        targets: Class of each sample where it is known, LongTensor [N]; else None, and labels come with the batches.
        transform: As `datasets.Dataset.with_transform` takes it; None for the samples as they are.
        keeps_shards: False; True lets shards that were read stay on disk.

    Raises:
        ValueError: The stream was split by node, or made by `take`, `shuffle` or the like; there is no such column; or
            there are not as many sizes as shards.
    """

    def __init__(
        self,
        stream: datasets.IterableDataset,
        folder: str | Path,
        sizes: Sequence[int] | None = None,
        label_column: str | None = None,
    ) -> None:
        check_order(stream)
        if sizes is not None and len(sizes) != stream.num_shards:
            raise ValueError(f"sizes has {len(sizes)} entries, and the stream has {stream.num_shards} shards")
        features, folder = features_of(stream), Path(folder)
        self.label_column = label_among(features, label_column)
        parts, labels, tokens = None if sizes else parquet_parts(stream), None, list[str]()
        if parts is not None:
            found = counted(parts, self.label_column)
            sizes, tokens = [one.size for one in found], [one.token for one in found]
            labels = _joined([_classes(one.column) for one in found])
        elif sizes is None:
            sizes, labels = _surveyed(stream, features, folder, self.label_column)
        self.shards = Shards(stream, folder, sizes, tokens)
        self.targets: Tensor | None = labels
        self.transform: Transform | None = None

    @classmethod
    def from_parquet(
        cls, files: str | Sequence[str], folder: str | Path, label_column: str | None = None, format: str | None = None
    ) -> ShardedDataset:
        """Of Parquet files, one a shard, local or remote (`hf://datasets/...`); `format` as
        `IterableDataset.with_format` takes it."""
        files = [files] if isinstance(files, str) else list(files)
        stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        return cls(stream.with_format(format), folder, label_column=label_column)

    def with_transform(self, transform: Transform | None) -> ShardedDataset:
        """The same samples through a function from a batch (a dictionary of columns) to a batch, when they are asked
        for; with the shards of this one."""
        view = copy.copy(self)
        view.transform = transform
        return view

    @property
    def keeps_shards(self) -> bool:
        """Whether shards that were read stay on disk, as for a pool that is scored as a whole at each boundary."""
        return self.shards.keeps_shards

    @keeps_shards.setter
    def keeps_shards(self, keeps: bool) -> None:
        self.shards.keeps_shards = keeps

    @property
    def features(self) -> datasets.Features:
        """What the columns hold, before the transform."""
        return self.shards.features

    @property
    def column_names(self) -> list[str]:
        """The columns, before the transform."""
        return list(self.features)

    def read_column(self, column: str) -> list[Any]:
        """All values of a column as they are stored; of any but Parquet files the whole stream is read for it."""
        check_column(self, column)
        parts = parquet_parts(self.shards.stream)
        if parts is not None:
            return [value for one in counted(parts, column) for value in one.column.to_pylist()]
        return [
            value
            for shard in range(len(self.shards.sizes))
            for table in tables(self.shards.stream, shard, self.features)
            for value in table[column].to_pylist()
        ]

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[dict[str, Any]]:
        columns: Mapping[str, Any] = self.shards.read(positions)
        if self.transform is not None:
            columns = self.transform(dict(columns))
        count = len(next(iter(columns.values()), []))
        return [{name: values[row] for name, values in columns.items()} for row in range(count)]


def by_position(dataset: Any, args: VeCAFArguments, place: str = "") -> Any:
    """The dataset, or a view by position of one that is streamed by `datasets`, with files in the run's output."""
    if not isinstance(dataset, datasets.IterableDataset):
        return dataset
    column = None if args.label_column == "none" else args.label_column
    return ShardedDataset(dataset, Path(str(args.output_dir)) / STREAMS / place, label_column=column)


def _surveyed(
    stream: datasets.IterableDataset, features: datasets.Features, folder: Path, label: str | None
) -> tuple[list[int], Tensor | None]:
    """Samples of each shard, and all labels if they are classes: read once, and kept in the folder."""
    file = folder / fingerprint(stream, features) / f"counts-{label}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not file.exists():
            counts = _survey(stream, features, label)
            write_whole(file, lambda unfinished: save_file(counts, unfinished))
        found = load_file(file)
    return found["sizes"].tolist(), found.get("labels")


def _survey(stream: datasets.IterableDataset, features: datasets.Features, label: str | None) -> dict[str, Tensor]:
    logger.warning(
        "the samples of %d shards are counted, for which the stream is read once. Where that takes long, give a "
        "ShardedDataset their sizes, or Parquet files",
        stream.num_shards,
    )
    sizes, labels = [], list[Tensor | None]()
    for shard in tqdm(range(stream.num_shards), "Counting", unit="shard", leave=False, disable=None):
        sizes.append(0)
        for table in tables(stream, shard, features):
            sizes[-1] += table.num_rows
            labels.append(None if label is None else _classes(table[label]))
    joined = _joined(labels)
    return {"sizes": torch.tensor(sizes)} | ({} if joined is None else {"labels": joined})


def _classes(column: Any) -> Tensor | None:
    """A column of whole numbers, without gaps; None for any other, or for none. [n]."""
    if column is None or column.null_count or not pa.types.is_integer(column.type):
        return None
    return torch.as_tensor(column.to_numpy().copy(), dtype=torch.long)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found and len(found) == len(parts) else None
