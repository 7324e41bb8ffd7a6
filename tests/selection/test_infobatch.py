"""InfoBatch against the paper's formula, sample by sample."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from every_case import every_case

from vecaf_hf.selection import STRATEGIES, Candidates, Selection, SelectionOptions, run_strategy
from vecaf_hf.selection.training_losses import random_part

R = Fraction(1, 2)
NAN = torch.nan


def make(losses: list[float], progress: float = 0.0) -> Candidates:
    return Candidates(3 * torch.arange(len(losses)) + 1, training_losses=torch.tensor(losses), progress=progress)


def run(candidates: Candidates, seed: int = 0) -> Selection:
    return run_strategy(STRATEGIES["infobatch"], candidates, 1, SelectionOptions(strategy="infobatch"), seed)


def well_learned(candidates: Candidates) -> set[int]:
    """H_t(z) < mean of H_t, in exact arithmetic over the samples that have a score."""
    pairs = zip(candidates.indices.tolist(), candidates.training_losses.tolist(), strict=True)
    scores = {index: Fraction(loss) for index, loss in pairs if loss == loss}
    return {index for index, score in scores.items() if score * len(scores) < sum(scores.values())}


def random_losses(seed: int) -> list[float]:
    """Of unequal pools, some samples unseen; every other one has many equal losses."""
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand(int(torch.randint(1, 50, (), generator=generator)), generator=generator).exp()
    losses = (3 * losses).round() / 3 if seed % 2 else losses
    losses[torch.rand(len(losses), generator=generator) < 0.2] = NAN
    return losses.tolist()


@every_case("seed", range(40))
def test_each_sample_is_kept_and_weighed_as_the_paper_says(seed):
    candidates = make(random_losses(seed))
    learned, selection = well_learned(candidates), run(candidates, seed)
    kept = set(selection.indices.tolist())
    assert kept | learned == set(candidates.indices.tolist())
    # To the nearest whole number: r of them are gone.
    assert abs(len(learned - kept) - R * len(learned)) <= R
    weights = {index: 1 / (1 - R) if index in learned else Fraction(1) for index in kept}
    mean = sum(weights.values()) / len(kept)
    expected = torch.tensor([float(weights[index] / mean) for index in selection.indices.tolist()])
    found = torch.ones(len(kept)) if selection.weights is None else selection.weights
    torch.testing.assert_close(found, expected)


@every_case("size", [4, 5])
def test_over_all_draws_the_mean_loss_is_that_of_the_pool(size):
    """The four or five smallest are below the mean: each is pruned with probability r, and what it has lost the others
    have gained."""
    losses = [0.1 * place for place in range(size)] + [8.0, 9.0]
    candidates, draws = make(losses), 4000
    total, counts = torch.zeros(len(losses)), Counter[int]()
    for seed in range(draws):
        selection = run(candidates, seed)
        rows = (selection.indices - 1) // 3
        # What a sample's loss counts in the mean over the selection.
        total[rows] += selection.weights / len(selection)
        counts.update(rows.tolist())
    torch.testing.assert_close(total / draws, torch.full((len(losses),), 1 / len(losses)), rtol=0.05, atol=0)
    assert all(counts[row] == pytest.approx(draws / 2, rel=0.08) for row in range(size))
    assert all(counts[row] == draws for row in range(size, len(losses)))


def test_an_even_number_is_halved_and_an_odd_one_to_either_side():
    for size, sizes in ((0, {0}), (1, {0, 1}), (6, {3}), (7, {3, 4})):
        rows = torch.arange(size) + 10
        found = [random_part(rows, 0.5, torch.Generator().manual_seed(seed)) for seed in range(30)]
        assert {len(one) for one in found} == sizes
        assert all(set(one.tolist()) <= set(rows.tolist()) and len(one.unique()) == len(one) for one in found)


@every_case("losses", [[NAN] * 5, [0.1] * 7, [2.5], [NAN, 0.3], [0.1, NAN, 0.1, 0.1]])
def test_where_none_is_below_the_mean_the_pool_stays_whole(losses):
    selection = run(make(losses))
    assert len(selection) == len(losses) and selection.weights is None


@every_case(("progress", "whole"), [(0.0, False), (0.874, False), (0.875, True), (0.99, True)])
def test_the_last_eighth_of_the_run_has_the_whole_pool(progress, whole):
    selection = run(make([0.1, 0.2, 0.3, 0.4, 5.0], progress))
    assert (len(selection) == 5) == (selection.weights is None) == whole


def test_unseen_samples_always_stay():
    candidates = make([0.1] * 20 + [9.0] + [NAN] * 20)
    for seed in range(5):
        assert set(candidates.indices[20:].tolist()) <= set(run(candidates, seed).indices.tolist())


def test_half_precision_losses_are_compared_exactly():
    candidates = make([0.1] * 1000)
    half = replace(candidates, training_losses=candidates.training_losses.half())
    assert len(run(half)) == 1000
