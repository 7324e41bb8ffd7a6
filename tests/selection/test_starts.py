"""Where centroids start."""

import statistics

import pytest
import torch
from dense_reference import problem
from every_case import every_case

from vecaf_hf.selection import starts
from vecaf_hf.selection.similarity import nearest
from vecaf_hf.selection.starts import CENTROID_STARTS, start_centroids


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@every_case("start", CENTROID_STARTS)
@every_case("count", [1, 7, 30])
def test_distinct_samples_and_the_pool_assigned_to_them(start, count):
    embeddings, weights, _ = problem(30, 1, 6)
    found = start_centroids(embeddings, weights, count, start, generator())
    assert len(found.rows) == len(found.rows.unique()) == count
    assert torch.equal(found.assignment, nearest(embeddings, embeddings[found.rows])[1])


@every_case(("start", "expected"), [("weighted", [0.1, 0.2, 0.7]), ("random", [1 / 3] * 3)])
def test_a_single_start_is_drawn_with_its_probability(start, expected):
    embeddings, weights = torch.eye(3), torch.tensor([1.0, 2.0, 7.0])
    rows = torch.cat([start_centroids(embeddings, weights, 1, start, generator(seed)).rows for seed in range(2000)])
    counts = torch.bincount(rows, minlength=3) / 2000
    # Three standard errors.
    torch.testing.assert_close(counts, torch.tensor(expected), rtol=0, atol=0.034)


def test_k_means_plus_plus_draws_by_weight_times_distance():
    # From the first sample on, one of the others: 1 - cos is 0.2 and 1, weights 6 and 2.
    embeddings = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    weights = torch.tensor([1e6, 6.0, 2.0])
    drawn = [start_centroids(embeddings, weights, 2, "k-means++", generator(seed)).rows for seed in range(2000)]
    seconds = torch.stack([rows[1] for rows in drawn if rows[0] == 0])
    assert len(seconds) > 1990
    assert float((seconds == 1).float().mean()) == pytest.approx(0.2 * 6 / (0.2 * 6 + 2), abs=0.034)


@every_case("seed", range(5))
def test_k_means_plus_plus_leaves_no_region_out_however_small(seed):
    cluster = torch.tensor([0] * 200 + [1] * 2 + [2])
    embeddings = torch.eye(3)[cluster] + 0.01 * torch.randn(203, 3, generator=generator(seed))
    embeddings = embeddings / embeddings.norm(dim=1, keepdim=True)
    # Rounds of several samples each.
    found = start_centroids(embeddings, torch.ones(203), 24, "k-means++", generator(seed))
    assert cluster[found.rows].unique().tolist() == [0, 1, 2]


def test_samples_without_a_direction_are_not_drawn_as_far_ones():
    embeddings, weights, _ = problem(400, 1, 8)
    embeddings[::4] = 0
    found = start_centroids(embeddings, weights, 80, "k-means++", generator())
    # Of the first round, which distances have no part in, some may be.
    assert int((embeddings[found.rows].norm(dim=1) == 0).sum()) <= 10


@every_case("start", CENTROID_STARTS)
def test_of_a_large_pool_a_part_is_looked_at(start, monkeypatch):
    monkeypatch.setattr(starts, "FEWEST_SEEN", 60)
    embeddings = torch.nn.functional.normalize(torch.randn(400, 6, generator=generator()), dim=-1)
    found = start_centroids(embeddings, torch.rand(400, generator=generator()), 4, start, generator())
    assert int(found.seen.sum()) == 60 and bool(found.seen[found.rows].all())
    assert torch.equal(found.assignment[found.seen], nearest(embeddings[found.seen], embeddings[found.rows])[1])
    assert bool((found.assignment[~found.seen] == -1).all())


def test_what_a_part_stands_for_is_the_pool(monkeypatch):
    """Of 300 samples ten have half of the weight, more than a part of 40 can have of draws, and a hundred have none."""
    probabilities = torch.tensor([0.05] * 10 + [0.5 / 190] * 190 + [0.0] * 100)
    parts = [starts._part(probabilities, 40, generator(seed)) for seed in range(400)]
    heavy = [float(rates[rows < 10].sum()) for rows, rates in parts]
    light = [float(rates[rows >= 10].sum()) for rows, rates in parts]
    assert statistics.fmean(heavy) == pytest.approx(0.5, abs=0.01)
    assert statistics.fmean(light) == pytest.approx(0.5, abs=0.01)
    assert all(bool((rows < 200).all()) and bool((rows.diff() > 0).all()) for rows, _ in parts)


@every_case("start", CENTROID_STARTS)
def test_equal_samples_and_samples_without_weight_are_drawn_once_each(start):
    embeddings = torch.tensor([[0.6, 0.8]]).repeat(12, 1)
    weights = torch.tensor([0.0] * 9 + [1.0] * 3)
    found = start_centroids(embeddings, weights, 12, start, generator())
    assert found.rows.sort().values.tolist() == list(range(12))
    if start != "random":
        some = start_centroids(embeddings, weights, 3, start, generator())
        assert some.rows.sort().values.tolist() == [9, 10, 11]
