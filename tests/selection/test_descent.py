"""Optimising the centroids, against full-batch Adam on the dense objective."""

import pytest
import torch
from dense_reference import dense_descent, dense_objective, problem
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vecaf_hf.selection import SelectionOptions, descent
from vecaf_hf.selection import objective as module
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
        (60, 30, 24, 1.0),
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

    assert reached[0] - found.view.objective >= 0.99 * (reached[0] - min(reached))
    assert found.view.objective == pytest.approx(
        exact(embeddings, weights, found.view.centroids, diversity_weight), rel=1e-5
    )
    torch.testing.assert_close(found.view.centroids.norm(dim=1), torch.ones(count))
    if size <= descent.LEAST_BATCH:
        # The first step sees the whole pool, from a thousandth beside the start.
        assert found.start == pytest.approx(reached[0], abs=0.02)


def test_what_it_returns_is_seen_from_its_centroids():
    embeddings, weights, start = problem(900, 30, 12)
    found = optimise(embeddings, weights, start)
    matrix = embeddings @ found.view.centroids.T
    torch.testing.assert_close(found.view.survey.similarity, matrix.amax(dim=1))
    assert torch.equal(found.view.survey.top.rows[:, 0], matrix.argmax(dim=0))


@pytest.mark.parametrize(("temperature", "diversity_weight"), [(0.07, 1.0), (0.07, 0.1), (0.01, 1.0), (0.5, 10.0)])
def test_it_is_near_what_it_converges_to(temperature, diversity_weight):
    embeddings, weights, start = problem(3000, 60, 32)
    options = {"temperature": temperature, "diversity_weight": diversity_weight}
    found = optimise(embeddings, weights, start, **options)
    far = optimise(embeddings, weights, start, selection_steps=400, selection_tolerance=0, **options)
    assert found.start - found.view.objective >= 0.88 * (far.start - far.view.objective)


def descent_of(embeddings: Tensor, weights: Tensor, **options: object) -> descent._Descent:
    return descent._Descent(embeddings, weights, SelectionOptions(**options), torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("size", "batch"), [(30_003, 834), (1003, 512), (300, 300)])
def test_all_steps_together_see_each_sample_alike(size, batch):
    embeddings = torch.nn.functional.one_hot(torch.arange(size) % 7, 7).double()
    steps = descent_of(embeddings, torch.ones(size))
    places = torch.cat([steps.order[torch.arange(step * batch, (step + 1) * batch) % size] for step in range(36)])
    seen = torch.bincount(places, minlength=size)
    assert steps.size == batch and int(seen.min()) >= 1 and int(seen.max() - seen.min()) <= 1
    rows, probabilities = steps.rows_of(3)
    assert torch.equal(rows, places[3 * batch : 4 * batch])
    torch.testing.assert_close(probabilities, torch.full((batch,), 1 / batch))


def test_samples_without_weight_pull_nothing():
    embeddings, _, start = problem(4000, 4, 8)
    weights = torch.zeros(4000, dtype=torch.float64)
    weights[[7, 1234, 3999]] = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    steps = descent_of(embeddings, weights)
    for step in range(5):
        rows, probabilities = steps.rows_of(step)
        assert len(rows) == 3 and probabilities.sort().values.tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    found = optimise(embeddings, weights, start, diversity_weight=0.1)
    alone = optimise(embeddings[[7, 1234, 3999]], weights[[7, 1234, 3999]], start, diversity_weight=0.1)
    assert found.view.objective == pytest.approx(alone.view.objective, rel=0.02)


def test_equal_centroids_come_apart():
    embeddings, weights, _ = problem(1000, 1, 16)
    embeddings[:250] = embeddings[0]
    start = embeddings[:40]
    found = optimise(embeddings, weights, start)
    cosines = found.view.centroids @ found.view.centroids.T - 2 * torch.eye(40)
    assert float(cosines.max()) < 0.99
    apart = starting_centroids(embeddings[250:], 40, "random", torch.Generator().manual_seed(0))
    assert found.view.objective < found.start - 0.8 * (
        found.start - optimise(embeddings, weights, apart).view.objective
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [50, 3000])
def test_it_never_returns_worse_than_its_start_on_the_first_steps_samples(size, seed):
    embeddings, weights, start = problem(size, 8, 6, seed)
    wild = optimise(embeddings, weights, start, seed, selection_learning_rate=1e4, selection_steps=3)
    assert wild.view.objective == pytest.approx(exact(embeddings, weights, wild.view.centroids))
    options = SelectionOptions(selection_steps=3)
    first = descent._Descent(embeddings, weights, options, torch.Generator().manual_seed(seed)).rows_of(0)
    at_start = descent.View.of(embeddings, weights, start, options).objective_on(*first)
    # A centroid starts a thousandth beside its sample.
    assert wild.view.objective_on(*first) <= at_start + 1e-2 and wild.start == pytest.approx(at_start, abs=1e-2)


@pytest.mark.parametrize("options", [{"temperature": 1e-310}, {"temperature": 1e-30, "diversity_weight": 1e300}])
def test_an_objective_that_is_not_finite_is_refused(options):
    embeddings, weights, start = problem(50, 8, 6, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"ODS's objective is -?(inf|nan) with temperature="):
        optimise(embeddings, weights, start, **options)


@pytest.mark.parametrize("kept_elements", [0, 2**27])
@pytest.mark.parametrize("options", [{}, {"diversity_weight": 0.0}, {"selection_steps": 0}, {"selection_steps": 7}])
@pytest.mark.parametrize("count", [1, 20, 400])
def test_work_is_counted_as_torch_counts_it(count, options, kept_elements, monkeypatch):
    monkeypatch.setattr(module, "KEPT_ELEMENTS", kept_elements)
    embeddings, weights, start = problem(1500, count, 8)
    with FlopCounterMode(display=False) as counter:
        found = optimise(embeddings, weights, start, **options)
    # torch counts a product with a vector too.
    assert found.flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_no_steps_leave_the_start():
    embeddings, weights, start = problem(20, 4, 6)
    found = optimise(embeddings, weights, start, selection_steps=0)
    assert torch.equal(found.view.centroids, start)
    assert found.steps == 0 and found.start == found.view.objective == pytest.approx(exact(embeddings, weights, start))


def test_it_stops_once_settled():
    embeddings, weights, start = problem(80, 5, 6)
    loose, default, tight = (
        optimise(embeddings, weights, start, selection_tolerance=tolerance) for tolerance in (0.9, 3e-3, 0)
    )
    assert loose.steps == 3 * WINDOW and loose.steps < default.steps < tight.steps == 36
    assert tight.view.objective <= loose.view.objective and default.view.objective == pytest.approx(
        tight.view.objective, rel=1e-2
    )


def test_rounding_moves_no_centroid_where_there_is_nothing_to_gain():
    embeddings = torch.tensor([[0.6, 0.8]]).repeat(700, 1)
    found = optimise(embeddings, torch.ones(700), embeddings[:1])
    torch.testing.assert_close(found.view.centroids, embeddings[:1], rtol=0, atol=0.02)


def test_the_same_seed_takes_the_same_path_and_another_one_another():
    embeddings, weights, start = problem(2000, 20, 8)
    first, again, other = (optimise(embeddings, weights, start, seed).view.centroids for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_progress_counts_every_step_however_early_it_stops():
    embeddings, weights, start = problem(80, 5, 6)
    for tolerance in (0.9, 0):
        told: list[int] = []
        options = SelectionOptions(selection_tolerance=tolerance)
        optimise_centroids(embeddings, weights, start, options, torch.Generator(), told.append)
        assert sum(told) == 72


def test_without_diversity_nothing_repels(monkeypatch):
    monkeypatch.setattr(descent, "repulsion", lambda *_: pytest.fail("a repulsion of weight 0 was computed"))
    monkeypatch.setattr(descent, "mean_log_sum", lambda *_: pytest.fail("a repulsion of weight 0 was computed"))
    embeddings, weights, start = problem(300, 6, 8)
    found = optimise(embeddings, weights, start, diversity_weight=0.0)
    # What is left is k-means: each centroid is the direction of its samples' weighted mean.
    probabilities = target_distribution(weights)
    pulled = pull(embeddings, probabilities, found.view.centroids)[1]
    assert ((pulled / pulled.norm(dim=1, keepdim=True)) * found.view.centroids).sum(dim=1).min() > 0.99


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
    gradient = tangent(torch.randn(start.shape, generator=torch.Generator().manual_seed(0), dtype=start.dtype), start)
    moved = SphericalAdam().step(start, gradient, 1e-3) - start
    torch.testing.assert_close(moved.norm(dim=1), torch.full((5,), 1e-3, dtype=torch.float64), rtol=1e-3, atol=0)
