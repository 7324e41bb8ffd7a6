"""ODS's objective J (Eq. 7) and its gradient in closed form.

    J(theta) = - sum_i p_L(i) <e_i, theta_c(i)> / tau
               + lambda / K sum_j log sum_{k != j} exp(<theta_j, theta_k> / tau)

The first term pulls each centroid to the samples that it is nearest to, the second one drives the centroids apart.
Embeddings e and centroids theta have unit rows, so that inner products are cosine similarities <., .>. The assignment c
is piecewise constant: no autograd and no N x K matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from vecaf_hf.selection.similarity import products

# Centroid similarities that are kept between the two products of the repulsion: 512 MiB of floats, K about 11,600.
# Beyond, they are computed twice.
KEPT_ELEMENTS = 2**27


def objective(similarity: Tensor, log_sum: Tensor, temperature: float, diversity_weight: float) -> Tensor:
    """J from the values of its two terms, or J's gradient from theirs."""
    return diversity_weight * log_sum - similarity / temperature


def pull(embeddings: Tensor, probabilities: Tensor, assignment: Tensor, count: int) -> Tensor:
    """Gradient of sum_i p_L(i) <e_i, theta_c(i)> with the assignment c fixed (Eq. 4, 5): each centroid's weighted sum
    of its samples. The value is its inner product with the centroids.

    Args:
        embeddings: e, unit rows. [N, d].
        probabilities: p_L of Eq. 3. [N].
        assignment: c, from 0 to K - 1. LongTensor [N].
        count: K.

    Returns:
        [K, d].
    """
    # Grouped by centroid: sums are taken in a fixed order, on CUDA too, and no weighted copy is made.
    order = assignment.argsort(stable=True)
    sizes = torch.bincount(assignment, minlength=count)
    return embedding_bag(
        order, embeddings, sizes.cumsum(0) - sizes, mode="sum", per_sample_weights=probabilities[order]
    )


def repulsion(centroids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """1/K sum_j log sum_{k != j} exp(<theta_j, theta_k> / tau) (minus R of Eq. 6), and its gradient.

    theta_k enters its own sum and every other centroid's. Similarity is symmetric, so one product serves both parts:

        dR/dtheta_j = 1/(K tau) sum_k (p_jk + p_kj) theta_k,   p_jk = exp(<theta_j, theta_k> / tau - log_sum_j)

    A single centroid has no other to repel: 0.

    Args:
        centroids: theta, unit rows. [K, d].
        temperature: tau.

    Returns:
        [], [K, d].
    """
    count = len(centroids)
    gradient = torch.zeros_like(centroids)
    if count == 1:
        return centroids.new_zeros(()), gradient
    fits = count**2 <= KEPT_ELEMENTS
    kept = list(_logits(centroids, temperature, centroids.new_empty((count, count)))) if fits else None
    log_sums = torch.cat([block.logsumexp(dim=1) for _, block in kept or _logits(centroids, temperature)])
    for where, block in kept or _logits(centroids, temperature):
        shares = (block - log_sums[where, None]).exp_().add_(block.sub_(log_sums).exp_())
        torch.matmul(shares, centroids, out=gradient[where])
    return log_sums.mean(), gradient.div_(count * temperature)


def products_of_repulsion(count: int) -> int:
    """K x K x d products that `repulsion` takes."""
    if count == 1:
        return 0
    return 2 if count**2 <= KEPT_ELEMENTS else 3


def mean_log_sum(centroids: Tensor, temperature: float) -> Tensor:
    """The value of the repulsion alone. [K, d] -> []."""
    if len(centroids) == 1:
        return centroids.new_zeros(())
    return torch.cat([block.logsumexp(dim=1) for _, block in _logits(centroids, temperature)]).mean()


def _logits(centroids: Tensor, temperature: float, out: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """<theta_j, theta_k> / tau in blocks of rows, minus infinity for k = j; `out` as in `products`."""
    for where, similarities in products(centroids, centroids, out):
        similarities.diagonal(offset=where.start).fill_(-torch.inf)
        yield where, similarities.div_(temperature)


def tangent(gradient: Tensor, centroids: Tensor) -> Tensor:
    """The gradient without its radial part, which would leave the sphere. [K, d], [K, d] -> [K, d]."""
    return gradient.addcmul(torch.linalg.vecdot(gradient, centroids)[:, None], centroids, value=-1)
