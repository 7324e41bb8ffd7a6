"""Draws that favour mistakes, against the chances of successive draws; and what a mistake is."""

from collections import Counter

import pytest
import torch
from every_case import every_case

from vecaf_hf.selection import STRATEGIES, Candidates, Selection, SelectionOptions, run_strategy
from vecaf_hf.selection.jtt import mistakes, second_training

DRAWS = 4000


def run(candidates: Candidates, budget: int, seed: int = 0, **options: object) -> Selection:
    return run_strategy(STRATEGIES["jtt"], candidates, budget, SelectionOptions(strategy="jtt", **options), seed)


def pool_of(mistaken: list[bool]) -> Candidates:
    return Candidates(torch.arange(len(mistaken)), mistaken=torch.tensor(mistaken))


@every_case("upweight", [1, 5, 20.0])
def test_the_first_sample_is_drawn_in_proportion_to_one_or_the_upweight(upweight):
    mistaken = [False, True, False, False, True, False]
    found = Counter(int(run(pool_of(mistaken), 1, seed, jtt_upweight=upweight).indices) for seed in range(DRAWS))
    for index, wrong in enumerate(mistaken):
        expected = (upweight if wrong else 1) / (2 * upweight + 4)
        assert found[index] / DRAWS == pytest.approx(expected, abs=0.025)


def test_pairs_are_those_of_two_draws_without_replacement():
    rates = [1.0, 5.0, 5.0, 1.0]
    found = Counter(
        tuple(run(pool_of([rate > 1 for rate in rates]), 2, seed, jtt_upweight=5.0).indices.tolist())
        for seed in range(DRAWS)
    )
    for i in range(4):
        for j in range(4):
            expected = 0.0 if i == j else rates[i] / 12 * rates[j] / (12 - rates[i])
            assert found[i, j] / DRAWS == pytest.approx(expected, abs=0.025)


@every_case("mistaken", [[False] * 20, [True] * 20], ids=["none", "all"])
def test_where_all_are_alike_all_are_as_likely(mistaken):
    found = Counter(index for seed in range(600) for index in run(pool_of(mistaken), 5, seed).indices.tolist())
    # 150 expected, standard deviation 10.6
    assert len(found) == 20 and min(found.values()) > 100 and max(found.values()) < 200


def test_how_many_mistakes_there_are_and_how_many_are_selected_is_told():
    pool = pool_of([index % 4 == 0 for index in range(40)])
    selection = run(pool, 15)
    wrong = sum(index % 4 == 0 for index in selection.indices.tolist())
    assert selection.info == {"mistaken": 10, "mistaken_selected": wrong} and wrong > 5


@every_case(("loops", "first"), [(2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (9, 3), (10, 3), (11, 4), (50, 17)])
def test_the_second_training_begins_at_the_boundary_that_is_nearest_to_a_third(loops, first):
    assert second_training(loops) == first
    assert first == 1 or abs(first / loops - 1 / 3) == min(abs(loop / loops - 1 / 3) for loop in range(1, loops))


def test_a_mistake_is_a_largest_logit_of_another_class():
    logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [-3.0, -2.0, -1.0], [-3.0, -2.0, -1.0]])
    candidates = Candidates(torch.arange(4), logits=logits, labels=torch.tensor([0, 1, 2, 0]))
    assert mistakes(candidates).tolist() == [False, True, False, True]


@every_case("columns", [None, 1])
def test_without_a_logit_for_each_class_there_is_no_mistake(columns):
    logits = None if columns is None else torch.zeros(4, columns)
    candidates = Candidates(torch.arange(4), logits=logits, labels=torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"'jtt' needs a logit of each of at least two classes, and there is (none|1)"):
        mistakes(candidates)


def test_multi_label_targets_are_refused():
    with pytest.raises(ValueError, match="strategy 'jtt' needs labels that are one class per sample"):
        mistakes(Candidates(torch.arange(4), logits=torch.zeros(4, 3), labels=torch.zeros(4, 3)))


def test_mistaken_is_a_mask():
    with pytest.raises(ValueError, match=r"mistaken must be a BoolTensor \[M\], got torch.int64"):
        Candidates(torch.arange(4), mistaken=torch.arange(4))
