"""What `datasets` does not tell of a stream: whether its shards are its samples in order, who makes them, and of
Parquet files how many samples each has. By private attributes of datasets 4 and 5, as tests/data/test_sharded.py pins.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import fsspec
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import torch
from datasets.packaged_modules.generator.generator import Generator
from datasets.packaged_modules.parquet.parquet import Parquet

from vecaf_hf.seeding import seed_of, seeded

# What gives other samples by shards than as a whole, or others each time.
REFUSED = {
    "TakeExamplesIterable": "take",
    "SkipExamplesIterable": "skip",
    "RepeatExamplesIterable": "repeat",
    "StepExamplesIterable": "step",
    "BufferShuffledExamplesIterable": "shuffle",
    "InterleavedShardsExamplesIterable": "shuffle",
    "CyclingMultiSourcesExamplesIterable": "interleave_datasets",
    "RandomlyCyclingMultiSourcesExamplesIterable": "interleave_datasets",
    "HorizontallyConcatenatedMultiSourcesExamplesIterable": "concatenate_datasets with axis=1",
}
MADE = ("MappedExamplesIterable", "FilteredExamplesIterable")
FILES_AT_ONCE = 16
# What file systems of fsspec tell of a file that changes when it is written anew.
CHANGING = ("size", "mtime", "ETag", "etag", "last_modified", "LastModified", "blob_id", "md5Hash")


def check_order(stream: datasets.IterableDataset) -> None:
    """Raise a ValueError unless each process, each time, finds the same samples in the same shards."""
    if getattr(stream, "_distributed", None) is not None:
        raise ValueError("the stream was split by node: give each process the whole, scoring deals it out")
    for one in _parts(stream._ex_iterable):
        how = REFUSED.get(type(one).__name__)
        if how is not None:
            raise ValueError(
                f"the stream was made by {how}, by which a sample has no place in a shard: give the stream without it. "
                "The selection chooses and shuffles; shuffle the shards' samples once, when they are written"
            )


def is_made(stream: datasets.IterableDataset) -> bool:
    """Whether the user's code makes the samples: a generator, `map` or `filter`."""
    parts = list(_parts(stream._ex_iterable))
    makers = [_builder(one) for one in parts]
    return stream.features is None or any(
        type(one).__name__ in MADE or isinstance(maker, Generator) for one, maker in zip(parts, makers, strict=True)
    )


def _parts(iterable: Any) -> Iterator[Any]:
    """What a stream is made of, from the last step to the files."""
    yield iterable
    for inner in [*(getattr(iterable, "ex_iterables", None) or []), getattr(iterable, "ex_iterable", None)]:
        if inner is not None:
            yield from _parts(inner)


def _builder(iterable: Any) -> Any:
    generate = getattr(iterable, "generate_tables_fn", None) or getattr(iterable, "generate_examples_fn", None)
    return getattr(generate, "__self__", None)


def _filters(builder: Any) -> bool:
    return getattr(builder.config, "filters", None) is not None


class ParquetPart(NamedTuple):
    """A shard: a file, or some of its row groups."""

    file: str
    row_groups: tuple[int, ...] | None


def parquet_parts(stream: datasets.IterableDataset) -> list[ParquetPart] | None:
    """The shards of a stream that gives the samples of Parquet files as they are stored; None of any other."""
    if is_made(stream):
        return None
    found: list[ParquetPart] = []
    for one in _parts(stream._ex_iterable):
        if _builder(one) is not None:
            files, builder = one.kwargs.get("files"), _builder(one)
            # Rows that are left out while reading are no rows of a file.
            if not isinstance(builder, Parquet) or not isinstance(files, list) or _filters(builder):
                return None
            # datasets 4.0 has an iterable for each.
            names = [[file] if isinstance(file, str) else list(file) for file in files]
            if any(len(some) != 1 for some in names):
                return None
            groups = one.kwargs.get("row_groups_list") or [None] * len(files)
            found += [ParquetPart(file, some) for (file,), some in zip(names, groups, strict=True)]
    return found if len(found) == stream.num_shards else None


class Counted(NamedTuple):
    """Of a shard of Parquet: its samples, a word that changes with its content, and a column."""

    size: int
    token: str
    column: Any


def counted(parts: list[ParquetPart], column: str | None) -> list[Counted]:
    """By the ends of the files; a column is read if one is named."""

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        return list(pool.map(lambda part: _counted(part, column), parts))


def _counted(part: ParquetPart, column: str | None) -> Counted:
    try:
        with fsspec.open(part.file) as opened:
            parquet = pyarrow.parquet.ParquetFile(opened)
            groups = list(part.row_groups or range(parquet.metadata.num_row_groups))
            size = sum(parquet.metadata.row_group(group).num_rows for group in groups)
            read = None if column is None else parquet.read_row_groups(groups, [column])[column]
        files, path = fsspec.url_to_fs(part.file)
        told = files.info(path)
    except (OSError, pa.ArrowException) as error:
        raise OSError(f"cannot read the Parquet file {part.file!r}: {type(error).__name__}: {error}") from error
    return Counted(size, repr([groups, *(told.get(name) for name in CHANGING)]), read)


# --- Reading ---

# Rows that are read at once, and those at the beginning of two shards that tell a stream from others.
ROWS, LOOKED_AT = 1000, 16


def features_of(stream: datasets.IterableDataset) -> datasets.Features:
    """A stream's features; by its first samples where it does not tell them."""
    if stream.features is not None:
        return stream.features
    for shard in range(stream.num_shards):
        one = stream.shard(num_shards=stream.num_shards, index=shard).with_format(None)
        with seeded(seed_of(shard)):
            first = next(iter(one.iter(batch_size=ROWS)), None)
        if first is not None:
            return datasets.Dataset.from_dict(first).features
    raise ValueError("the stream has no samples")


def tables(
    stream: datasets.IterableDataset, shard: int, features: datasets.Features, rows: int = ROWS
) -> Iterator[pa.Table]:
    """A shard as it is stored, some rows at a time; what is random in it is the same each time, and drawn at nobody's
    expense."""
    with seeded(seed_of(shard)) if is_made(stream) else nullcontext():
        yield from _tables(stream, shard, features, rows)


def _tables(stream: datasets.IterableDataset, shard: int, features: datasets.Features, rows: int) -> Iterator[pa.Table]:
    one = stream.shard(num_shards=stream.num_shards, index=shard)
    if stream.features is None:
        # Images and arrays of any kind.
        for batch in one.with_format(None).iter(batch_size=rows):
            yield _stored(batch, features)
        return
    schema, begun = features.arrow_schema, False
    # Sample by sample where several do not fit into one table: those of a tar have their columns in two orders
    # (datasets 5.2, webdataset with the format "arrow"; findings/tars_give_no_tables.sh).
    for size in (rows, 1):
        try:
            for table in one.with_format("arrow").iter(batch_size=size):
                begun = True
                yield table.select(schema.names).cast(schema)
            return
        except pa.ArrowInvalid:
            if begun:
                raise


def _stored(batch: dict[str, list[Any]], features: datasets.Features) -> pa.Table:
    """A batch that nobody told the features of, as a table; an error where these would change its values."""
    for name, values in batch.items():
        if isinstance(features[name], datasets.Image):
            batch[name] = [_without_loss(value) for value in values]
            continue
        (found,) = datasets.Dataset.from_dict({name: values}).features.values()
        if found not in (features[name], datasets.Value("null")):
            raise TypeError(
                f"column {name!r} is {features[name]} in the stream's first samples and {found} in others: tell the "
                "stream its features, as in map(..., features=...) or load_dataset(..., features=...)"
            )
    return datasets.Dataset.from_dict(batch, features=features).data.table


def _without_loss(picture: Any) -> Any:
    """An image as bytes; datasets would store one that was a JPEG as another JPEG."""
    if not isinstance(picture, PIL.Image.Image):
        return picture
    held = io.BytesIO()
    picture.save(held, "PNG" if picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else "TIFF")
    return {"bytes": held.getvalue(), "path": None}


def tensors_of(stream: datasets.IterableDataset) -> dict[str, torch.dtype]:
    """The columns in which a stream's first sample has a tensor."""
    if not is_made(stream) or getattr(stream, "_formatting", None) is not None:
        return {}
    with seeded(0):
        first: dict[str, Any] = next(iter(stream.with_format(None)), {})
    return {name: value.dtype for name, value in first.items() if isinstance(value, torch.Tensor)}


def fingerprint(stream: datasets.IterableDataset, features: datasets.Features) -> str:
    """A short hash of a stream's number of shards, and of what the first and the last begin with, as it is stored; the
    same wherever the files lie."""
    content = hashlib.sha256(str(stream.num_shards).encode())
    for shard in sorted({0, stream.num_shards - 1}):
        with suppress(OSError, pa.ArrowException):
            for table in tables(stream, shard, features, LOOKED_AT):
                for row in table.slice(0, LOOKED_AT).to_pylist():
                    content.update(repr(without_folders(row)).encode())
                break
    return content.hexdigest()[:16]


def without_folders(value: Any, key: str = "") -> Any:
    """A row as it is stored, of files their names alone: a dataset may move."""
    if isinstance(value, list):
        return [without_folders(held) for held in value]
    if isinstance(value, dict):
        return {name: without_folders(held, name) for name, held in value.items()}
    return Path(value).name if key in ("path", "__url__") and isinstance(value, str) else value
