"""What an inspection finds, on embeddings made by hand."""

import pytest
import torch
from every_case import every_case
from torch.nn.functional import normalize, pdist

from vecaf_hf.inspection import embedding_map as maps
from vecaf_hf.inspection.duplicates import LISTED_PAIRS, near_duplicates, similar_pairs
from vecaf_hf.inspection.embedding_map import BOTH, MOST_POINTS, NEITHER, OTHERS, OURS, embedding_map, in_the_plane
from vecaf_hf.inspection.extremes import CENTROID, CLASS_MEAN, MEAN, extremes, similarity_to_means
from vecaf_hf.inspection.out_of_fold import BOUNDARY, FOLDS, out_of_fold, suspicious_labels
from vecaf_hf.inspection.shares import BINS, class_shares, loss_histogram


def clusters(count: int, classes: int, dimension: int = 8, spread: float = 0.1, seed: int = 0):
    """`count` samples around each of some distant centres: embeddings and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(count)
    centres = torch.eye(dimension)[:classes]
    return centres[labels] + spread * torch.randn(len(labels), dimension, generator=generator), labels


# --- Near duplicates ---


def test_pairs_are_those_of_all_products():
    units = normalize(torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    first, second, values = similar_pairs(units, 0.6)
    expected = {(i, j) for i in range(40) for j in range(i + 1, 40) if float(units[i] @ units[j]) >= 0.6}
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected and expected
    assert torch.allclose(values, (units[first] * units[second]).sum(dim=1))


def test_copies_are_found_whatever_all_embeddings_share():
    embeddings = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    embeddings[9] = embeddings[3] + 0.01
    shifted = embeddings + 100
    indices = torch.arange(1000, 1050)
    found = near_duplicates(shifted, torch.arange(20), torch.arange(20, 40), indices)
    assert [pair[:2] for pair in found.most_similar] == [(1003, 1009)]
    assert (found.pairs, found.samples, found.looked_at, found.samples_at_random) == (1, 2, 20, 0)


def test_the_most_similar_pairs_are_listed_and_all_are_counted():
    embeddings = torch.cat([torch.ones(10, 4), -torch.ones(10, 4)]) * torch.tensor([1.0, 2, 3, 4])
    found = near_duplicates(embeddings, torch.arange(20), torch.arange(0), torch.arange(20))
    assert found.pairs == 2 * 45 and found.samples == 20
    assert len(found.most_similar) == LISTED_PAIRS and found.samples_at_random is None


# --- Out of fold ---


def test_replaced_labels_are_found():
    embeddings, labels = clusters(40, 3)
    wrong = torch.tensor([5, 50, 100])
    given = labels.clone()
    given[wrong] = (labels[wrong] + 1) % 3
    folds = out_of_fold(embeddings, given, seed=0)
    selected = torch.zeros(120, dtype=torch.bool)
    selected[50] = True
    found = suspicious_labels(folds, torch.arange(500, 620), selected)
    assert {one.index for one in found} == {505, 550, 600}
    by_index = {one.index: one for one in found}
    assert (by_index[550].label, by_index[550].other) == (2, 1) and by_index[550].selected
    assert not by_index[505].selected
    losses = [one.loss for one in found]
    assert losses == sorted(losses, reverse=True) and losses[-1] > 2.3


def test_clean_labels_are_not_suspicious():
    embeddings, labels = clusters(40, 3)
    assert suspicious_labels(out_of_fold(embeddings, labels, 0), torch.arange(120), torch.ones(120).bool()) == ()


def test_samples_between_two_classes_are_on_the_boundary():
    embeddings, labels = clusters(50, 2, spread=0.02)
    between = torch.tensor([3, 60])
    embeddings[between] = 0.5 * torch.eye(8)[:2].sum(dim=0)
    on_boundary = out_of_fold(embeddings, labels, 0).on_boundary
    assert on_boundary[between].all() and int(on_boundary.sum()) == round(BOUNDARY * 100)


def test_classes_too_small_for_the_folds_are_left_out():
    embeddings, labels = clusters(10, 4)
    labels[20:27] = 9  # three of class 2 are left
    folds = out_of_fold(embeddings, labels, 0)
    assert set(labels[folds.rows].tolist()) == {0, 1, 3, 9}
    assert folds.classes.tolist() == [0, 1, 3, 9]
    assert torch.equal(folds.classes[folds.labels], labels[folds.rows])


@every_case(
    "labels", [None, torch.zeros(30, dtype=torch.long), torch.arange(30), torch.tensor([0] * (FOLDS - 1) + [1] * 26)]
)
def test_without_two_classes_nothing_is_said(labels):
    assert out_of_fold(torch.randn(30, 4), labels, 0) is None


def test_folds_are_dealt_out_by_the_seed():
    embeddings, labels = clusters(20, 3, spread=0.6)
    one, again, other = (out_of_fold(embeddings, labels, seed).probabilities for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


# --- Nearest and farthest ---


def test_extremes_are_the_two_ends():
    similarity = torch.tensor([0.5, float("nan"), 0.9, 0.1, 0.7])
    found = extremes(torch.tensor([10, 11, 12, 13, 14]), similarity, CENTROID, shown=2)
    assert [index for index, _ in found.nearest] == [12, 14]
    assert [index for index, _ in found.farthest] == [13, 10]
    # No sample is on both sides.
    few = extremes(torch.tensor([10, 11, 12]), torch.tensor([0.5, 0.4, 0.3]), CENTROID, shown=2)
    assert (len(few.nearest), len(few.farthest)) == (1, 1)


def test_similarity_to_means_of_classes_and_of_all():
    embeddings = torch.tensor([[2.0, 0], [0, 3], [5, 0]])
    by_class, reference = similarity_to_means(embeddings, torch.tensor([4, 7, 4]))
    assert reference == CLASS_MEAN and by_class.tolist() == pytest.approx([1, 1, 1])
    of_all, reference = similarity_to_means(embeddings, None)
    assert reference == MEAN
    assert of_all.tolist() == pytest.approx([2 / 5**0.5, 1 / 5**0.5, 2 / 5**0.5])


# --- Shares ---


def test_shares_count_pool_and_selection():
    shares = class_shares(torch.tensor([0, 0, 2, 2, 2]), torch.tensor([2]), ["a", "b"])
    assert [(one.label, one.name, one.pool, one.selected) for one in shares] == [(0, "a", 2, 0), (2, "2", 3, 1)]
    assert class_shares(None, None, ["a"]) == ()


def test_histograms_share_bins_and_hold_everything():
    pool, selected = torch.rand(500, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.9, 30.0])
    found = loss_histogram(pool, selected)
    assert len(found.edges) == BINS + 1
    assert sum(found.pool) == pytest.approx(1) and sum(found.selected) == pytest.approx(1)
    assert found.selected[-1] == pytest.approx(1 / 3)
    assert found.selected_mean == pytest.approx(31.1 / 3)
    assert loss_histogram(pool, selected[:0]) is None
    assert loss_histogram(torch.ones(3), torch.ones(2)).pool_mean == 1


# --- The map ---


@pytest.fixture
def by_pca(monkeypatch):
    monkeypatch.setattr(maps, "find_spec", lambda name: None)


def test_a_map_says_whose_selection_each_is_in(by_pca):
    embeddings = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    ours, others = torch.tensor([1, 1, 0, 0, 0, 0]).bool(), torch.tensor([0, 1, 1, 0, 0, 0]).bool()
    boundary, known = torch.tensor([1, 0, 0, 0, 1, 0]).bool(), torch.tensor([1, 1, 1, 1, 1, 0]).bool()
    found = embedding_map(embeddings, torch.arange(10, 16), OURS * ours + OTHERS * others, boundary, known, seed=0)
    assert found.method == "PCA" and 0 < found.explained <= 1
    assert found.chosen == (OURS, BOTH, OTHERS, NEITHER, NEITHER, NEITHER)
    assert found.indices == tuple(range(10, 16)) and len(found.x) == len(found.y) == 6
    assert found.boundary_shares == pytest.approx({"candidates": 2 / 5, "selected": 1 / 2, "activeft": 0})


def test_the_selected_have_half_of_a_map(by_pca):
    size = 3 * MOST_POINTS
    ours = torch.zeros(size, dtype=torch.bool)
    ours[:MOST_POINTS] = True
    found = embedding_map(torch.randn(size, 3), torch.arange(size), OURS * ours, None, ours, seed=0)
    assert len(found.indices) == MOST_POINTS
    assert sum(index < MOST_POINTS for index in found.indices) == MOST_POINTS // 2
    assert found.on_boundary == () and found.boundary_shares == {}


def test_pca_keeps_the_plane_that_there_is(by_pca):
    plane = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)) @ torch.randn(2, 6)
    coordinates, _, explained = in_the_plane(plane, 0)
    assert explained == pytest.approx(1)
    assert torch.allclose(pdist(coordinates), pdist(plane), atol=1e-4)
    assert in_the_plane(torch.randn(4, 1), 0)[0].shape == (4, 2)


def test_umap_is_the_same_by_seed():
    pytest.importorskip("umap")
    embeddings, _ = clusters(30, 3)
    one, method, _ = in_the_plane(embeddings, 3)
    assert method == "UMAP" and torch.equal(one, in_the_plane(embeddings, 3)[0])
