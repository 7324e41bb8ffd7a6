"""J and its closed-form gradient against autograd over the whole N x K matrix."""

import torch
from dense_reference import dense_objective, problem
from every_case import every_case
from torch import Tensor
from torch.nn.functional import normalize

from vecaf_hf.selection import objective as module
from vecaf_hf.selection import products
from vecaf_hf.selection.objective import mean_log_sum, objective, pull, repulsion, tangent
from vecaf_hf.selection.similarity import nearest

SHAPES = [(1, 1, 3), (2, 2, 2), (7, 1, 4), (9, 9, 5), (40, 6, 8), (150, 33, 16), (64, 64, 3)]


def objective_and_gradient(
    embeddings: Tensor, probabilities: Tensor, centroids: Tensor, temperature: float, diversity_weight: float
) -> tuple[Tensor, Tensor]:
    pulled = pull(embeddings, probabilities, nearest(embeddings, centroids)[1], len(centroids))
    similarity = (pulled * centroids).sum()
    log_sum, repelled = repulsion(centroids, temperature)
    gradient = objective(pulled, repelled, temperature, diversity_weight)
    return objective(similarity, log_sum, temperature, diversity_weight), tangent(gradient, centroids)


@every_case("kept_elements", [0, 2**27])
@every_case("chunk_elements", [1, 50, 2**23])
@every_case(("size", "count", "dimension"), SHAPES)
@every_case(("temperature", "diversity_weight"), [(0.07, 1.0), (0.5, 0.3), (0.07, 0.0), (0.001, 1.0)])
def test_value_and_gradient_equal_dense_autograd(
    size, count, dimension, temperature, diversity_weight, chunk_elements, kept_elements, monkeypatch
):
    monkeypatch.setattr(products, "CHUNK_ELEMENTS", chunk_elements)
    monkeypatch.setattr(module, "KEPT_ELEMENTS", kept_elements)
    embeddings, losses, centroids = problem(size, count, dimension)
    probabilities = losses / losses.sum()
    leaf = centroids.clone().requires_grad_()
    expected = dense_objective(embeddings, probabilities, leaf, temperature, diversity_weight)
    expected.backward()

    value, gradient = objective_and_gradient(embeddings, probabilities, centroids, temperature, diversity_weight)

    torch.testing.assert_close(value, expected.detach(), rtol=1e-5, atol=1e-10)
    assert leaf.grad is not None
    assert (gradient - leaf.grad).norm() <= 1e-5 * leaf.grad.norm() + 1e-10
    assert (gradient * centroids).sum(dim=1).abs().max() < 1e-9


def test_objective_of_unnormalised_arrays_is_that_of_their_unit_rows():
    embeddings, losses, centroids = problem(30, 4, 6)
    probabilities = losses / losses.sum()
    generator = torch.Generator().manual_seed(1)
    scaled = embeddings * (0.1 + 10 * torch.rand(30, 1, generator=generator, dtype=torch.float64))
    ours, _ = objective_and_gradient(normalize(scaled, dim=-1), probabilities, centroids, 0.07, 1.0)
    torch.testing.assert_close(ours, dense_objective(scaled, probabilities, 3 * centroids, 0.07, 1.0))


@every_case("count", [1, 2, 33])
def test_the_value_alone_is_that_beside_the_gradient(count, monkeypatch):
    monkeypatch.setattr(products, "CHUNK_ELEMENTS", 50)
    _, _, centroids = problem(40, count, 8)
    torch.testing.assert_close(mean_log_sum(centroids, 0.07), repulsion(centroids, 0.07)[0])


def test_tangent_is_orthogonal_and_keeps_what_already_is():
    _, _, centroids = problem(10, 4, 5)
    gradient = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    projected = tangent(gradient, centroids)
    assert (projected * centroids).sum(dim=1).abs().max() < 1e-12
    torch.testing.assert_close(tangent(projected, centroids), projected)
