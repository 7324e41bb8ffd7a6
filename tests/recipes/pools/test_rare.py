"""What selections have of the few images that a pool has under each condition."""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset
from every_case import every_case
from PIL import Image
from pools.rare import CONDITION, DOMAIN, rare_shares, with_rare


@every_case("column", [DOMAIN, CONDITION])
def test_each_conditions_part_of_the_pool_and_of_each_selection(column: str) -> None:
    pool = Dataset.from_dict({column: ["fog", "", "snow", "snow", "", "", "", ""]})
    chosen = [torch.tensor([0, 1, 2, 3]), torch.tensor([5, 3])]
    found = rare_shares(pool.with_transform(lambda batch: batch), chosen)
    assert found == {"snow": {"pool": 0.25, "selected": [0.5, 0.5]}, "fog": {"pool": 0.125, "selected": [0.25, 0.0]}}
    assert [*found] == ["snow", "fog"]


def test_a_column_of_the_datasets_own_tells_conditions_too() -> None:
    pool = Dataset.from_dict({"camera": ["old", "new", "new", "worn"], "condition": ["snow", "", "", ""]})
    found = rare_shares(pool, [torch.tensor([0, 1])], {"camera": ["old", "worn", "lost"]})
    assert found == {
        "snow": {"pool": 0.25, "selected": [0.5]},
        "old": {"pool": 0.25, "selected": [0.5]},
        "worn": {"pool": 0.25, "selected": [0.0]},
    }


def test_of_other_pools_there_is_nothing_to_tell() -> None:
    selections = [torch.tensor([0])]
    assert rare_shares(Dataset.from_dict({"label": [0, 1]}), selections) == {}
    assert rare_shares(Dataset.from_dict({"condition": ["used", "new"]}), selections) == {}
    assert rare_shares([1, 2], selections) == {}


def test_a_condition_has_one_image_at_least() -> None:
    few = Dataset.from_dict({"image": [Image.new("L", (8, 8), 40 * number) for number in range(6)]})
    pool = with_rare(few, "image", CONDITION, ["inverted", "rotated"], np.random.default_rng(0), part=0.01)
    assert sorted(pool[CONDITION]) == ["", "", "", "", "inverted", "rotated"]
