"""Core-set selection by greedy k-center (arXiv 1708.00489, Algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.registry import strategy
from vecaf_hf.selection.selection import Selection


@strategy(needs={"embeddings"})
def k_center(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """Core-set (arXiv 1708.00489): greedily the sample farthest from all chosen ones; first, the nearest to the mean.

    The paper begins with the samples that have labels already; here all have, and the embedding space is another one
    in each loop.
    """
    embeddings = candidates.given("embeddings").float()  # [M, d]
    rows = greedy_k_center(embeddings, budget)
    # A subtraction, a product and a sum for each coordinate of each distance.
    flops = 3.0 * embeddings.numel() * budget
    return Selection(candidates.indices.cpu()[rows.cpu()], info={"flops": flops})


def greedy_k_center(embeddings: Tensor, budget: int) -> Tensor:
    """argmax_i min_{j chosen} ||e_i - e_j||, one sample after the other. [N, d] -> LongTensor [K].

    Only the distance of each sample to its nearest centre is kept. Among equals the lower row comes first.
    """
    rows = torch.empty(budget, dtype=torch.long, device=embeddings.device)
    rows[0] = distances_to(embeddings.mean(dim=0), embeddings).argmin()
    nearest = torch.full_like(embeddings[:, 0], torch.inf)  # [N]
    for chosen in range(1, budget):
        centre = rows[chosen - 1]
        nearest = nearest.minimum(distances_to(embeddings[centre], embeddings))
        # Below the 0 of its duplicates, which are still free.
        nearest[centre] = -1
        rows[chosen] = nearest.argmax()
    return rows


def distances_to(point: Tensor, embeddings: Tensor) -> Tensor:
    """||e_i - point||. [d], [N, d] -> [N]."""
    # By differences: of inner products, duplicates would get a distance from rounding.
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(embeddings, point[None], compute_mode=mode).squeeze(1)
