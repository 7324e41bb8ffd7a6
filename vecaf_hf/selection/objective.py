"""ODS's objective J (Eq. 7) and its gradient in closed form.

    J(theta) = - sum_i p_L(i) <e_i, theta_c(i)> / tau
               + lambda / K sum_j log sum_{k != j} exp(<theta_j, theta_k> / tau)

The first term pulls each centroid to the samples that it is nearest to, the second one drives the centroids apart.
Embeddings e and centroids theta have unit rows, so that inner products are cosine similarities <., .>. The assignment c
is piecewise constant: no autograd and no N x K matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from vecaf_hf.selection.processes import ALONE, Processes, share_of
from vecaf_hf.selection.products import SMALLER, chunks, product, products

# Centroid similarities that are kept between the two products of the repulsion: 512 MiB of floats, K about 11,600.
# Beyond, they are computed twice.
KEPT_ELEMENTS = 2**27
# Added and subtracted, it rounds a float64 between -1 and 1 to a multiple of 2^-50. Sums of those that stay below 2
# have no rounding, so that they are the same in any order, and however processes share them.
ROUNDS_TO_A_GRID = 6.0


def objective(similarity: Tensor, log_sum: Tensor, temperature: float, diversity_weight: float) -> Tensor:
    """J from the values of its two terms, or J's gradient from theirs."""
    return diversity_weight * log_sum - similarity / temperature


def pull(
    embeddings: Tensor, probabilities: Tensor, assignment: Tensor, count: int, before: Tensor | None = None
) -> Tensor:
    """Gradient of sum_i p_L(i) <e_i, theta_c(i)> with the assignment c fixed (Eq. 4, 5): each centroid's weighted sum
    of its samples. The value is its inner product with the centroids.

    Args:
        embeddings: e, unit rows. [N, d].
        probabilities: p_L of Eq. 3. [N].
        assignment: c, from 0 to K - 1. LongTensor [N].
        count: K.
        before: Another assignment, whose gradient is taken off; -1 for a sample that had none. LongTensor [N].

    Returns:
        [K, d], float64, the same in whatever order samples come.
    """
    # MPS has no float64.
    device = "cpu" if embeddings.device.type == "mps" else embeddings.device
    sums = torch.zeros((count, embeddings.shape[1]), dtype=torch.float64, device=device)
    masses = probabilities.to(sums)
    for where, block in chunks(embeddings, SMALLER * embeddings.shape[1]):
        pulls = sums.new_empty(block.shape).copy_(block).mul_(masses[where, None])
        pulls.add_(ROUNDS_TO_A_GRID).sub_(ROUNDS_TO_A_GRID)
        sums.index_add_(0, assignment[where].to(device), pulls)
        if before is not None:
            earlier = before[where].to(device)
            sums.index_add_(0, earlier[earlier >= 0], pulls[earlier >= 0], alpha=-1)
    return sums


def repulsion(centroids: Tensor, temperature: float, processes: Processes = ALONE) -> tuple[Tensor, Tensor]:
    """1/K sum_j log sum_{k != j} exp(<theta_j, theta_k> / tau) (minus R of Eq. 6), and its gradient.

    theta_k enters its own sum and every other centroid's. Similarity is symmetric, so one product serves both parts:

        dR/dtheta_j = 1/(K tau) sum_k (p_jk + p_kj) theta_k,   p_jk = exp(<theta_j, theta_k> / tau - log_sum_j)

    A single centroid has no other to repel: 0.

    Args:
        centroids: theta, unit rows. [K, d].
        temperature: tau.
        processes: Each does its share of the rows.

    Returns:
        [], [K, d].
    """
    count = len(centroids)
    if count == 1:
        return centroids.new_zeros(()), torch.zeros_like(centroids)
    mine = share_of(count, processes)
    gradient = torch.zeros_like(centroids[mine])
    fits = count**2 <= KEPT_ELEMENTS
    kept = list(_logits(centroids, mine, temperature, gradient.new_empty((len(gradient), count)))) if fits else None
    log_sums = _log_sums(kept or _logits(centroids, mine, temperature), centroids, processes)
    for where, block in kept or _logits(centroids, mine, temperature):
        shares = (block - log_sums[mine][where, None]).exp_().add_(block.sub_(log_sums).exp_())
        product(shares, centroids, gradient[where])
    return log_sums.mean(), processes.gather(gradient.div_(count * temperature))


def products_of_repulsion(count: int) -> int:
    """K x K x d products that `repulsion` takes."""
    if count == 1:
        return 0
    return 2 if count**2 <= KEPT_ELEMENTS else 3


def mean_log_sum(centroids: Tensor, temperature: float, processes: Processes = ALONE) -> Tensor:
    """The value of the repulsion alone. [K, d] -> []."""
    if len(centroids) == 1:
        return centroids.new_zeros(())
    blocks = _logits(centroids, share_of(len(centroids), processes), temperature)
    return _log_sums(blocks, centroids, processes).mean()


def _log_sums(blocks: Iterable[tuple[slice, Tensor]], centroids: Tensor, processes: Processes) -> Tensor:
    """Of all rows, from the blocks of each process's share. [K]."""
    return processes.gather(torch.cat([centroids.new_empty(0), *(block.logsumexp(dim=1) for _, block in blocks)]))


def _logits(
    centroids: Tensor, share: slice, temperature: float, out: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """<theta_j, theta_k> / tau in blocks of this share's rows, minus infinity for k = j; `out` as in `products`."""
    for where, similarities in products(centroids[share], centroids, out):
        similarities.diagonal(offset=share.start + where.start).fill_(-torch.inf)
        yield where, similarities.div_(temperature)


def tangent(gradient: Tensor, centroids: Tensor) -> Tensor:
    """The gradient without its radial part, which would leave the sphere. [K, d], [K, d] -> [K, d]."""
    return gradient.addcmul(torch.linalg.vecdot(gradient, centroids)[:, None], centroids, value=-1)
