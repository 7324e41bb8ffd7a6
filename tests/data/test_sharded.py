"""A stream by position, against the same samples in memory: Parquet files, tars, generators; what is read and kept."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import (
    ClassLabel,
    Dataset,
    Features,
    Image,
    IterableDataset,
    Value,
    concatenate_datasets,
    interleave_datasets,
    load_dataset,
)
from every_case import every_case
from torch.utils.data import DataLoader

from vecaf_hf import ShardedDataset
from vecaf_hf.data import shards as shards_module
from vecaf_hf.data.indexed import Draw, IndexedDataset
from vecaf_hf.data.shard_order import shards_of_loop
from vecaf_hf.data.streams import is_made

# Shards of unequal sizes, one of them empty.
SIZES = (7, 3, 0, 10)
NUMBER = sum(SIZES)


@pytest.fixture
def samples() -> Dataset:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (6, 6, 3), dtype=np.uint8) for _ in range(NUMBER)]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"])})
    return Dataset.from_dict({"image": pictures, "label": [index % 3 for index in range(NUMBER)]}, features=features)


def parquet(samples: Dataset, folder: Path, sizes: tuple[int, ...] = SIZES) -> list[str]:
    files, begun = [], 0
    for shard, size in enumerate(sizes):
        files.append(str(folder / f"{shard}.parquet"))
        samples.select(range(begun, begun + size)).to_parquet(files[-1])
        begun += size
    return files


def streamed(samples: Dataset, folder: Path) -> IterableDataset:
    return load_dataset("parquet", data_files=parquet(samples, folder), split="train", streaming=True)


def assert_same(sharded: ShardedDataset, samples: Dataset, positions: list[int]) -> None:
    found = sharded.__getitems__(positions)
    for position, item in zip(positions, found, strict=True):
        expected = samples[position]
        assert list(item) == list(expected)
        assert item["label"] == expected["label"]
        assert np.array_equal(np.array(item["image"]), np.array(expected["image"]))


def test_a_stream_is_told_from_others_by_its_first_and_last_shard(samples, tmp_path):
    order = list(range(NUMBER))
    orders = {"plain": order, "first": [1, 0, *order[2:]], "last": [*order[:-2], NUMBER - 1, NUMBER - 2]}
    found = {}
    for name, rows in orders.items():
        (tmp_path / name).mkdir()
        stream = streamed(samples.select(rows), tmp_path / name)
        found[name] = ShardedDataset(stream, tmp_path / name / "kept").shards.fingerprint
    assert len(set(found.values())) == 3


POSITIONS = [19, 0, 6, 7, 9, 10, 10, 3]


def test_samples_by_position(samples, tmp_path):
    sharded = ShardedDataset(streamed(samples, tmp_path), tmp_path / "kept")
    assert len(sharded) == NUMBER and sharded.shards.sizes == list(SIZES)
    assert sharded.targets.tolist() == samples["label"] and sharded.column_names == ["image", "label"]
    assert_same(sharded, samples, POSITIONS)
    assert_same(sharded, samples, list(range(NUMBER)))
    with pytest.raises(IndexError, match="none of 20 samples"):
        sharded[NUMBER]


def test_of_parquet_files_only_what_is_asked_for_is_read(samples, tmp_path, monkeypatch):
    read = []
    tables = shards_module.tables
    monkeypatch.setattr(
        shards_module, "tables", lambda stream, shard, *how: read.append(shard) or tables(stream, shard, *how)
    )
    sharded = ShardedDataset.from_parquet(parquet(samples, tmp_path), tmp_path / "kept")
    assert sharded.shards.sizes == list(SIZES) and sharded.targets.tolist() == samples["label"]
    assert_same(sharded, samples, [8, 9, 8])
    assert_same(sharded, samples, [7])
    assert read == [1]


def test_what_a_generator_or_a_map_makes(samples, tmp_path):
    def generate(parts: list[int]) -> Any:
        for part in parts:
            yield from samples.select(range(5 * part, 5 * part + 5))

    made = IterableDataset.from_generator(generate, gen_kwargs={"parts": [0, 1, 2, 3]})
    assert made.features is None
    assert_same(ShardedDataset(made, tmp_path / "generated"), samples, POSITIONS)
    doubled = streamed(samples, tmp_path).map(lambda row: {"image": row["image"], "label": 2 * row["label"]})
    sharded = ShardedDataset(doubled, tmp_path / "mapped")
    assert [sharded[position]["label"] for position in POSITIONS] == [
        2 * samples[position]["label"] for position in POSITIONS
    ]


def test_tars_of_webdataset(samples, tmp_path):
    files = []
    for shard in range(2):
        files.append(str(tmp_path / f"{shard}.tar"))
        with tarfile.open(files[-1], "w") as tar:
            for index in range(10 * shard, 10 * shard + 10):
                stored = io.BytesIO()
                samples[index]["image"].save(stored, "png")
                parts = {"png": stored.getvalue(), "cls": str(index % 3).encode(), "json": json.dumps({}).encode()}
                for kind in ("png", "cls"):
                    info = tarfile.TarInfo(f"{index:04d}.{kind}")
                    info.size = len(parts[kind])
                    tar.addfile(info, io.BytesIO(parts[kind]))
    stream = load_dataset("webdataset", data_files=files, split="train", streaming=True)
    sharded = ShardedDataset(stream, tmp_path / "kept", label_column="cls")
    assert sharded.targets.tolist() == samples["label"]
    for position in POSITIONS:
        assert np.array_equal(np.array(sharded[position]["png"]), np.array(samples[position]["image"]))


def test_a_selection_alone_is_kept(samples, tmp_path):
    folder = tmp_path / "kept"
    stream = streamed(samples, tmp_path)
    sharded = ShardedDataset(stream, folder)
    assert_same(sharded, samples, list(range(10)))
    for selected in ([2, 19, 8], [0, 1, 2], list(range(NUMBER))):
        sharded.shards.keep(torch.tensor(selected))
        assert {file.name for file in folder.rglob("*.arrow")} == {"kept.arrow"}
        Path(tmp_path / "0.parquet").rename(tmp_path / "away")
        assert_same(sharded, samples, selected)
        Path(tmp_path / "away").rename(tmp_path / "0.parquet")
        again = ShardedDataset(stream, folder)
        assert_same(again, samples, selected)
    sharded.shards.keep(torch.tensor([5]))
    # Whatever else is asked for is fetched once more.
    assert_same(sharded, samples, POSITIONS)


def test_shards_can_stay(samples, tmp_path):
    sharded = ShardedDataset(streamed(samples, tmp_path), tmp_path / "kept")
    sharded.keeps_shards = True
    assert_same(sharded, samples, [0, 8])
    sharded.shards.keep(torch.tensor([19]))
    assert sorted(file.name for file in (tmp_path / "kept").rglob("shard-*.arrow")) == [
        f"shard-{shard:06d}.arrow" for shard in (0, 1, 3)
    ]


@every_case("workers", [0, 2])
def test_workers_read_it_as_they_read_a_dataset(workers, samples, tmp_path):
    def plus(batch: dict[str, list[Any]]) -> dict[str, Any]:
        return {"mean": [float(np.mean(image)) for image in batch["image"]], "labels": batch["label"]}

    sharded = ShardedDataset(streamed(samples, tmp_path), tmp_path / "kept").with_transform(plus)
    draws = [Draw(position) for position in POSITIONS]

    def loaded(dataset: Any) -> list[Any]:
        return list(DataLoader(IndexedDataset(dataset, 0), 3, sampler=draws, num_workers=workers, collate_fn=list))

    assert loaded(sharded) == loaded(samples.with_transform(plus))


def test_the_format_of_the_stream_is_kept(samples, tmp_path):
    stream = streamed(samples, tmp_path).remove_columns("image").with_format("torch")
    item = ShardedDataset(stream, tmp_path / "kept")[4]
    assert torch.equal(item["label"], torch.tensor(1))


@every_case("sizes", [[5] * 4, [20_000] * 49 + [19_983], [10] * 90 + [200] * 10, [3, 0, 50, 1]])
@every_case("part", [0.02, 0.3])
def test_no_shard_comes_again_before_all_have_come(sizes, part):
    count, usable, times, loop = max(1, round(part * sum(sizes))), torch.tensor(sizes), Counter(range(len(sizes))), 0
    while sum(times.values()) < 4 * len(sizes):
        mine = shards_of_loop(sizes, usable, count, 3, loop)
        assert sum(sizes[shard] for shard in mine) >= count and mine == sorted(set(mine))
        times.update(mine)
        # Where a loop ends one order and begins the next, a shard may lose a turn that it has had already.
        assert max(times.values()) - min(times.values()) <= 2
        loop += 1


def test_a_loop_has_as_many_usable_samples_as_it_asks_for(samples, tmp_path):
    shards = ShardedDataset.from_parquet(parquet(samples, tmp_path, (5, 5, 5, 5)), tmp_path / "kept").shards
    whole = [set(shards.part(torch.arange(NUMBER), 7, 3, loop).tolist()) for loop in range(2)]
    assert len(whole[0]) == len(whole[1]) == 10 and not whole[0] & whole[1]
    # One sample of each shard is left.
    assert len(shards.part(torch.tensor([0, 5, 10, 15]), 3, 3, 0)) == 3
    assert shards.part(torch.arange(NUMBER), 7, 3, 0).tolist() == sorted(whole[0])


def test_a_stream_that_gives_other_samples_is_told(samples, tmp_path):
    def generate(parts: list[int]) -> Any:
        yield from ({"label": index} for index in range(4))

    folder = tmp_path / "kept"
    stream = IterableDataset.from_generator(generate, gen_kwargs={"parts": [0]})
    sharded = ShardedDataset(stream, folder, sizes=[5])
    with pytest.raises(OSError, match="shard 0 of the stream has 4 samples, and had 5"):
        sharded[0]
    assert not list(folder.rglob("*.tmp"))


def test_a_file_that_was_written_anew_is_read_anew(samples, tmp_path):
    """In the middle, with as many samples, in a folder that has the old ones."""
    files = parquet(samples, tmp_path, (5, 5, 5, 5))
    old = ShardedDataset.from_parquet(files, tmp_path / "kept")
    old.shards.keep(torch.arange(NUMBER))
    other = samples.select([*range(5), *range(14, 9, -1), *range(10, 20)])
    parquet(other, tmp_path, (5, 5, 5, 5))
    new = ShardedDataset.from_parquet(files, tmp_path / "kept")
    assert_same(new, other, list(range(NUMBER)))


def test_each_label_column_has_its_own_counts(tmp_path):
    def generate(parts: list[int]) -> Any:
        for part in parts:
            yield from ({"fine": 10 * part + index, "coarse": part} for index in range(3))

    stream = IterableDataset.from_generator(generate, gen_kwargs={"parts": [0, 1]})
    for column in ("fine", "coarse"):
        sharded = ShardedDataset(stream, tmp_path, label_column=column)
        assert sharded.targets.tolist() == sharded.read_column(column)
    assert sharded.targets.tolist() == [0, 0, 0, 1, 1, 1]


def test_who_makes_the_samples(samples, tmp_path):
    """`datasets` does not tell it: private attributes of its versions are read."""
    files = streamed(samples, tmp_path)
    told = samples.features

    def generate(parts: list[int]) -> Any:
        yield from samples

    assert not is_made(files) and not is_made(files.select_columns(["label"]))
    assert is_made(files.map(lambda row: row, features=told)) and is_made(files.filter(lambda row: True))
    assert is_made(IterableDataset.from_generator(generate, features=told, gen_kwargs={"parts": [0]}))
    if hasattr(files, "reshard"):  # Not in datasets 4.0.
        groups = ShardedDataset(files.reshard(), tmp_path / "kept")
        assert_same(groups, samples, list(range(NUMBER)))
    both = concatenate_datasets([files, files])
    assert len(ShardedDataset(both, tmp_path / "kept")) == 2 * NUMBER


def test_labels_that_were_written_anew_are_read_anew(samples, tmp_path):
    files = parquet(samples, tmp_path, (5, 5, 5, 5))
    ShardedDataset.from_parquet(files, tmp_path / "kept").shards.keep(torch.arange(NUMBER))
    other = samples.map(lambda row: {"label": 2 - row["label"]}, features=samples.features)
    parquet(other, tmp_path, (5, 5, 5, 5))
    new = ShardedDataset.from_parquet(files, tmp_path / "kept")
    assert new.targets.tolist() == other["label"] == [item["label"] for item in new.__getitems__(list(range(NUMBER)))]


def test_rows_that_are_filtered_while_reading_are_no_samples(samples, tmp_path):
    files, only = parquet(samples, tmp_path), [("label", "==", 1)]
    stream = load_dataset("parquet", data_files=files, split="train", streaming=True, filters=only)
    sharded = ShardedDataset(stream, tmp_path / "kept")
    assert [sharded[index]["label"] for index in range(len(sharded))] == [1] * samples["label"].count(1)


def test_what_is_made_keeps_its_values(tmp_path):
    """Tensors stay tensors, JPEGs lose nothing, and numbers that the first samples' kind would change are an error."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    held = io.BytesIO()
    PIL.Image.fromarray(noise).save(held, "jpeg", quality=95)

    def generate(parts: list[int]) -> Any:
        for part in parts:
            pixels = torch.full((2, 3), 200 + part, dtype=torch.uint8)
            yield {"pixels": pixels, "image": PIL.Image.open(io.BytesIO(held.getvalue())), "label": part}

    def numbers(parts: list[float]) -> Any:
        yield from ({"x": part} for part in parts)

    stream = IterableDataset.from_generator(generate, gen_kwargs={"parts": [0, 1]})
    item = ShardedDataset(stream, tmp_path / "made")[1]
    assert torch.equal(item["pixels"], torch.full((2, 3), 201, dtype=torch.uint8)) and item["label"] == 1
    assert np.array_equal(np.array(item["image"]), np.array(PIL.Image.open(io.BytesIO(held.getvalue()))))
    mixed = IterableDataset.from_generator(numbers, gen_kwargs={"parts": [1, 2.5]})
    with pytest.raises(TypeError, match=r"column 'x' is .*int64.* in the stream's first samples and .*float64"):
        ShardedDataset(mixed, tmp_path / "mixed")


@every_case("how", ["map", "generator"])
def test_what_is_random_when_samples_are_made_is_the_same_each_time(how, samples, tmp_path):
    told = Features({"value": Value("float64"), "label": Value("int64")})

    def generate(parts: list[int]) -> Any:
        yield from ({"value": float(torch.rand(())), "label": part} for part in parts for _ in range(3))

    stream = IterableDataset.from_generator(generate, features=told, gen_kwargs={"parts": [0, 1]})
    if how == "map":
        files = streamed(samples, tmp_path).remove_columns("image")
        stream = files.map(lambda row: {"value": float(torch.rand(())), **row}, features=told)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = [ShardedDataset(stream, tmp_path / name).__getitems__([0, 4, 5]) for name in ("one", "other")]
    assert found[0] == found[1] and len({item["value"] for item in found[0]}) > 1
    assert torch.equal(torch.get_rng_state(), before)


def test_a_shard_that_cannot_be_read_is_tried_once_a_boundary(samples, tmp_path):
    sharded = ShardedDataset.from_parquet(parquet(samples, tmp_path), tmp_path / "kept")
    whole = (tmp_path / "1.parquet").read_bytes()
    (tmp_path / "1.parquet").write_bytes(whole[:100])
    with pytest.raises(OSError, match="shard 1 of the stream cannot be read: "):
        sharded[8]
    (tmp_path / "1.parquet").write_bytes(whole)
    with pytest.raises(OSError, match="shard 1 of the stream cannot be read: "):
        sharded[9]
    assert_same(sharded, samples, [0, 10])
    sharded.shards.release()
    assert_same(sharded, samples, [8, 9])


def test_what_is_refused(samples, tmp_path):
    from datasets.distributed import split_dataset_by_node

    stream = streamed(samples, tmp_path)
    with pytest.raises(ValueError, match="sizes has 3 entries, and the stream has 4 shards"):
        ShardedDataset(stream, tmp_path / "kept", sizes=[1, 2, 3])
    with pytest.raises(ValueError, match="split by node"):
        ShardedDataset(split_dataset_by_node(stream, 0, 2), tmp_path / "kept")
    for how, changed in (("take", stream.take(6)), ("skip", stream.skip(2)), ("shuffle", stream.shuffle())):
        with pytest.raises(ValueError, match=f"the stream was made by {how}"):
            ShardedDataset(changed, tmp_path / "kept")
    with pytest.raises(ValueError, match="the stream was made by interleave_datasets"):
        ShardedDataset(interleave_datasets([stream, stream]), tmp_path / "kept")
    with pytest.raises(ValueError, match="label_column is 'class', and the dataset's columns are image, label"):
        ShardedDataset(stream, tmp_path / "kept", label_column="class")
