"""Samples drawn by their losses alone, against Eq. 3."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from every_case import every_case

from vecaf_hf.selection import STRATEGIES, Candidates, SelectionOptions, run_strategy, select

DRAWS = 4000
LOSSES = [0.0, 0.25, 1.0, 4.0, 9.0]


def run(candidates: Candidates, budget: int, seed: int = 0, **options: object) -> list[int]:
    chosen = SelectionOptions(strategy="loss_sampling", **options)
    return run_strategy(STRATEGIES["loss_sampling"], candidates, budget, chosen, seed).indices.tolist()


def pool_of(losses: list[float], **fields: torch.Tensor) -> Candidates:
    return Candidates(torch.arange(len(losses)), losses=torch.tensor(losses), **fields)


@every_case(
    ("weighting", "weigh"),
    [("raw", lambda loss: loss), ("sqrt", lambda loss: loss**0.5), ("uniform", lambda loss: 1.0)],
)
def test_the_first_sample_is_drawn_with_the_probability_of_equation_3(weighting, weigh):
    found = Counter(run(pool_of(LOSSES), 1, seed, loss_weighting=weighting)[0] for seed in range(DRAWS))
    total = sum(map(weigh, LOSSES))
    for index, loss in enumerate(LOSSES):
        assert found[index] / DRAWS == pytest.approx(weigh(loss) / total, abs=0.025)


def test_pairs_are_those_of_two_draws_without_replacement():
    found = Counter(tuple(run(pool_of(LOSSES), 2, seed, loss_weighting="raw")) for seed in range(DRAWS))
    total = sum(LOSSES)
    for i, one in enumerate(LOSSES):
        for j, other in enumerate(LOSSES):
            expected = 0.0 if i == j else one / total * other / (total - one)
            assert found[i, j] / DRAWS == pytest.approx(expected, abs=0.025)


def test_a_function_weighs_too():
    found = Counter(run(pool_of(LOSSES), 2, seed, loss_weighting=lambda x: (x > 1).float())[0] for seed in range(200))
    assert set(found) == {3, 4} and min(found.values()) > 60


def test_samples_without_a_loss_come_last():
    pool = pool_of([0.0] * 30 + [1e-30, 1e-20, 5.0])
    for seed in range(20):
        chosen = run(pool, 10, seed, loss_weighting="raw")
        assert set(chosen[:3]) == {30, 31, 32} and max(chosen[3:]) < 30


def test_where_no_sample_has_a_loss_all_are_as_likely():
    found = Counter(index for seed in range(600) for index in run(pool_of([0.0] * 20), 5, seed))
    # 150 expected, standard deviation 10.6
    assert len(found) == 20 and min(found.values()) > 100 and max(found.values()) < 200


def test_relevance_multiplies_the_weights():
    pool = pool_of([1.0, 1.0, 3.0], relevance=torch.tensor([1.0, 0.0, 0.5]))
    found = Counter(run(pool, 1, seed, loss_weighting="raw")[0] for seed in range(2000))
    assert found[1] == 0 and found[2] / 2000 == pytest.approx(0.6, abs=0.035)


def test_embeddings_do_not_matter_and_arrays_are_enough(make_pool):
    pool = make_pool()
    assert run(replace(pool, embeddings=None), 13) == run(pool, 13)
    chosen = select(pool.embeddings, pool.losses, budget=13, strategy="loss_sampling").indices
    assert (3 * chosen + 1).tolist() == run(pool, 13)


def test_trimmed_weights_leave_out_the_largest_of_each_class():
    labels = torch.tensor([0] * 10 + [1] * 10)
    losses = [*map(float, range(1, 11)), *map(float, range(101, 111))]
    for fraction, wrong in ((0.2, {8, 9, 18, 19}), (0.5, {*range(5, 10), *range(15, 20)})):
        pool = pool_of(losses, labels=labels)
        for seed in range(20):
            chosen = run(pool, 20 - len(wrong), seed, loss_weighting="trimmed", trimmed_fraction=fraction)
            assert not wrong & set(chosen)
    assert any(
        19 in run(pool_of(losses, labels=labels), 10, seed, loss_weighting="trimmed", trimmed_fraction=0.0)
        for seed in range(5)
    )
