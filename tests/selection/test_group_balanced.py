"""Equal numbers of each group of each class, counted."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from every_case import every_case

from vecaf_hf.selection import STRATEGIES, Candidates, SelectionOptions, run_strategy
from vecaf_hf.selection.candidates import Turn
from vecaf_hf.selection.chance import cell_shares


def run(candidates: Candidates, budget: int, seed: int = 0, **options: float) -> torch.Tensor:
    options = SelectionOptions(strategy="group_balanced", **options)
    return run_strategy(STRATEGIES["group_balanced"], candidates, budget, options, seed).indices


def pool_of(sizes: dict[tuple[int, int], int]) -> Candidates:
    """So many samples of each (class, group), mixed."""
    cells = torch.tensor([cell for cell, count in sizes.items() for _ in range(count)])
    cells = cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))]
    return Candidates(torch.arange(len(cells)), labels=cells[:, 0], groups=cells[:, 1])


def counted(pool: Candidates, chosen: torch.Tensor) -> dict[tuple[int, int], int]:
    assert pool.labels is not None and pool.groups is not None
    return Counter(zip(pool.labels[chosen].tolist(), pool.groups[chosen].tolist(), strict=True))


@every_case(
    ("budget", "class_balance", "due"),
    [
        (12, 1.0, {(0, 0): 2, (0, 7): 2, (1, 0): 4, (4, 7): 4}),
        (24, 1.0, {(0, 0): 4, (0, 7): 4, (1, 0): 8, (4, 7): 8}),
        # The rare group gives all that it has, and the other of its class takes the rest.
        (36, 1.0, {(0, 0): 7, (0, 7): 5, (1, 0): 12, (4, 7): 12}),
        # Two classes give all that they have.
        (100, 1.0, {(0, 0): 35, (0, 7): 5, (1, 0): 30, (4, 7): 30}),
        (125, 1.0, {(0, 0): 60, (0, 7): 5, (1, 0): 30, (4, 7): 30}),
        # Classes of 65, 30 and 30.
        (25, 0.0, {(0, 0): 8, (0, 7): 5, (1, 0): 6, (4, 7): 6}),
        # 65^0.5 : 30^0.5 is 8.06 : 5.48, of 38 16.1 and 10.9.
        (38, 0.5, {(0, 0): 11, (0, 7): 5, (1, 0): 11, (4, 7): 11}),
    ],
)
def test_every_class_and_every_group_inside_it_has_an_equal_share(budget, class_balance, due):
    pool = pool_of({(0, 0): 60, (0, 7): 5, (1, 0): 30, (4, 7): 30})
    for seed in range(3):
        assert counted(pool, run(pool, budget, seed, class_balance=class_balance)) == due


def test_what_is_left_over_goes_to_cells_that_the_seed_draws():
    pool = pool_of({(0, 0): 30, (0, 1): 30, (1, 0): 30, (1, 1): 30})
    more: Counter[tuple[int, int]] = Counter()
    for seed in range(400):
        counts = counted(pool, run(pool, 10, seed))
        assert sorted(counts.values()) == [2, 2, 3, 3]
        more.update(cell for cell, count in counts.items() if count == 3)
    # 200 expected, standard deviation 10
    assert len(more) == 4 and min(more.values()) > 150 and max(more.values()) < 250


def test_fewer_samples_than_cells_are_of_different_cells_and_all_cells_have_their_turn():
    pool = pool_of({(label, group): 5 for label in range(4) for group in range(3)})
    turns: Counter[tuple[int, int]] = Counter()
    for seed in range(100):
        counts = counted(pool, run(pool, 4, seed))
        assert list(counts.values()) == [1] * 4
        turns.update(counts)
    assert len(turns) == 12


def test_samples_of_a_cell_are_equally_likely():
    pool = pool_of({(0, 0): 12, (0, 1): 3})
    found = Counter(index for seed in range(600) for index in run(pool, 6, seed).tolist())
    assert pool.groups is not None
    common, rare = (pool.groups == 0).nonzero()[:, 0].tolist(), (pool.groups == 1).nonzero()[:, 0].tolist()
    # 150 of 600 expected, standard deviation 10.6
    assert all(110 < found[index] < 190 for index in common)
    assert all(found[index] == 600 for index in rare)


def test_numbers_of_classes_and_groups_mean_nothing():
    pool = pool_of({(0, 0): 20, (0, 1): 9, (1, 0): 9, (1, 1): 20})
    assert pool.labels is not None and pool.groups is not None
    renamed = replace(pool, labels=100 * pool.labels + 5, groups=3 * pool.groups + 1)
    assert torch.equal(run(pool, 15), run(renamed, 15))


@every_case("class_balance", [0.0, 0.4, 1.0])
@every_case("budget", range(1, 21))
def test_shares_add_up_and_keep_to_the_sizes(budget, class_balance):
    classes, sizes = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([1, 5, 2, 9, 3])
    for loop in range(5):
        due = cell_shares(budget, classes, sizes, class_balance, Turn(0, loop))
        assert int(due.sum()) == budget and bool((due <= sizes).all())
        for one, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
            assert due[one] >= due[other] - 1 or due[one] == sizes[one]


def test_every_cell_has_as_much_in_the_long_run():
    """Three samples of two classes of two groups: a class's share is one or two, in turn."""
    loops, total = 400, torch.zeros(4)
    for loop in range(loops):
        total += cell_shares(3, torch.tensor([0, 0, 1, 1]), torch.full((4,), 20), 1.0, Turn(3, loop))
    assert total[:2].sum() == total[2:].sum() == 3 * loops / 2
    assert bool(((total - 3 * loops / 4).abs() < 40).all())


def test_multi_label_targets_are_refused():
    pool = Candidates(torch.arange(4), labels=torch.zeros(4, 3), groups=torch.arange(4))
    with pytest.raises(ValueError, match="strategy 'group_balanced' needs labels that are one class per sample"):
        run(pool, 2)


@every_case("groups", [torch.zeros(4), torch.zeros(4, dtype=torch.int32)], ids=str)
def test_groups_are_whole_numbers(groups):
    with pytest.raises(ValueError, match="groups must be a LongTensor"):
        Candidates(torch.arange(4), groups=groups)


def test_groups_are_one_a_sample():
    with pytest.raises(ValueError, match=r"groups must have 1 dimension.s. and 4 rows"):
        Candidates(torch.arange(4), groups=torch.zeros(3, dtype=torch.long))
