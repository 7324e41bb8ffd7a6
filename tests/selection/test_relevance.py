"""What relevance does: ods goes where it is large, draws are in the proportions of successive ones; and where it must
not act."""

from collections import Counter
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from every_case import every_case

from vecaf_hf.selection import SelectionOptions, find_strategy, run_strategy
from vecaf_hf.selection.candidates import Candidates

DRAWS = 3000


def run(pool: Candidates, budget: int, strategy: str, seed: int = 0, **options) -> torch.Tensor:
    chosen = SelectionOptions(strategy=strategy, **options)
    return run_strategy(find_strategy(strategy), pool, budget, chosen, seed).indices


def pool_of(relevance: list[float], labels: list[int] | None = None) -> Candidates:
    classes = None if labels is None else torch.tensor(labels)
    return Candidates(torch.arange(len(relevance)), labels=classes, relevance=torch.tensor(relevance))


@every_case("allocation", ["class", "global"])
def test_ods_goes_where_relevance_is_large(make_pool, allocation):
    """Half of each class is relevant, on one side of a plane: there more are selected, though centroids repel each
    other, and as many of each class as without it where classes have their shares."""
    pool = replace(make_pool(size=600), losses=torch.ones(600))
    side = pool.embeddings[:, 0]
    medians = torch.stack([side[pool.labels == label].median() for label in range(3)])
    relevant = side > medians[pool.labels]
    told = replace(pool, relevance=torch.where(relevant, 1.0, 1e-4))
    shares, classes = [], []
    for candidates in (pool, told):
        rows = torch.isin(pool.indices, run(candidates, 30, "ods", allocation=allocation))
        shares.append(float(relevant[rows].float().mean()))
        classes.append(torch.bincount(pool.labels[rows], minlength=3))
    assert shares[1] > shares[0] + 0.08
    assert allocation == "global" or torch.equal(*classes)


def test_samples_are_drawn_one_after_the_other_with_chances_by_relevance():
    """Of each ordered pair, against w_i / W * w_j / (W - w_i)."""
    relevance = [0.1, 0.2, 0.3, 1.0]
    pool, total = pool_of(relevance), sum(relevance)
    found = Counter(tuple(run(pool, 2, "random", seed).tolist()) for seed in range(DRAWS))
    for i, j in permutations(range(4), 2):
        expected = relevance[i] / total * relevance[j] / (total - relevance[i])
        assert found[i, j] / DRAWS == pytest.approx(expected, abs=0.035)


def test_balanced_draws_by_relevance_in_each_class():
    pool = pool_of([0.01, 1.0, 1.0, 0.01, 0.01, 1.0], [0, 0, 0, 1, 1, 1])
    found = Counter(index for seed in range(300) for index in run(pool, 2, "balanced", seed).tolist())
    assert all(found[index] < 30 for index in (0, 3, 4))
    assert found[5] > 270 and found[1] + found[2] > 270


@every_case("strategy", ["random", "balanced"])
def test_relevance_that_has_no_number_left_still_lets_all_be_drawn(strategy):
    relevance = [1.0] + 9 * [0.0]
    for seed in range(20):
        found = run(pool_of(relevance, 10 * [0]), 4, strategy, seed)
        assert 0 in found and len(found.unique()) == 4
    assert len(run(pool_of(relevance, 10 * [0]), 10, strategy).unique()) == 10
    drawn = {tuple(run(pool_of(relevance, 10 * [0]), 4, strategy, seed).tolist()) for seed in range(20)}
    assert len(drawn) > 10


@every_case("strategy", ["random", "balanced"])
def test_the_same_relevance_for_all_favours_nobody(strategy):
    found = Counter(
        index for seed in range(1000) for index in run(pool_of(6 * [0.3], 6 * [0]), 2, strategy, seed).tolist()
    )
    assert all(found[index] == pytest.approx(1000 / 3, rel=0.2) for index in range(6))


def test_a_random_part_beside_a_selection_is_not_weighed(make_pool):
    """It is there to undo what the strategy prefers."""
    pool = make_pool()
    relevance = torch.linspace(1e-6, 1, len(pool)).double()
    told = replace(pool, relevance=relevance.pow(8))
    least = pool.indices[:20]
    found = [run(told, 6, "random", seed, random_fraction=0.5) for seed in range(40)]
    weighed, drawn = (sum(int(torch.isin(one[part], least).sum()) for one in found) for part in (slice(3), slice(3, 6)))
    assert weighed < 4 and drawn > 20
