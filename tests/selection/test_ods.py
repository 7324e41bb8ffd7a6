"""ODS against Eq. 7 written out with autograd over the whole N x K matrix."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vecaf_hf.selection import SelectionOptions, find_strategy, run_strategy, select, similarity
from vecaf_hf.selection.ods import (
    CONVERGENCE_WINDOW,
    SphericalAdam,
    objective_and_gradient,
    optimise_centroids,
    starting_centroids,
    tangent,
)
from vecaf_hf.selection.similarity import nearest, top
from vecaf_hf.vectors import unit


def dense_objective(
    embeddings: Tensor, probabilities: Tensor, centroids: Tensor, temperature: float, diversity_weight: float
) -> Tensor:
    """J of Eq. 7, normalised inside the graph."""
    e = embeddings / embeddings.norm(dim=1, keepdim=True)
    theta = centroids / centroids.norm(dim=1, keepdim=True)
    pull = (probabilities * (e @ theta.T).max(dim=1).values).sum() / temperature
    count = len(theta)
    if count == 1:
        return -pull
    others = ~torch.eye(count, dtype=torch.bool)
    logits = (theta @ theta.T / temperature)[others].reshape(count, count - 1)
    return -pull + diversity_weight * logits.logsumexp(dim=1).mean()


def problem(
    size: int, count: int, dimension: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Unit embeddings in clusters, p_L, and unit centroids near some of the embeddings."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(5, dimension, generator=generator, dtype=dtype)
    member = torch.randint(5, (size,), generator=generator)
    embeddings = unit(centres[member] + torch.randn(size, dimension, generator=generator, dtype=dtype))
    losses = torch.rand(size, generator=generator, dtype=dtype)
    rows = torch.randperm(size, generator=generator)[:count]
    shift = 0.05 * torch.randn(count, dimension, generator=generator, dtype=dtype)
    return embeddings, losses / losses.sum(), unit(embeddings[rows] + shift)


SHAPES = [(1, 1, 3), (2, 2, 2), (7, 1, 4), (9, 9, 5), (40, 6, 8), (150, 33, 16), (64, 64, 3)]


@pytest.mark.parametrize("chunk_elements", [1, 50, 2**24])
@pytest.mark.parametrize(("size", "count", "dimension"), SHAPES)
@pytest.mark.parametrize(("temperature", "diversity_weight"), [(0.07, 1.0), (0.5, 0.3), (0.07, 0.0)])
def test_objective_and_gradient_equal_dense_autograd(
    size, count, dimension, temperature, diversity_weight, chunk_elements, monkeypatch
):
    monkeypatch.setattr(similarity, "CHUNK_ELEMENTS", chunk_elements)
    embeddings, probabilities, centroids = problem(size, count, dimension)
    leaf = centroids.clone().requires_grad_()
    expected = dense_objective(embeddings, probabilities, leaf, temperature, diversity_weight)
    expected.backward()

    objective, gradient = objective_and_gradient(embeddings, probabilities, centroids, temperature, diversity_weight)

    torch.testing.assert_close(objective, expected.detach(), rtol=1e-5, atol=1e-10)
    assert leaf.grad is not None
    assert (gradient - leaf.grad).norm() <= 1e-5 * leaf.grad.norm() + 1e-10
    assert (gradient * centroids).sum(dim=1).abs().max() < 1e-9


def test_objective_of_unnormalised_arrays_is_that_of_their_unit_rows():
    embeddings, probabilities, centroids = problem(30, 4, 6)
    generator = torch.Generator().manual_seed(1)
    scaled = embeddings * (0.1 + 10 * torch.rand(30, 1, generator=generator, dtype=torch.float64))
    ours, _ = objective_and_gradient(unit(scaled), probabilities, centroids, 0.07, 1.0)
    torch.testing.assert_close(ours, dense_objective(scaled, probabilities, 3 * centroids, 0.07, 1.0))


@pytest.mark.parametrize("chunk_elements", [1, 7, 2**24])
def test_nearest_and_top_do_not_depend_on_chunks(chunk_elements, monkeypatch):
    monkeypatch.setattr(similarity, "CHUNK_ELEMENTS", chunk_elements)
    queries, _, keys = problem(23, 11, 4)
    values, rows = nearest(queries, keys)
    assert torch.equal(rows, (queries @ keys.T).argmax(dim=1))
    torch.testing.assert_close(values, (queries @ keys.T).amax(dim=1))
    values, rows = top(keys, queries, 5)
    assert torch.equal(rows, (keys @ queries.T).argsort(dim=1, descending=True)[:, :5])
    torch.testing.assert_close(values, (keys @ queries.T).gather(1, rows))


def test_unit_keeps_a_zero_row_at_zero():
    rows = unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_tangent_is_orthogonal_and_keeps_what_already_is():
    _, _, centroids = problem(10, 4, 5)
    gradient = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    projected = tangent(gradient, centroids)
    assert (projected * centroids).sum(dim=1).abs().max() < 1e-12
    torch.testing.assert_close(tangent(projected, centroids), projected)


@pytest.mark.parametrize(
    ("size", "count", "dimension", "diversity_weight"),
    [(200, 10, 16, 1.0), (300, 40, 32, 1.0), (200, 1, 16, 1.0), (120, 12, 8, 0.0), (60, 60, 24, 1.0)],
)
def test_optimisation_reaches_what_adam_reaches_on_the_dense_objective(size, count, dimension, diversity_weight):
    embeddings, probabilities, _ = problem(size, count, dimension, seed=3, dtype=torch.float32)
    start = starting_centroids(embeddings, count, "random", torch.Generator().manual_seed(4))

    theta = start.clone().requires_grad_()
    adam = torch.optim.Adam([theta], lr=1e-3)
    reached = []
    for _ in range(301):
        adam.zero_grad()
        loss = dense_objective(embeddings, probabilities, theta, 0.07, diversity_weight)
        reached.append(loss.item())
        loss.backward()
        adam.step()

    found = optimise_centroids(embeddings, probabilities, start, SelectionOptions(diversity_weight=diversity_weight))

    assert found.start == pytest.approx(reached[0], rel=1e-4)
    assert found.steps <= 300
    assert found.start - found.end >= 0.98 * (reached[0] - min(reached))
    now, _ = objective_and_gradient(embeddings, probabilities, found.centroids, 0.07, diversity_weight)
    assert float(now) == pytest.approx(found.end, rel=1e-6)
    torch.testing.assert_close(found.centroids.norm(dim=1), torch.ones(count))


def test_optimisation_never_returns_worse_than_its_start():
    embeddings, probabilities, start = problem(50, 8, 6)
    wild = SelectionOptions(selection_learning_rate=5.0, selection_steps=20)
    found = optimise_centroids(embeddings, probabilities, start, wild)
    assert found.end <= found.start
    now, _ = objective_and_gradient(embeddings, probabilities, found.centroids, 0.07, 1.0)
    assert float(now) == pytest.approx(found.end)


def test_no_steps_leave_the_start():
    embeddings, probabilities, start = problem(20, 4, 6)
    found = optimise_centroids(embeddings, probabilities, start, SelectionOptions(selection_steps=0))
    assert torch.equal(found.centroids, start)
    assert found.steps == 0 and found.start == found.end


def test_optimisation_stops_once_settled():
    embeddings, probabilities, start = problem(80, 5, 6)
    loose = optimise_centroids(embeddings, probabilities, start, SelectionOptions(selection_tolerance=0.5))
    tight = optimise_centroids(embeddings, probabilities, start, SelectionOptions(selection_tolerance=0))
    assert loose.steps == CONVERGENCE_WINDOW and tight.steps == 300
    assert tight.end <= loose.end


def test_adam_steps_rotate_with_the_space():
    embeddings, probabilities, start = problem(60, 7, 8)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    paths = []
    for turn in (torch.eye(8, dtype=torch.float64), rotation):
        optimiser, centroids = SphericalAdam(1e-2), start @ turn
        for _ in range(40):
            _, gradient = objective_and_gradient(embeddings @ turn, probabilities, centroids, 0.07, 1.0)
            centroids = optimiser.step(centroids, gradient)
        paths.append(centroids)
    torch.testing.assert_close(paths[0] @ rotation, paths[1], rtol=0, atol=1e-8)
    assert (paths[0] - start).norm() > 0.1


def test_first_step_has_adams_size():
    _, _, start = problem(20, 5, 64)
    gradient = tangent(torch.randn_like(start), start)
    moved = SphericalAdam(1e-3).step(start, gradient) - start
    torch.testing.assert_close(moved.norm(dim=1), torch.full((5,), 1e-3 * 8.0, dtype=torch.float64), rtol=1e-3, atol=0)


@pytest.mark.parametrize("start", ["random", "k-means++"])
def test_centroids_start_at_distinct_pool_samples(start):
    embeddings, _, _ = problem(30, 1, 6)
    centroids = starting_centroids(embeddings, 30, start, torch.Generator().manual_seed(0))
    rows = (centroids[:, None] == embeddings[None]).all(dim=2).float().argmax(dim=1)
    assert torch.equal(embeddings[rows], centroids)
    assert len(rows.unique()) == 30


def test_uniform_losses_give_activefts_choice(make_pool):
    pool = make_pool(size=80)
    uniform = SelectionOptions(strategy="ods", allocation="global", loss_weighting="uniform")
    theirs = run_strategy(find_strategy("activeft"), pool, 9, SelectionOptions(strategy="activeft"), 5)
    ours = run_strategy(find_strategy("ods"), pool, 9, uniform, 5)
    assert torch.equal(ours.indices, theirs.indices)
    assert torch.equal(ours.weights, theirs.weights)
    assert ours.info == theirs.info
    # Equal losses say the same whatever the weighting.
    equal = replace(pool, losses=torch.full((80,), 0.7))
    for weighting in ("raw", "clipped", "sqrt"):
        options = SelectionOptions(allocation="global", loss_weighting=weighting)
        assert torch.equal(run_strategy(find_strategy("ods"), equal, 9, options, 5).indices, ours.indices)


def test_activeft_looks_at_neither_losses_nor_relevance_nor_labels(make_pool):
    pool = make_pool()
    bare = replace(pool, losses=None, labels=None, logits=None)
    told = replace(pool, relevance=torch.rand(60, generator=torch.Generator().manual_seed(0)))
    options = SelectionOptions(strategy="activeft", selection_steps=20)
    a, b = (run_strategy(find_strategy("activeft"), c, 7, options, 0) for c in (bare, told))
    assert torch.equal(a.indices, b.indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relevance_multiplies_the_loss_weights(dtype, make_pool):
    pool = make_pool()
    relevance = torch.rand(60, generator=torch.Generator().manual_seed(0)).to(dtype)
    options = SelectionOptions(loss_weighting="raw", allocation="global", selection_steps=20)
    told = run_strategy(find_strategy("ods"), replace(pool, relevance=relevance), 7, options, 0)
    product = replace(pool, losses=pool.losses * relevance.float())
    assert torch.equal(told.indices, run_strategy(find_strategy("ods"), product, 7, options, 0).indices)


@pytest.mark.parametrize("weighting", [lambda x: x.double(), lambda x: (x > 2.5).long(), lambda x: x > 99])
def test_weightings_may_return_any_numeric_type(weighting, make_pool):
    options = SelectionOptions(loss_weighting=weighting, selection_steps=10)
    assert len(run_strategy(find_strategy("ods"), make_pool(), 7, options, 0)) == 7


def test_info_reports_how_the_objective_went(make_pool):
    found = run_strategy(find_strategy("ods"), make_pool(), 10, SelectionOptions(selection_steps=40), 0)
    assert found.info["objective_end"] < found.info["objective_start"]
    assert 0 < found.info["steps"] <= 40


def test_best_of_an_ensemble_is_at_least_as_good_as_its_first_member(make_pool):
    def run(size: int, seed: int) -> float:
        options = SelectionOptions(allocation="global", ensemble_size=size, selection_steps=30)
        return run_strategy(find_strategy("ods"), make_pool(), 8, options, seed).info["objective_end"]

    single, best = ([run(size, seed) for seed in range(5)] for size in (1, 4))
    assert all(b <= a for a, b in zip(single, best, strict=True)) and best != single


def test_kmeans_plus_plus_starts_in_every_cluster_however_small():
    generator = torch.Generator().manual_seed(0)
    cluster = torch.tensor([0] * 200 + [1, 2])
    embeddings = torch.eye(3)[cluster] + 0.01 * torch.randn(202, 3, generator=generator)
    found = select(embeddings, torch.ones(202), budget=3, centroid_start="k-means++", selection_steps=0)
    assert cluster[found.indices].sort().values.tolist() == [0, 1, 2]


def brute_force_mass(pool, selection, by_class: bool) -> Tensor:
    """How many samples of the same cell have this selected sample as their nearest."""
    e = unit(pool.embeddings)
    row = {int(index): r for r, index in enumerate(pool.indices)}
    chosen = [row[int(index)] for index in selection.indices]
    counts = dict.fromkeys(chosen, 0)
    for r in range(len(pool)):
        rivals = [c for c in chosen if not by_class or pool.labels[c] == pool.labels[r]]
        counts[max(rivals, key=lambda c: float(e[r] @ e[c]))] += 1
    return torch.tensor([float(counts[c]) for c in chosen])


@pytest.mark.parametrize("allocation", ["global", "class", "class_proportional", "class_loss"])
def test_weights_are_the_mass_that_each_selected_sample_stands_for(allocation, make_pool):
    pool = make_pool(size=90)
    options = SelectionOptions(allocation=allocation, selection_steps=30)
    found = run_strategy(find_strategy("ods"), pool, 11, options, 0)
    mass = brute_force_mass(pool, found, by_class=allocation != "global")
    assert float(mass.sum()) == 90
    assert float(found.weights.mean()) == pytest.approx(1)
    torch.testing.assert_close(found.weights, mass / mass.mean())


def test_every_selected_duplicate_has_weight():
    pool = torch.tensor([[1.0, 0.0]]).repeat(10, 1)
    found = select(pool, torch.ones(10), budget=4)
    assert len(found) == 4 and float(found.weights.min()) > 0
