"""A streamed dataset's shards by position: read whole and once, kept on disk, and of them the selected samples."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets.features.features import require_storage_embed
from datasets.table import embed_table_storage
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from vecaf_hf.data.kept_samples import KeptSamples, arrow_writer, placed, with_position
from vecaf_hf.data.shard_order import shards_of_loop
from vecaf_hf.data.streams import ROWS, features_of, fingerprint, is_made, tables, tensors_of
from vecaf_hf.data.whole_files import remove_stale, write_whole

logger = logging.getLogger(__name__)

Columns = dict[str, list[Any]]
# Times that a shard is opened which another run removes from the folder.
TRIES = 3


class Shards:
    """The samples of a stream by position, which is their place when shard after shard is read.

    A shard that a sample is asked of is read whole, once, by one process of those that share the folder; then it lies
    there as an Arrow file, images as they are stored. `keep` removes all but the samples of a selection.

    Args:
        stream: As `check_order` accepts it.
        folder: Where files lie, in a folder named after the stream's content; shared by the processes of a machine at
            least, and of one run.
        sizes: Samples of each shard.
        tokens: A word for each shard that changes with its content, where there are such.

    Raises:
        OSError: When a shard cannot be read, which is tried once until samples are kept again; or it has another number
            of samples than it had.

    Attributes:
        keeps_shards: Whether shards stay on disk when a selection is kept.
        starts: Position of each shard's first sample, and the number of all. [shards + 1].
        fingerprint: Of what a checkpoint's run must share.
    """

    def __init__(
        self, stream: datasets.IterableDataset, folder: Path, sizes: Sequence[int], tokens: Sequence[str] = ()
    ) -> None:
        self.stream, self.sizes, self.keeps_shards = stream, list(sizes), False
        self.starts = np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))])
        self.features, self._tensors = features_of(stream), tensors_of(stream)
        self.fingerprint = fingerprint(stream, self.features)
        content = repr([self.fingerprint, self.sizes, list(tokens)])
        self.folder = folder / hashlib.sha256(content.encode()).hexdigest()[:16]
        self._kept = KeptSamples(self.folder / "kept.arrow")
        self._open: dict[int, datasets.Dataset] = {}
        self._failed: dict[int, str] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        # What is mapped into memory is opened anew by a worker that is not forked.
        return {**self.__dict__, "_open": {}}

    def shard_of(self, positions: Any) -> NDArray[np.int64]:
        """The shard of each position. [n]."""
        return np.searchsorted(self.starts, np.asarray(positions), side="right") - 1

    def part(self, positions: Tensor, count: int, seed: int, loop: int) -> Tensor:
        """At least `count` of these positions, at most all: those in the shards that are this loop's turn. Rising."""
        shards = torch.as_tensor(self.shard_of(positions))
        usable = torch.bincount(shards, minlength=len(self.sizes))
        mine = shards_of_loop(self.sizes, usable, min(count, len(positions)), seed, loop)
        return positions[torch.isin(shards, torch.tensor(mine))]

    # --- Read ---

    def read(self, positions: Sequence[int]) -> Columns:
        """These samples, in this order, decoded and in the stream's format."""
        asked = np.asarray(positions, dtype=np.int64)
        if len(asked) and not 0 <= asked.min() <= asked.max() < len(self):
            raise IndexError(f"position {asked.min()} or {asked.max()} is none of {len(self)} samples")
        found: Columns = {name: [None] * len(asked) for name in self.features}
        for rows, samples, places in self._places(asked):
            part = self._formatted(samples)[rows.tolist()]
            for name, values in found.items():
                kind = self._tensors.get(name)
                for place, value in zip(places.tolist(), part[name], strict=True):
                    values[place] = value if kind is None else torch.as_tensor(np.asarray(value)).to(kind)
        return found

    def _places(self, asked: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], datasets.Dataset, Any]]:
        """For each file that has some of the samples: their rows in it, the file, and which of those asked they are."""
        positions, kept = self._kept.held
        shards = self.shard_of(asked)
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            if kept is not None and len(positions) and shard not in self._open and not self._file(shard).exists():
                rows = np.searchsorted(positions, asked[places]).clip(max=len(positions) - 1)
                has = positions[rows] == asked[places]
                if has.any():
                    yield rows[has], kept, places[has]
                    places = places[~has]
            if len(places):
                yield asked[places] - self.starts[shard], self._shard(shard), places

    def _shard(self, shard: int) -> datasets.Dataset:
        for attempt in range(TRIES):
            if shard in self._open:
                break
            self.fetch(shard)
            try:
                self._open[shard] = datasets.Dataset.from_file(str(self._file(shard)))
            except FileNotFoundError:
                if attempt == TRIES - 1:
                    raise
        return self._open[shard]

    def _formatted(self, samples: datasets.Dataset) -> datasets.Dataset:
        # Private in datasets (5.2): a stream does not tell its format otherwise.
        given = getattr(self.stream, "_formatting", None)
        if self._tensors:
            return samples.with_format("numpy", columns=list(self._tensors), output_all_columns=True)
        return samples.with_format(None if given is None else given.format_type)

    # --- Fetch ---

    def fetch(self, shard: int) -> None:
        """Have a shard on disk."""
        file = self._file(shard)
        if file.exists():
            return
        if shard in self._failed:
            # Not once more for each of its samples.
            raise OSError(self._failed[shard])
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if file.exists():
                return
            try:
                write_whole(file, lambda unfinished: self._write(shard, unfinished))
            except Exception as error:
                self._failed[shard] = f"shard {shard} of the stream cannot be read: {type(error).__name__}: {error}"
                raise OSError(self._failed[shard]) from error

    @contextmanager
    def fetched_ahead(self, positions: Iterable[int]) -> Iterator[None]:
        """Inside the block the shards of these samples are fetched, in their order, while others of them are used; but
        for those that the user's code makes, which may draw from the generators of this process."""
        shards = [] if is_made(self.stream) else dict.fromkeys(self.shard_of(list(positions)).tolist())
        ended = threading.Event()

        def fetch() -> None:
            for shard in shards:
                if ended.is_set():
                    return
                try:
                    self.fetch(shard)
                except Exception:
                    # Whoever needs the shard meets the same error, and tells it.
                    logger.debug("shard %d was not fetched ahead", shard, exc_info=True)

        thread = threading.Thread(target=fetch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:06d}.arrow"

    def _write(self, shard: int, path: Path) -> None:
        count, has_paths = 0, any(map(require_storage_embed, self.features.values()))
        with arrow_writer(path, self.features.arrow_schema) as writer:
            for table in tables(self.stream, shard, self.features):
                # An image that is a path would be read from the archive each time.
                writer.write_table(embed_table_storage(table) if has_paths else table)
                count += table.num_rows
        if count != self.sizes[shard]:
            raise ValueError(
                f"shard {shard} of the stream has {count} samples, and had {self.sizes[shard]} when they were counted: "
                "is it whole, and does the stream give the same samples each time? If it has changed, remove "
                f"{str(self.folder.parent)!r}"
            )

    # --- Keep ---

    def keep(self, positions: Tensor, skips: bool = False) -> None:
        """Have these samples on disk and no others: where their shards are not there, one after the other is fetched
        and removed again. LongTensor [n]. `skips` leaves out those that cannot be read."""
        asked = positions.sort().values.numpy()
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)
        with FileLock(f"{self._kept.file}.lock"):
            if not np.array_equal(self._kept.held[0], asked):
                write_whole(self._kept.file, lambda unfinished: self._write_kept(asked, unfinished, skips))
            if not self.keeps_shards:
                self._open.clear()
                for file in self.folder.glob("shard-*.arrow"):
                    file.unlink(missing_ok=True)

    def release(self) -> None:
        """Let go of all files, and try again what could not be read. Every process calls it when samples were kept."""
        self._open.clear()
        self._failed.clear()
        self._kept.release()

    def _write_kept(self, asked: NDArray[np.int64], path: Path, skips: bool) -> None:
        schema = self.features.arrow_schema
        with arrow_writer(path, with_position(schema)) as writer:
            for shard in tqdm(np.unique(self.shard_of(asked)).tolist(), "Keeping", leave=False, disable=None):
                mine = asked[(asked >= self.starts[shard]) & (asked < self.starts[shard + 1])]
                for begin in range(0, len(mine), ROWS):
                    some = mine[begin : begin + ROWS]
                    try:
                        found = list(self._places(some))
                    except OSError:
                        if not skips:
                            raise
                        break
                    parts = [samples.with_format("arrow")[rows.tolist()].cast(schema) for rows, samples, _ in found]
                    # Rising, though some may have been kept before and others not.
                    order = np.concatenate([places for *_, places in found]).argsort()
                    writer.write_table(placed(pa.concat_tables(parts).take(pa.array(order)), some))
                if not self.keeps_shards:
                    self._open.pop(shard, None)
                    self._file(shard).unlink(missing_ok=True)
