"""Greedy distinct assignment against a walk over all sorted pairs."""

from unittest import mock

import pytest
import torch
from every_case import every_case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from vecaf_hf.selection import assignment
from vecaf_hf.selection.assignment import distinct_nearest
from vecaf_hf.selection.similarity import Top, survey


def brute_force(embeddings: Tensor, centroids: Tensor) -> list[int]:
    similarity = (centroids.double() @ embeddings.double().T).tolist()
    pairs = sorted(
        (-value, sample, centroid) for centroid, row in enumerate(similarity) for sample, value in enumerate(row)
    )
    chosen: dict[int, int] = {}
    taken: set[int] = set()
    for _, sample, centroid in pairs:
        if centroid not in chosen and sample not in taken:
            chosen[centroid] = sample
            taken.add(sample)
    return [chosen[centroid] for centroid in range(len(centroids))]


def check(embeddings: Tensor, centroids: Tensor, lookups: int = 16) -> None:
    with mock.patch.object(assignment, "NEAREST_SAMPLES", lookups):
        chosen = distinct_nearest(embeddings, centroids)
    assert chosen.dtype == torch.long
    assert chosen.tolist() == brute_force(embeddings, centroids)


@st.composite
def small_problems(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Few values in few dimensions, exact in floating point: ties and duplicates everywhere."""
    size, dimension = draw(st.integers(1, 25)), draw(st.integers(1, 3))
    count = draw(st.one_of(st.just(size), st.integers(1, size)))
    vectors = st.lists(st.integers(-2, 2), min_size=dimension, max_size=dimension)
    embeddings = draw(st.lists(vectors, min_size=size, max_size=size))
    centroids = draw(st.lists(vectors, min_size=count, max_size=count))
    return torch.tensor(embeddings).float(), torch.tensor(centroids).float()


@settings(deadline=None, max_examples=150)
@given(small_problems(), st.sampled_from([1, 2, 3, 16]))
def test_equals_brute_force_with_ties(problem, lookups):
    check(*problem, lookups)


@every_case("lookups", [1, 2, 16])
@every_case(("size", "count", "dimension"), [(60, 60, 5), (60, 20, 5), (60, 1, 5), (1, 1, 2)])
def test_equals_brute_force_on_continuous_data(size, count, dimension, lookups):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(size, dimension, generator=generator, dtype=torch.float64)
    centroids = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    check(embeddings, centroids, lookups)


@every_case("lookups", [1, 2, 16])
def test_many_centroids_fight_for_the_same_few_samples(lookups):
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    fought_over = embeddings[0]
    noise = 1e-3 * torch.randn(120, 4, generator=generator, dtype=torch.float64)
    check(embeddings, fought_over + noise, lookups)


@every_case("lookups", [1, 2, 16])
@every_case("count", [1, 7, 40])
def test_identical_embeddings_go_by_index(count, lookups):
    embeddings = torch.tensor([[0.6, 0.8]]).repeat(40, 1)
    check(embeddings, embeddings[:count], lookups)
    with mock.patch.object(assignment, "NEAREST_SAMPLES", lookups):
        assert distinct_nearest(embeddings, embeddings[:count]).tolist() == list(range(count))


def test_order_of_the_centroids_does_not_matter():
    generator = torch.Generator().manual_seed(2)
    embeddings = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    centroids = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    order = torch.randperm(30, generator=generator)
    chosen = distinct_nearest(embeddings, centroids)
    assert torch.equal(distinct_nearest(embeddings, centroids[order]), chosen[order])


def test_the_nearer_centroid_wins_whatever_its_number():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    centroids = torch.tensor([[0.8, 0.6], [1.0, 0.0]])
    assert distinct_nearest(embeddings, centroids).tolist() == [1, 0]


def test_more_centroids_than_samples_are_refused():
    with pytest.raises(ValueError, match="3 centroids cannot take distinct samples out of 2"):
        distinct_nearest(torch.eye(2), torch.ones(3, 2))


@every_case("lookups", [1, 2, 16])
def test_lists_that_are_known_already_lead_to_the_same(lookups):
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(80, 3, generator=generator, dtype=torch.float64)
    centroids = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    top = survey(embeddings, centroids, lookups).top
    assert distinct_nearest(embeddings, centroids, top).tolist() == brute_force(embeddings, centroids)


@every_case("lookups", [1, 2, 16])
def test_near_duplicates_in_float32_cost_no_more_than_rounding(lookups):
    """Which of them is taken is up to the rounding of products; how near the samples are is not."""
    generator = torch.Generator().manual_seed(4)
    embeddings = normalize(torch.randn(30, 24, generator=generator), dim=-1).repeat(20, 1)
    embeddings += 1e-7 * torch.randn(600, 24, generator=generator)
    centroids = normalize(torch.randn(200, 24, generator=generator), dim=-1)
    chosen = distinct_nearest(embeddings, centroids, survey(embeddings, centroids, lookups).top)
    expected = torch.tensor(brute_force(embeddings, centroids))
    assert len(chosen.unique()) == 200
    near, nearest = ((embeddings[rows] * centroids).sum(dim=1) for rows in (chosen, expected))
    torch.testing.assert_close(near.sort().values, nearest.sort().values, rtol=0, atol=1e-5)


def test_many_look_ups_keep_short_lists(monkeypatch):
    lists = []
    monkeypatch.setattr(assignment, "Top", lambda keys, count: lists.append(count) or Top(keys, count))
    embeddings = torch.eye(8)[torch.zeros(500, dtype=torch.long)]
    assert sorted(distinct_nearest(embeddings, embeddings[:300]).tolist()) == list(range(300))
    assert len(lists) > 30 and set(lists) == {8}
