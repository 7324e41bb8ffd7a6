"""The pool with a few images in snow and in fog: which, and what their captions say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from pools.corruptions import corrupt
from pools.domains import DOMAINS
from pools.making import make_pool

from vecaf_hf.seeding import seed_of

SIZE = 150


@pytest.fixture(scope="module")
def clean(fashion: Dataset) -> Dataset:
    """Three of each domain's hundredth: the images again, so that there are enough; one has no caption."""
    captions = [f"picture {number}" for number in range(SIZE)]
    captions[7] = ""
    few = fashion.remove_columns([name for name in fashion.column_names if name not in ("image", "label")])
    return few.select(range(SIZE)).add_column("caption", captions)


def stored(dataset: Dataset) -> list[bytes]:
    """Each image as its file holds it."""
    return [one["bytes"] for one in dataset.with_format("arrow")["image"].to_pylist()]


def test_a_hundredth_is_in_each_domain_and_says_so_and_the_others_are_untouched(clean: Dataset) -> None:
    pool = make_pool(clean, "domains", "label", "image", 0)
    count = round(SIZE / 100)
    assert len(pool) == SIZE and pool["label"] == clean["label"]
    names = np.array(pool["domain"])
    assert {name: int((names == name).sum()) for name in DOMAINS} == dict.fromkeys(DOMAINS, count)
    before, after = stored(clean), stored(pool)
    for row, name in enumerate(names):
        caption = clean[row]["caption"]
        if name:
            assert pool[row]["caption"] == f"{caption}, {DOMAINS[name]}"
            assert np.asarray(pool[row]["image"]).shape == (28, 28)
            assert not np.array_equal(pool[row]["image"], clean[row]["image"])
        else:
            assert pool[row]["caption"] == caption and after[row] == before[row]


def test_a_seed_draws_the_samples(clean: Dataset) -> None:
    def content(seed: int) -> tuple[list[str], list[bytes]]:
        pool = make_pool(clean, "domains", "label", "image", seed)
        return list(pool["domain"]), stored(pool)

    assert content(3) == content(3)
    assert content(3)[0] != content(4)[0]


def test_each_image_is_that_of_its_seed(clean: Dataset) -> None:
    """Pools that results were measured on can be made again."""
    pool = make_pool(clean, "domains", "label", "image", 5)
    generator = np.random.default_rng(5)
    order, seed = generator.permutation(SIZE), int(generator.integers(2**31))
    for number, (name, rows) in enumerate(zip(DOMAINS, order[:4].reshape(2, 2), strict=True)):
        for place, row in enumerate(rows.tolist()):
            expected = corrupt(clean[row]["image"], name, 3, seed_of(seed_of(seed, number), place))
            assert pool[row]["domain"] == name and np.array_equal(pool[row]["image"], expected)


def test_it_is_made_anew_with_another_working_size(
    clean: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean.to_parquet(tmp_path / "clean.parquet")

    def content() -> list[bytes]:
        read = Dataset.from_parquet(str(tmp_path / "clean.parquet"), cache_dir=str(tmp_path / "cache"))
        return stored(make_pool(read, "domains", "label", "image", 0))

    first = content()
    monkeypatch.setattr("pools.corruptions.WORKING_SIZE", 56)
    assert sum(one != other for one, other in zip(first, content(), strict=True)) == 4


def test_a_sample_without_a_caption_gets_none(clean: Dataset) -> None:
    silent = clean.remove_columns("caption").add_column("caption", [""] * SIZE)
    assert set(make_pool(silent, "domains", "label", "image", 0)["caption"]) == {""}


def test_the_smallest_pool_has_one_of_each(clean: Dataset) -> None:
    pool = make_pool(clean.select(range(4)), "domains", "label", "image", 0)
    assert sorted(pool["domain"]) == ["", "", "fog", "snow"]


def test_captions_are_needed(clean: Dataset) -> None:
    with pytest.raises(ValueError, match=r"no column 'caption'; its columns are image, label"):
        make_pool(clean.remove_columns("caption"), "domains", "label", "image", 0)


def test_a_column_of_domains_is_not_written_over(clean: Dataset) -> None:
    marked = clean.add_column("domain", ["night"] * SIZE)
    with pytest.raises(ValueError, match=r"has a column 'domain' already, which this pool adds: rename or remove it"):
        make_pool(marked, "domains", "label", "image", 0)


def test_an_image_that_cannot_be_read_is_named_by_its_place_in_the_pool(clean: Dataset) -> None:
    images = clean.with_format("arrow")["image"].to_pylist()
    row = int(np.random.default_rng(0).permutation(SIZE)[3])
    images[row] = {"bytes": b"no image", "path": None}
    broken = clean.remove_columns("image").add_column("image", images, feature=clean.features["image"])
    with pytest.raises(ValueError, match=rf"the image of sample {row} .column 'image'. cannot be read"):
        make_pool(broken, "domains", "label", "image", 0)
