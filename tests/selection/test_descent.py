"""Optimising the centroids, against full-batch Adam on the dense objective."""

import pytest
import torch
from dense_reference import dense_descent, dense_objective, problem
from torch import Tensor

from vecaf_hf.selection import SelectionOptions, descent
from vecaf_hf.selection.descent import WINDOW, Optimised, SphericalAdam, optimise_centroids
from vecaf_hf.selection.objective import objective, pull, repulsion, tangent
from vecaf_hf.selection.ods import starting_centroids
from vecaf_hf.selection.weighting import target_distribution


def optimise(embeddings: Tensor, weights: Tensor, start: Tensor, seed: int = 0, **options: object) -> Optimised:
    generator = torch.Generator().manual_seed(seed)
    return optimise_centroids(embeddings, weights, start, SelectionOptions(**options), generator)


def exact(embeddings: Tensor, weights: Tensor, centroids: Tensor, diversity_weight: float = 1.0) -> float:
    return float(dense_objective(embeddings, target_distribution(weights), centroids, 0.07, diversity_weight))


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize(
    ("size", "count", "dimension", "diversity_weight"),
    [
        (200, 10, 16, 1.0),
        (300, 40, 32, 1.0),
        (200, 1, 16, 1.0),
        (120, 12, 8, 0.0),
        (60, 60, 24, 1.0),
        (1281, 13, 384, 1.0),
        (4000, 40, 64, 1.0),
        (4000, 200, 64, 1.0),
    ],
)
def test_it_reaches_what_adam_reaches_on_the_dense_objective(size, count, dimension, diversity_weight, seed):
    embeddings, weights, _ = problem(size, count, dimension, seed, dtype=torch.float32)
    start = starting_centroids(embeddings, count, "random", torch.Generator().manual_seed(4))
    probabilities = target_distribution(weights)
    reached = dense_descent(embeddings, probabilities, start, diversity_weight=diversity_weight)

    found = optimise(embeddings, weights, start, diversity_weight=diversity_weight)

    assert reached[0] - found.end >= 0.98 * (reached[0] - min(reached))
    assert found.end == pytest.approx(exact(embeddings, weights, found.centroids, diversity_weight), rel=1e-5)
    torch.testing.assert_close(found.centroids.norm(dim=1), torch.ones(count))
    if size <= descent.LEAST_BATCH:
        # The first step sees the whole pool.
        assert found.start == pytest.approx(reached[0], rel=1e-4)


def test_what_it_returns_is_seen_from_its_centroids():
    embeddings, weights, start = problem(900, 30, 12)
    found = optimise(embeddings, weights, start)
    matrix = embeddings @ found.centroids.T
    assert torch.equal(found.survey.assignment, matrix.argmax(dim=1))
    torch.testing.assert_close(found.survey.similarity, matrix.amax(dim=1))
    assert torch.equal(found.survey.top.rows[:, 0], matrix.argmax(dim=0))


def test_all_steps_together_see_each_sample_once(monkeypatch):
    monkeypatch.setattr(descent, "LEAST_BATCH", 1)
    embeddings, weights, _ = problem(1003, 5, 6)
    batches = descent._Batches(embeddings, weights, 10, torch.Generator().manual_seed(0))
    drawn = torch.cat([batches.next()[0] for _ in range(10)])
    assert len(drawn) == 1010
    seen = (drawn[:, None] == embeddings[None, :]).all(dim=2).sum(dim=0)
    assert int(seen.min()) == 1 and int(seen.max()) == 2


def test_a_steps_samples_have_their_own_target_distribution(monkeypatch):
    monkeypatch.setattr(descent, "LEAST_BATCH", 1)
    embeddings, weights, _ = problem(100, 5, 6)
    batches = descent._Batches(embeddings, torch.where(torch.arange(100) < 95, 0.0, weights), 4, torch.Generator())
    for _ in range(4):
        samples, probabilities = batches.next()
        assert float(probabilities.sum()) == pytest.approx(1) and len(samples) == 25


@pytest.mark.parametrize("size", [50, 3000])
def test_it_never_returns_worse_than_its_start(size):
    embeddings, weights, start = problem(size, 8, 6)
    wild = optimise(embeddings, weights, start, selection_learning_rate=1e4, selection_steps=3)
    assert wild.end <= wild.start
    assert wild.end == pytest.approx(exact(embeddings, weights, wild.centroids))
    assert torch.equal(wild.survey.assignment, (embeddings @ wild.centroids.T).argmax(dim=1))
    if size == 50:
        assert torch.equal(wild.centroids, start)


def test_no_steps_leave_the_start():
    embeddings, weights, start = problem(20, 4, 6)
    found = optimise(embeddings, weights, start, selection_steps=0)
    assert torch.equal(found.centroids, start)
    assert found.steps == 0 and found.start == found.end == pytest.approx(exact(embeddings, weights, start))


def test_it_stops_once_settled():
    embeddings, weights, start = problem(80, 5, 6)
    loose, tight = (optimise(embeddings, weights, start, selection_tolerance=tolerance) for tolerance in (0.9, 0))
    # The objective is looked at before each step.
    assert loose.steps == 3 * WINDOW - 1 and tight.steps == 40
    assert tight.end <= loose.end


def test_rounding_moves_no_centroid_where_there_is_nothing_to_gain():
    embeddings = torch.tensor([[0.6, 0.8]]).repeat(700, 1)
    found = optimise(embeddings, torch.ones(700), embeddings[:1])
    torch.testing.assert_close(found.centroids, embeddings[:1])


def test_the_same_seed_takes_the_same_path_and_another_one_another():
    embeddings, weights, start = problem(2000, 20, 8)
    first, again, other = (optimise(embeddings, weights, start, seed).centroids for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_progress_counts_every_step_however_early_it_stops():
    embeddings, weights, start = problem(80, 5, 6)
    for tolerance in (0.9, 0):
        told: list[int] = []
        options = SelectionOptions(selection_tolerance=tolerance)
        optimise_centroids(embeddings, weights, start, options, torch.Generator(), told.append)
        assert sum(told) == 40


def test_without_diversity_nothing_repels():
    embeddings, weights, start = problem(300, 6, 8)
    alone = [
        optimise(embeddings, weights, start[[j]], diversity_weight=weight, selection_tolerance=0).centroids
        for j, weight in ((0, 0.0), (0, 1.0))
    ]
    torch.testing.assert_close(*alone)


def test_adam_steps_rotate_with_the_space():
    embeddings, weights, start = problem(60, 7, 8)
    probabilities = target_distribution(weights)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    paths = []
    for turn in (torch.eye(8, dtype=torch.float64), rotation):
        optimiser, centroids = SphericalAdam(), start @ turn
        for _ in range(40):
            pulled, repelled = pull(embeddings @ turn, probabilities, centroids)[1], repulsion(centroids, 0.07)[1]
            gradient = tangent(objective(pulled, repelled, 0.07, 1.0), centroids)
            centroids = optimiser.step(centroids, gradient, 3e-2)
        paths.append(centroids)
    torch.testing.assert_close(paths[0] @ rotation, paths[1], rtol=0, atol=1e-8)
    assert (paths[0] - start).norm() > 0.1


@pytest.mark.parametrize("dimension", [5, 64])
def test_the_first_step_is_as_long_as_the_learning_rate(dimension):
    _, _, start = problem(20, 5, dimension)
    gradient = tangent(torch.randn_like(start), start)
    moved = SphericalAdam().step(start, gradient, 1e-3) - start
    torch.testing.assert_close(moved.norm(dim=1), torch.full((5,), 1e-3, dtype=torch.float64), rtol=1e-3, atol=0)
