"""Draws without replacement, against the chances of successive draws."""

from collections import Counter
from itertools import permutations

import pytest
import torch
from every_case import every_case

from vecaf_hf.selection.drawing import drawn

DRAWS = 4000


def counted(rates: torch.Tensor | None, size: int, count: int) -> Counter[tuple[int, ...]]:
    """Ordered draws, with their number."""
    found: Counter[tuple[int, ...]] = Counter()
    for seed in range(DRAWS):
        found[tuple(drawn(size, rates, count, torch.Generator().manual_seed(seed)).tolist())] += 1
    return found


def chance(rows: tuple[int, ...], rates: list[float]) -> float:
    """Of these rows in this order: each by its share of the rates that are left."""
    left, product = sum(rates), 1.0
    for row in rows:
        product *= rates[row] / left
        left -= rates[row]
    return product


@every_case("count", [1, 2, 3])
@every_case("scale", [1e-300, 1.0, 1e300])
def test_each_ordered_draw_is_as_likely_as_its_rates_say(count, scale):
    rates = [0.1, 0.2, 0.3, 1.0]
    found = counted(torch.tensor(rates, dtype=torch.float64) * scale, 4, count)
    for rows in permutations(range(4), count):
        assert found[rows] / DRAWS == pytest.approx(chance(rows, rates), abs=0.03)


@every_case("rates", [None, torch.zeros(4), torch.ones(4), torch.full((4,), 1e-45)], ids=str)
def test_equal_rates_zeros_among_them_are_equally_likely_in_every_order(rates):
    found = counted(rates, 4, 2)
    assert len(found) == 12
    # 333 expected, standard deviation 17.5
    assert min(found.values()) > 250 and max(found.values()) < 417


def test_rows_of_rate_zero_come_last_and_in_random_order():
    rates = torch.tensor([0.0, 5e-324, 0.0, 1e300, 0.0], dtype=torch.float64)
    found = counted(rates, 5, 5)
    assert {rows[:2] for rows in found} == {(3, 1)}
    assert {rows[2:] for rows in found} == set(permutations([0, 2, 4]))
    assert max(found.values()) < 1.2 * DRAWS / 6


@every_case("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.bool, torch.long])
def test_any_type_of_rates(dtype):
    rates = torch.tensor([0, 1, 1, 0]).to(dtype)
    assert set(drawn(4, rates, 2, torch.Generator().manual_seed(0)).tolist()) == {1, 2}


def test_all_rows_are_drawn_once():
    rates = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert drawn(50, rates, 50, torch.Generator().manual_seed(1)).sort().values.tolist() == list(range(50))
