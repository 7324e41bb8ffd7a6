"""Greedy distinct assignment against a walk over all sorted pairs."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vecaf_hf.selection import assignment
from vecaf_hf.selection.assignment import distinct_nearest


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


@pytest.mark.parametrize("lookups", [1, 2, 16])
@pytest.mark.parametrize(("size", "count", "dimension"), [(60, 60, 5), (60, 20, 5), (60, 1, 5), (1, 1, 2)])
def test_equals_brute_force_on_continuous_data(size, count, dimension, lookups):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(size, dimension, generator=generator, dtype=torch.float64)
    centroids = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    check(embeddings, centroids, lookups)


@pytest.mark.parametrize("lookups", [1, 2, 16])
def test_many_centroids_fight_for_the_same_few_samples(lookups):
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    fought_over = embeddings[0]
    noise = 1e-3 * torch.randn(120, 4, generator=generator, dtype=torch.float64)
    check(embeddings, fought_over + noise, lookups)


@pytest.mark.parametrize("lookups", [1, 2, 16])
@pytest.mark.parametrize("count", [1, 7, 40])
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
