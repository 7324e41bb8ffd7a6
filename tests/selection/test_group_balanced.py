"""Equal numbers of each group of each class, counted."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from vecaf_hf.selection import STRATEGIES, Candidates, SelectionOptions, run_strategy
from vecaf_hf.selection.group_balanced import drawn_shares


def run(candidates: Candidates, budget: int, seed: int = 0) -> torch.Tensor:
    options = SelectionOptions(strategy="group_balanced")
    return run_strategy(STRATEGIES["group_balanced"], candidates, budget, options, seed).indices


def pool_of(sizes: dict[tuple[int, int], int]) -> Candidates:
    """So many samples of each (class, group), mixed."""
    cells = torch.tensor([cell for cell, count in sizes.items() for _ in range(count)])
    cells = cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))]
    return Candidates(torch.arange(len(cells)), labels=cells[:, 0], groups=cells[:, 1])


def counted(pool: Candidates, chosen: torch.Tensor) -> dict[tuple[int, int], int]:
    assert pool.labels is not None and pool.groups is not None
    return Counter(zip(pool.labels[chosen].tolist(), pool.groups[chosen].tolist(), strict=True))


@pytest.mark.parametrize(
    ("budget", "due"),
    [
        (12, {(0, 0): 3, (0, 7): 3, (1, 0): 3, (4, 7): 3}),
        (20, {(0, 0): 5, (0, 7): 5, (1, 0): 5, (4, 7): 5}),
        # The rare group gives all that it has, and the others share the rest.
        (35, {(0, 0): 10, (0, 7): 5, (1, 0): 10, (4, 7): 10}),
        (65, {(0, 0): 20, (0, 7): 5, (1, 0): 20, (4, 7): 20}),
        (125, {(0, 0): 60, (0, 7): 5, (1, 0): 30, (4, 7): 30}),
    ],
)
def test_every_group_of_every_class_has_an_equal_share(budget, due):
    pool = pool_of({(0, 0): 60, (0, 7): 5, (1, 0): 30, (4, 7): 30})
    for seed in range(3):
        assert counted(pool, run(pool, budget, seed)) == due


def test_what_is_left_over_goes_to_cells_that_the_seed_draws():
    pool = pool_of({(0, 0): 30, (0, 1): 30, (1, 0): 30, (2, 1): 30})
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


@pytest.mark.parametrize("budget", range(1, 18))
def test_shares_add_up_and_keep_to_the_sizes(budget):
    sizes = torch.tensor([1, 5, 2, 9])
    for seed in range(5):
        due = drawn_shares(budget, sizes, torch.Generator().manual_seed(seed))
        assert int(due.sum()) == budget and bool((due <= sizes).all())
        assert all(due[one] >= due[other] - 1 or due[one] == sizes[one] for one in range(4) for other in range(4))


def test_multi_label_targets_are_refused():
    pool = Candidates(torch.arange(4), labels=torch.zeros(4, 3), groups=torch.arange(4))
    with pytest.raises(ValueError, match="strategy 'group_balanced' needs labels that are one class per sample"):
        run(pool, 2)


@pytest.mark.parametrize("groups", [torch.zeros(4), torch.zeros(4, dtype=torch.int32)], ids=str)
def test_groups_are_whole_numbers(groups):
    with pytest.raises(ValueError, match="groups must be a LongTensor"):
        Candidates(torch.arange(4), groups=groups)


def test_groups_are_one_a_sample():
    with pytest.raises(ValueError, match=r"groups must have 1 dimension.s. and 4 rows"):
        Candidates(torch.arange(4), groups=torch.zeros(3, dtype=torch.long))
