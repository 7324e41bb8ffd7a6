"""BADGE: batch active learning by diverse gradient embeddings (arXiv 1906.03671, Algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.registry import strategy
from vecaf_hf.selection.scores import probabilities
from vecaf_hf.selection.selection import Selection


@strategy(needs={"embeddings", "logits"})
def badge(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """BADGE (arXiv 1906.03671): k-means++ on the gradients that the head would get if its predictions were right.

    The first sample is the one of the largest gradient, as in the official code (the paper's k-means++ draws it).
    """
    embeddings = of_unit_size(candidates.given("embeddings").float())  # e [M, d]
    residuals = pseudo_residuals(probabilities(candidates))  # a [M, C]
    rows = k_means_plus_plus(residuals, embeddings, budget, generator)
    # Per centre, the inner products with its residual and its embedding.
    flops = 2.0 * (residuals.numel() + embeddings.numel()) * (budget - 1)
    return Selection(candidates.indices.cpu()[rows], info={"flops": flops})


def of_unit_size(embeddings: Tensor) -> Tensor:
    """Divided by one power of two, so that no square overflows: to the last bit as far from each other. [N, d]."""
    return embeddings / 2.0 ** torch.frexp(embeddings.abs().max()).exponent


def pseudo_residuals(probabilities: Tensor) -> Tensor:
    """p - onehot(argmax p): the gradient of the pseudo-label's cross entropy in the logits. [N, C] -> [N, C]."""
    pseudo_labels = probabilities.argmax(dim=1)
    return probabilities - torch.nn.functional.one_hot(pseudo_labels, probabilities.shape[1])


def squared_distances(residuals: Tensor, embeddings: Tensor, norms: Tensor, row: int) -> Tensor:
    """||g_i - g_row||^2 of the gradient embeddings g_i = a_i e_i^T (Eq. 1), which are never formed.

        ||g_i - g_j||^2 = |a_i|^2 |e_i|^2 + |a_j|^2 |e_j|^2 - 2 <a_i, a_j> <e_i, e_j>

    Args:
        residuals: a. [N, C].
        embeddings: e. [N, d].
        norms: ||g_i||^2. [N].
        row: j.

    Returns:
        [N].
    """
    products = (residuals @ residuals[row]) * (embeddings @ embeddings[row])
    # Rounding can leave a duplicate a little below 0.
    return (norms + norms[row] - 2 * products).clamp(min=0)


def squared_norms(residuals: Tensor, embeddings: Tensor) -> Tensor:
    """||g_i||^2 = |a_i|^2 |e_i|^2. [N, C], [N, d] -> [N]."""
    return residuals.square().sum(dim=1) * embeddings.square().sum(dim=1)


def k_means_plus_plus(residuals: Tensor, embeddings: Tensor, budget: int, generator: torch.Generator) -> Tensor:
    """Each sample after the first drawn in proportion to its squared distance to the nearest before it.

    [N, C], [N, d] -> LongTensor [K].
    """
    norms = squared_norms(residuals, embeddings)
    rows = [int(norms.argmax())]
    nearest = torch.full_like(norms, torch.inf)  # D^2 [N]
    free = torch.ones_like(norms, dtype=torch.bool)
    while len(rows) < budget:
        free[rows[-1]] = False
        nearest = nearest.minimum(squared_distances(residuals, embeddings, norms, rows[-1])) * free
        # Where only duplicates of the chosen ones are left, all are as good.
        rows.append(_draw(nearest if nearest.any() else free, generator))
    return torch.tensor(rows)


def _draw(weights: Tensor, generator: torch.Generator) -> int:
    """One row, in proportion to its weight. [N]."""
    sums = weights.double().cumsum(dim=0)  # torch.multinomial refuses more than 2^24 rows
    point = torch.rand(1, generator=generator, dtype=torch.float64).to(sums.device) * sums[-1]
    return int(torch.searchsorted(sums, point, right=True))
