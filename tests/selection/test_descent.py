"""Optimising the centroids, against full-batch Adam on the dense objective."""

from itertools import pairwise

import pytest
import torch
from dense_reference import dense_descent, dense_objective, problem
from every_case import every_case
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

from vecaf_hf.selection import SelectionOptions, descent, starts
from vecaf_hf.selection import objective as module
from vecaf_hf.selection.descent import WINDOW, Optimised, optimise_centroids
from vecaf_hf.selection.similarity import nearest
from vecaf_hf.selection.starts import start_at
from vecaf_hf.selection.weighting import target_distribution


def optimise(
    embeddings: Tensor, weights: Tensor, rows: Tensor, seed: int = 0, diversity_weight: float = 1.0, **options: object
) -> Optimised:
    """From these samples, LongTensor [K]."""
    chosen = SelectionOptions(diversity_weight=diversity_weight, **options)
    generator = torch.Generator().manual_seed(seed)
    return optimise_centroids(embeddings, weights, start_at(embeddings, rows), chosen, generator)


def some_rows(size: int, count: int, seed: int = 4) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count]


def problem_with_rows(size: int, count: int, dimension: int, seed: int = 0, **options) -> tuple[Tensor, Tensor, Tensor]:
    embeddings, weights, _ = problem(size, count, dimension, seed, **options)
    return embeddings, weights, some_rows(size, count)


def exact(embeddings: Tensor, weights: Tensor, centroids: Tensor, diversity_weight: float = 1.0) -> float:
    return float(dense_objective(embeddings, target_distribution(weights), centroids, 0.07, diversity_weight))


@every_case("seed", [3, 4])
@every_case(
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
    rows = some_rows(size, count)
    probabilities = target_distribution(weights)
    reached = dense_descent(embeddings, probabilities, embeddings[rows], diversity_weight=diversity_weight)

    found = optimise(embeddings, weights, rows, diversity_weight=diversity_weight)

    assert reached[0] - found.view.objective >= 0.99 * (reached[0] - min(reached))
    assert found.view.objective == pytest.approx(
        exact(embeddings, weights, found.view.centroids, diversity_weight), rel=1e-5
    )
    torch.testing.assert_close(found.view.centroids.norm(dim=1), torch.ones(count))
    # From a thousandth beside the start.
    assert found.start == pytest.approx(reached[0], abs=0.02)


def test_what_it_returns_is_seen_from_its_centroids():
    embeddings, weights, start = problem_with_rows(900, 30, 12)
    found = optimise(embeddings, weights, start)
    matrix = embeddings @ found.view.centroids.T
    torch.testing.assert_close(found.view.survey.similarity, matrix.amax(dim=1))
    assert torch.equal(found.view.survey.top.rows[:, 0], matrix.argmax(dim=0))


@every_case(("temperature", "diversity_weight"), [(0.07, 1.0), (0.07, 0.1), (0.01, 1.0), (0.5, 10.0)])
def test_it_is_near_what_it_converges_to(temperature, diversity_weight):
    embeddings, weights, start = problem_with_rows(3000, 60, 32)
    options = {"temperature": temperature, "diversity_weight": diversity_weight}
    found = optimise(embeddings, weights, start, **options)
    far = optimise(embeddings, weights, start, selection_steps=400, selection_tolerance=0, **options)
    assert found.start - found.view.objective >= 0.88 * (far.start - far.view.objective)


def descent_of(embeddings: Tensor, weights: Tensor, rows: Tensor, **options: object) -> descent._Descent:
    start = start_at(embeddings, rows)
    return descent._Descent(embeddings, weights, start, SelectionOptions(**options), torch.Generator().manual_seed(0))


@every_case(("size", "batch"), [(30_003, 834), (8000, 512), (3000, 250), (300, 128), (100, 100)])
def test_all_steps_together_see_each_sample_alike(size, batch):
    embeddings = torch.nn.functional.one_hot(torch.arange(size) % 7, 7).double()
    steps = descent_of(embeddings, torch.ones(size).double(), torch.arange(3))
    places = torch.cat([steps.rows_of(step) for step in range(36)])
    seen = torch.bincount(places, minlength=size)
    assert steps.size == batch and int(seen.min()) >= 1 and int(seen.max() - seen.min()) <= 1


@every_case("diversity_weight", [0.0, 0.1])
def test_sums_stay_those_of_the_whole_pool(diversity_weight):
    embeddings, weights, start = problem_with_rows(2000, 20, 8)
    steps = descent_of(embeddings, weights, start, diversity_weight=diversity_weight)
    for step in range(12):
        before = steps.assignment.clone()
        centroids = steps.centroids
        steps.step(step)
        if step:
            seen = steps.rows_of(step - 1)
            assert torch.equal(steps.assignment[seen], nearest(embeddings[seen], centroids)[1])
            before[seen] = steps.assignment[seen]
        assert torch.equal(steps.assignment, before)
        member = torch.nn.functional.one_hot(steps.assignment, 20).double()
        torch.testing.assert_close(steps.pulled, member.T @ (embeddings * target_distribution(weights)[:, None]))
    assert not torch.equal(steps.assignment, start_at(embeddings, start).assignment)


def test_in_a_large_pool_sums_are_of_who_has_been_looked_at(monkeypatch):
    """All looks together are as many as samples, and large losses have more of them."""
    monkeypatch.setattr(starts, "FEWEST_SEEN", 500)
    embeddings, weights, _ = problem_with_rows(30_000, 20, 8)
    generator, options = torch.Generator().manual_seed(0), SelectionOptions(diversity_weight=0.01)
    start = starts.start_centroids(embeddings, weights, 20, "k-means++", generator)
    steps = descent._Descent(embeddings, weights, start, options, generator)
    probabilities = target_distribution(weights)
    for step in range(36):
        steps.step(step)
        seen = ~steps.unseen
        assert torch.equal(seen, steps.assignment >= 0)
        assert steps.mass == pytest.approx(float(probabilities[seen].sum()))
        member = torch.nn.functional.one_hot(steps.assignment[seen], 20).double()
        expected = member.T @ (embeddings[seen] * probabilities[seen][:, None])
        torch.testing.assert_close(steps.pulled, expected.double())
    looks = torch.cat([steps.rows_of(step) for step in range(35)])
    assert len(looks) + 500 == pytest.approx(30_000, abs=35)
    assert float(probabilities[looks].mean()) > float(probabilities.mean())
    assert float(probabilities[seen].sum()) > 0.95 and float(seen.double().mean()) < 0.99


@every_case("skew", [0.0, 1.0, 2.0])
@every_case("diversity_weight", [0.01, 1.0])
def test_in_a_large_pool_it_reaches_what_adam_reaches(skew, diversity_weight, monkeypatch):
    """Also where a few samples have most of the loss: the start has seen those, and a step must look at them again."""
    monkeypatch.setattr(starts, "FEWEST_SEEN", 1000)
    embeddings, _, _ = problem(20_000, 60, 64, 0, dtype=torch.float32)
    weights = (skew * torch.randn(20_000, generator=torch.Generator().manual_seed(1))).exp()
    generator, options = torch.Generator().manual_seed(0), SelectionOptions(diversity_weight=diversity_weight)
    start = starts.start_centroids(embeddings, weights, 60, "k-means++", generator)
    first, probabilities = embeddings[start.rows], target_distribution(weights)
    reached = dense_descent(embeddings, probabilities, first, diversity_weight=diversity_weight)
    assert not start.seen.all()
    part, whole = (
        reached[0] - optimise_centroids(embeddings, weights, one, options, generator).view.objective
        for one in (start, start_at(embeddings, start.rows))
    )
    assert part >= 0.96 * (reached[0] - min(reached))
    assert part >= 0.99 * whole


def test_without_diversity_no_step_raises_the_objective():
    embeddings, weights, start = problem_with_rows(3000, 50, 16)
    steps = descent_of(embeddings, weights, start, diversity_weight=0.0)
    values = [steps.step(step) for step in range(36)]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(values))
    assert values[-1] < values[0]


def test_samples_without_weight_pull_nothing():
    embeddings, _, start = problem_with_rows(4000, 4, 8)
    weights = torch.zeros(4000, dtype=torch.float64)
    weights[[7, 1234, 3999]] = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    steps = descent_of(embeddings, weights, start)
    assert steps.rows_of(2).sort().values.tolist() == [7, 1234, 3999]
    found = optimise(embeddings, weights, start, diversity_weight=0.0)
    rows = torch.tensor([7, 1234, 3999, 0])
    assert found.view.objective == pytest.approx(
        exact(embeddings[rows], weights[rows], found.view.centroids, 0.0), rel=1e-9
    )


def test_a_centroid_that_nothing_is_nearest_to_stays_where_it_is_without_diversity():
    embeddings = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]), dim=-1)
    found = optimise(embeddings, torch.ones(4), torch.arange(3), diversity_weight=0.0)
    torch.testing.assert_close(found.view.centroids[1], embeddings[1])
    # Equal centroids are both nearest to their sample.
    assert found.view.occupied == 1


def test_occupied_is_the_part_of_centroids_that_a_sample_is_nearest_to():
    embeddings, weights, start = problem_with_rows(300, 12, 8)
    far = optimise(embeddings, weights, start, diversity_weight=5.0).view
    nearest_to = nearest(embeddings, far.centroids)[1]
    assert far.occupied == pytest.approx(len(nearest_to.unique()) / 12) and far.occupied < 1
    assert optimise(embeddings, weights, start, diversity_weight=0.0).view.occupied == 1


def test_equal_centroids_come_apart():
    embeddings, weights, _ = problem(1000, 1, 16)
    embeddings[:250] = embeddings[0]
    found = optimise(embeddings, weights, torch.arange(40))
    cosines = found.view.centroids @ found.view.centroids.T - 2 * torch.eye(40)
    assert float(cosines.max()) < 0.99
    apart = 250 + some_rows(750, 40, seed=0)
    assert found.view.objective < found.start - 0.8 * (
        found.start - optimise(embeddings, weights, apart).view.objective
    )


@every_case("seed", range(6))
def test_it_never_returns_worse_than_its_start(seed):
    embeddings, weights, start = problem_with_rows(300, 8, 6, seed)
    wild = optimise(embeddings, weights, start, seed, selection_learning_rate=1e4, selection_steps=3)
    assert wild.view.objective == pytest.approx(exact(embeddings, weights, wild.view.centroids))
    # A centroid starts a thousandth beside its sample.
    assert wild.view.objective <= exact(embeddings, weights, embeddings[start]) + 1e-2


@every_case("options", [{"temperature": 1e-310}, {"temperature": 1e-30, "diversity_weight": 1e300}])
def test_an_objective_that_is_not_finite_is_refused(options):
    embeddings, weights, start = problem_with_rows(50, 8, 6, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"ODS's objective is -?(inf|nan) with temperature="):
        optimise(embeddings, weights, start, **options)


@every_case("kept_elements", [0, 2**27])
@every_case("options", [{}, {"diversity_weight": 0.0}, {"selection_steps": 0}, {"selection_steps": 7}])
@every_case("count", [20, 400])
def test_work_is_counted_as_torch_counts_it(count, options, kept_elements, monkeypatch):
    monkeypatch.setattr(module, "KEPT_ELEMENTS", kept_elements)
    embeddings, weights, start = problem_with_rows(1500, count, 8)
    with FlopCounterMode(display=False) as counter:
        found = optimise(embeddings, weights, start, **options)
    assert found.flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_no_steps_leave_the_start():
    embeddings, weights, start = problem_with_rows(20, 4, 6)
    found = optimise(embeddings, weights, start, selection_steps=0)
    assert torch.equal(found.view.centroids, embeddings[start])
    assert found.steps == 0 and found.start == found.view.objective
    assert found.start == pytest.approx(exact(embeddings, weights, embeddings[start]))


def test_it_stops_once_settled():
    embeddings, weights, start = problem_with_rows(80, 5, 6)
    loose, default, tight = (
        optimise(embeddings, weights, start, diversity_weight=0.03, selection_tolerance=tolerance)
        for tolerance in (0.9, 3e-3, 0)
    )
    assert loose.steps == 3 * WINDOW and loose.steps < default.steps < tight.steps == 36
    assert tight.view.objective <= loose.view.objective
    assert default.view.objective == pytest.approx(tight.view.objective, rel=1e-2)


def test_rounding_moves_no_centroid_where_there_is_nothing_to_gain():
    embeddings = torch.tensor([[0.6, 0.8]]).repeat(700, 1)
    found = optimise(embeddings, torch.ones(700), torch.arange(1))
    torch.testing.assert_close(found.view.centroids, embeddings[:1], rtol=0, atol=0.02)


def test_the_same_seed_takes_the_same_path_and_another_one_another():
    embeddings, weights, start = problem_with_rows(2000, 20, 8)
    first, again, other = (optimise(embeddings, weights, start, seed).view.centroids for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_progress_counts_every_step_however_early_it_stops():
    embeddings, weights, rows = problem_with_rows(80, 5, 6)
    for tolerance in (0.9, 0):
        told: list[int] = []
        options = SelectionOptions(selection_tolerance=tolerance)
        optimise_centroids(embeddings, weights, start_at(embeddings, rows), options, torch.Generator(), told.append)
        assert sum(told) == 72


def test_without_diversity_nothing_repels(monkeypatch):
    monkeypatch.setattr(descent, "repulsion", lambda *_: pytest.fail("a repulsion of weight 0 was computed"))
    monkeypatch.setattr(descent, "mean_log_sum", lambda *_: pytest.fail("a repulsion of weight 0 was computed"))
    embeddings, weights, start = problem_with_rows(300, 6, 8)
    found = optimise(embeddings, weights, start, diversity_weight=0.0)
    # What is left is k-means: each centroid is the direction of its samples' weighted mean.
    assignment = nearest(embeddings, found.view.centroids)[1]
    member = torch.nn.functional.one_hot(assignment, 6).double()
    means = member.T @ (embeddings * weights[:, None])
    assert ((means / means.norm(dim=1, keepdim=True)) * found.view.centroids).sum(dim=1).min() > 0.999


def test_the_path_rotates_with_the_space():
    embeddings, weights, start = problem_with_rows(60, 7, 8)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    straight, turned = (optimise(one, weights, start).view.centroids for one in (embeddings, embeddings @ rotation))
    torch.testing.assert_close(straight @ rotation, turned, rtol=0, atol=1e-8)
    assert (straight - embeddings[start]).norm() > 0.1


def test_no_step_is_longer_than_the_learning_rate():
    embeddings, weights, start = problem_with_rows(400, 10, 8)
    steps = descent_of(embeddings, weights, start, diversity_weight=1.0, selection_learning_rate=0.2)
    for step in range(6):
        before = steps.centroids
        steps.step(step)
        angles = (steps.centroids * before).sum(dim=1).clamp(max=1).acos()
        assert float(angles.max()) <= 0.2 * (1 - step / 36) + 1e-6


def test_a_step_keeps_most_of_the_last_ones_direction():
    embeddings, weights, start = problem_with_rows(400, 10, 8)
    steps = descent_of(embeddings, weights, start, diversity_weight=1.0)
    steps._move(embeddings[some_rows(400, 10, seed=5)], 0.1)
    last = steps.velocity
    # Nowhere else to go.
    steps._move(steps.centroids, 0.1)
    torch.testing.assert_close(steps.velocity, descent.MOMENTUM * last, rtol=0, atol=1e-6)
