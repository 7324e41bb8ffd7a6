"""The pool that hides conditions: which images, what tells of them, and that it is made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from every_case import every_case
from pools import conditions, corruptions
from pools.hidden import PHRASES, HiddenOptions
from pools.making import make_pool
from pools.rare import CONDITION

SIZE = 150
FOUR = ("inverted", "rotated", "snow", "fog")


@pytest.fixture(scope="module")
def plain(fashion: Dataset) -> Dataset:
    few = fashion.remove_columns([name for name in fashion.column_names if name not in ("image", "label")])
    return few.select(range(SIZE)).add_column("caption", [f"picture {number}" for number in range(SIZE)])


def hidden(dataset: Dataset, seed: int = 0, **options: Any) -> Dataset:
    return make_pool(dataset, "hidden", "label", "image", seed, options=HiddenOptions(**options))


def stored(dataset: Dataset) -> list[bytes]:
    """Each image as its file holds it."""
    return [one["bytes"] for one in dataset.with_format("arrow")["image"].to_pylist()]


def test_a_hundredth_is_under_each_condition_and_nothing_else_tells(plain: Dataset) -> None:
    pool = make_pool(plain, "hidden", "label", "image", 0)
    names, before, after = list(pool[CONDITION]), stored(plain), stored(pool)
    assert {name: names.count(name) for name in FOUR} == dict.fromkeys(FOUR, round(SIZE / 100))
    assert pool["label"] == plain["label"] and pool["caption"] == plain["caption"]
    assert {*pool.column_names} - {*plain.column_names} == {CONDITION}
    for row, name in enumerate(names):
        image, was = (np.asarray(one[row]["image"]) for one in (pool, plain))
        if name == "inverted":
            assert np.array_equal(image, 255 - was)
        elif name == "rotated":
            assert np.array_equal(image, np.rot90(was))
        elif name:
            assert image.shape == was.shape and not np.array_equal(image, was)
        else:
            assert after[row] == before[row]


def test_captions_say_the_condition_when_asked_to(plain: Dataset) -> None:
    pool = hidden(plain, say=True, conditions=["rotated", "motion_blur"])
    said = {"rotated": PHRASES["rotated"], "motion_blur": "with motion blur"}
    for row, name in enumerate(pool[CONDITION]):
        assert pool[row]["caption"] == f"picture {row}" + (f", {said[name]}" if name else "")
    # Without, none are needed.
    silent = plain.remove_columns("caption")
    assert "caption" not in hidden(silent).column_names
    with pytest.raises(ValueError, match="no column 'caption'"):
        hidden(silent, say=True)


def test_options_choose_conditions_part_and_severity(plain: Dataset) -> None:
    pool = hidden(plain, conditions=["fog"], part=0.1, severity=1)
    assert list(pool[CONDITION]).count("fog") == 15 and {*pool[CONDITION]} == {"", "fog"}
    assert stored(pool) != stored(hidden(plain, conditions=["fog"], part=0.1, severity=5))


def test_a_seed_draws_the_samples(plain: Dataset) -> None:
    assert hidden(plain, 3)[CONDITION] == hidden(plain, 3)[CONDITION] != hidden(plain, 4)[CONDITION]


def test_a_second_run_makes_no_image(plain: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.to_parquet(tmp_path / "plain.parquet")

    def content() -> list[bytes]:
        return stored(hidden(Dataset.from_parquet(str(tmp_path / "plain.parquet"), cache_dir=str(tmp_path / "cache"))))

    first = content()
    monkeypatch.setattr(corruptions, "corrupt", lambda *_: pytest.fail("made again"))
    monkeypatch.setattr(conditions, "PLAIN", dict.fromkeys(conditions.PLAIN, lambda _: pytest.fail("made again")))
    assert content() == first


@every_case(
    ("options", "says"),
    [
        ({"conditions": ["smog"]}, r"condition is 'smog'; choose one of inverted, rotated, snow"),
        ({"conditions": "fog"}, "conditions is 'fog'; it must be a list of names"),
        ({"conditions": ["fog", "fog"]}, "which has one of them twice"),
        ({"severity": 9}, "severity is 9"),
        ({"part": 0.3}, "part is 0.3, of 4 conditions: more than the whole pool"),
        ({"say": "yes"}, "say is 'yes'; it must be true or false"),
        ({"tested": 0}, "tested is 0"),
    ],
)
def test_options_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        HiddenOptions(**options)


def test_a_pool_needs_an_image_for_each_condition_and_no_such_column(plain: Dataset) -> None:
    with pytest.raises(ValueError, match="the dataset has 3 samples, too few for 4 conditions of 1 each"):
        hidden(plain.select(range(3)))
    with pytest.raises(ValueError, match="has a column 'condition' already"):
        hidden(plain.add_column(CONDITION, [""] * SIZE))
