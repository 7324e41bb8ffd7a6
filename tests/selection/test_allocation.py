"""Shares of the budget against their definition."""

from fractions import Fraction
from itertools import product

import pytest
import torch
from every_case import every_case
from hypothesis import given, settings
from hypothesis import strategies as st

from vecaf_hf.selection.allocation import ClassShares, class_cells, class_claims, shares
from vecaf_hf.selection.candidates import Turn

Problem = tuple[int, list[float], list[int]]
FIRST = Turn(0)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """(budget, claims, capacities)."""
    classes = draw(st.integers(1, 8))
    capacities = draw(st.lists(st.integers(0, 12), min_size=classes, max_size=classes).filter(any))
    claim = st.one_of(st.integers(0, 5).map(float), st.floats(1e-45, 1e6))
    claims = draw(st.lists(claim, min_size=classes, max_size=classes))
    return draw(st.integers(1, sum(capacities))), claims, capacities


def run(budget: int, claims: list[float], capacities: list[int], turn: Turn = FIRST) -> list[int]:
    return shares(budget, torch.tensor(claims, dtype=torch.float64), torch.tensor(capacities), turn).tolist()


@settings(deadline=None, max_examples=300)
@given(problems())
def test_shares_keep_to_budget_capacity_and_claims(problem):
    budget, claims, capacities = problem
    given_ = run(budget, claims, capacities)
    assert sum(given_) == budget
    assert all(0 <= share <= capacity for share, capacity in zip(given_, capacities, strict=True))
    open_ = [c for c in range(len(claims)) if given_[c] < capacities[c]]
    for a, b in product(open_, open_):
        if claims[a] == claims[b]:
            assert abs(given_[a] - given_[b]) <= 1
        if claims[a] > claims[b]:
            assert given_[a] >= given_[b] - 1
    if len(open_) == len(claims) and sum(claims) > 0:
        for share, claim in zip(given_, claims, strict=True):
            assert abs(share - budget * claim / sum(claims)) < 1 + 1e-6


def water_level(budget: int, claims: list[int], capacities: list[int]) -> list[Fraction]:
    """The real shares: proportional to the claims, what a full class cannot take going to the others."""
    level = [Fraction(0)] * len(claims)
    open_ = [c for c in range(len(claims)) if capacities[c] > 0]
    left = Fraction(budget)
    while left > 0:
        if not any(claims[c] for c in open_):
            claims = [1 if c in open_ else 0 for c in range(len(claims))]
        total = sum(claims[c] for c in open_)
        exact = {c: left * claims[c] / total for c in open_}
        full = [c for c in open_ if exact[c] >= capacities[c]]
        if not full:
            for c in open_:
                level[c] = exact[c]
            break
        for c in full:
            level[c] = Fraction(capacities[c])
            left -= capacities[c]
        open_ = [c for c in open_ if c not in full]
    return level


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=4).filter(
        lambda classes: any(capacity for _, capacity in classes)
    ),
    st.data(),
)
def test_shares_are_the_whole_numbers_nearest_to_the_exact_ones(classes, data):
    claims, capacities = [claim for claim, _ in classes], [capacity for _, capacity in classes]
    budget = data.draw(st.integers(1, sum(capacities)))
    exact = water_level(budget, claims, capacities)

    def distance(counts: tuple[int, ...]) -> Fraction:
        return sum((Fraction(a) - b) ** 2 for a, b in zip(counts, exact, strict=True))

    grid = product(*(range(capacity + 1) for capacity in capacities))
    least = min(distance(counts) for counts in grid if sum(counts) == budget)
    assert distance(tuple(run(budget, [float(c) for c in claims], capacities))) == least


def test_shares_of_known_cases():
    assert sorted(run(7, [1, 1, 1], [9, 9, 9])) == [2, 2, 3]
    assert run(7, [1, 1, 1], [9, 1, 9]) == [3, 1, 3]
    assert run(10, [3, 1, 0], [10, 10, 10]) in ([8, 2, 0], [7, 3, 0])
    assert run(10, [7, 3.1, 0], [10, 10, 10]) == [7, 3, 0]
    assert run(6, [1, 0, 0], [2, 5, 5]) == [2, 2, 2]
    assert run(6, [0, 0], [9, 9]) == [3, 3]
    assert run(12, [5, 1, 1], [4, 4, 4]) == [4, 4, 4]
    assert run(2, [1, 1], [0, 2]) == [0, 2]


@every_case(("budget", "count"), [(10, 20), (3, 20), (30, 20), (7, 3), (5, 9)])
@every_case("seed", range(3))
def test_equal_claims_have_what_is_left_over_in_turn(budget, count, seed):
    total = [0] * count
    for loop in range(3 * count):
        due = run(budget, [1.0] * count, [50] * count, Turn(seed, loop))
        assert max(due) - min(due) <= 1
        total = [a + b for a, b in zip(total, due, strict=True)]
        # Never two ahead, after however many loops.
        assert max(total) - min(total) <= 1
    assert len(set(total)) == 1


def test_the_seed_draws_whose_turn_is_first():
    firsts = [run(1, [1.0] * 4, [9] * 4, Turn(seed)).index(1) for seed in range(800)]
    # 200 expected, standard deviation 12
    assert all(150 < firsts.count(place) < 250 for place in range(4))


def test_only_equal_remainders_take_turns():
    """2.5, 2.5 and 1, whose remainders are computed; the largest share and the last are never touched."""
    found = {tuple(run(10, [0.4, 0.25, 0.25, 0.1], [9] * 4, Turn(0, loop))) for loop in range(4)}
    assert found == {(4, 3, 2, 1), (4, 2, 3, 1)}
    # A third of each in floating point, and all of them equal all the same.
    totals = [
        sum(column)
        for column in zip(*(run(1, [0.1, 0.3 - 0.2, 1e-1], [9] * 3, Turn(0, loop)) for loop in range(6)), strict=True)
    ]
    assert totals == [2, 2, 2]


@every_case("class_balance", [0, 0.0, 0.25, 0.5, 1, 1.0])
def test_claims_are_powers_of_the_sizes(class_balance):
    sizes = [1, 2, 30, 400]
    found = class_claims(torch.tensor(sizes), class_balance)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([size ** (1 - class_balance) for size in sizes], rel=1e-12)


LABELS = torch.tensor([4] * 10 + [0] * 6 + [7] * 2)
WEIGHTS = torch.tensor([1.0] * 10 + [2.0] * 6 + [0.0] * 2)


@every_case(
    ("allocation", "class_balance", "expected"),
    [
        # class 0 has 6 samples of weight 2, class 4 has 10 of weight 1, class 7 has 2 of none
        ("class", 1.0, {0: 3, 4: 3, 7: 2}),
        ("class", 0.0, {0: 3, 4: 4, 7: 1}),
        # 2.79, 3.60 and 1.61
        ("class", 0.5, {0: 3, 4: 3, 7: 2}),
        ("class_loss", 1.0, {0: 5, 4: 3}),
    ],
)
def test_budgets_by_class(allocation, class_balance, expected):
    order = torch.randperm(18, generator=torch.Generator().manual_seed(0))
    labels, weights = LABELS[order], WEIGHTS[order]
    cells = class_cells(labels, weights, 8, allocation, ClassShares(FIRST, class_balance))
    assert {int(labels[cell.rows[0]]): cell.budget for cell in cells} == expected
    for cell in cells:
        (label,) = labels[cell.rows].unique().tolist()
        assert cell.rows.tolist() == (labels == label).nonzero().squeeze(1).tolist()


def test_claims_may_follow_other_sizes_than_those_here():
    """Of a part of a pool of 64, 16 and 4 samples that has as many of each, or all that there are."""
    labels = torch.tensor([5] * 10 + [1] * 10 + [3] * 4)
    sizes = torch.tensor([64] * 10 + [16] * 10 + [4] * 4)
    for class_balance, expected in ((0.0, {5: 10, 1: 3, 3: 1}), (0.5, {5: 8, 1: 4, 3: 2}), (1.0, {5: 5, 1: 5, 3: 4})):
        cells = class_cells(labels, torch.ones(24), 14, "class", ClassShares(FIRST, class_balance, sizes))
        assert {int(labels[cell.rows[0]]): cell.budget for cell in cells} == expected


@every_case(("labels", "allocation"), [(LABELS, "global"), (None, "class"), (None, "class_loss"), (None, "global")])
def test_one_cell_holds_everything(labels, allocation):
    (cell,) = class_cells(labels, WEIGHTS, 9, allocation, ClassShares(FIRST))
    assert cell.rows.tolist() == list(range(18)) and cell.budget == 9


@every_case("labels", [torch.zeros(18, 3, dtype=torch.long), torch.zeros(18)])
@every_case("allocation", ["class", "class_loss"])
def test_labels_that_are_not_one_class_per_sample_are_refused(labels, allocation):
    with pytest.raises(ValueError, match=rf'allocation="{allocation}" needs one class per sample'):
        class_cells(labels, WEIGHTS, 9, allocation, ClassShares(FIRST))
    assert len(class_cells(labels, WEIGHTS, 9, "global", ClassShares(FIRST))) == 1


def test_the_whole_pool_is_every_class_in_full():
    cells = class_cells(LABELS, WEIGHTS, 18, "class_loss", ClassShares(FIRST))
    assert [(len(cell.rows), cell.budget) for cell in cells] == [(6, 6), (10, 10), (2, 2)]
