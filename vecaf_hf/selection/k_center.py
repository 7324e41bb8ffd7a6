"""Core-set selection by greedy k-center (arXiv 1708.00489, Algorithm 1)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.processes import Processes, Spread
from vecaf_hf.selection.registry import strategy
from vecaf_hf.selection.selection import Selection


@strategy(needs={"embeddings"}, wants={"processes"})
def k_center(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """Core-set (arXiv 1708.00489): greedily the sample farthest from all chosen ones; first, the nearest to the mean.

    The paper begins with the samples that have labels already; here all have, and the embedding space is another one
    in each loop.
    """
    embeddings = candidates.spread_embeddings
    rows = greedy_k_center(replace(embeddings, own=embeddings.own.float()), budget)
    # A subtraction, a product and a sum for each coordinate of each distance.
    return Selection(candidates.indices.cpu()[rows.cpu()], info={"flops": 1.5 * embeddings.flops_with(budget)})


def greedy_k_center(embeddings: Tensor | Spread, budget: int) -> Tensor:
    """argmax_i min_{j chosen} ||e_i - e_j||, one sample after the other. [N, d] -> LongTensor [K].

    Only the distance of each sample to its nearest centre is kept, by each process that of its share. Among equals the
    lower row comes first.
    """
    spread = Spread.of(embeddings)
    own, share, processes = spread.own, spread.share, spread.processes
    # In float64, where the order of a sum hardly shows, and which MPS does not have.
    summed = (own.cpu() if own.device.type == "mps" else own).sum(dim=0, dtype=torch.float64)
    mean = processes.sum(summed) / spread.size
    rows = [_farthest(-distances_to(mean.to(own), own), share.start, processes)]
    nearest = torch.full_like(own[:, 0], torch.inf)  # [n]
    while len(rows) < budget:
        centre = rows[-1]
        nearest = nearest.minimum(distances_to(spread.at(torch.tensor([centre], device=own.device))[0], own))
        if share.start <= centre < share.stop:
            # Below the 0 of its duplicates, which are still free.
            nearest[centre - share.start] = -1
        rows.append(_farthest(nearest, share.start, processes))
    return torch.tensor(rows)


def _farthest(distances: Tensor, first: int, processes: Processes) -> int:
    """The row with the largest value in any process, whose own begin at `first`. [n]."""
    own = distances.argmax()[None] if len(distances) else torch.empty(0, dtype=torch.long, device=distances.device)
    values = distances[own].cpu().double()
    found = processes.gather(torch.stack([values, (own.cpu() + first).double()], dim=1))  # [at most world, 2]
    return int(found[found[:, 0].argmax(), 1])


def distances_to(point: Tensor, embeddings: Tensor) -> Tensor:
    """||e_i - point||. [d], [N, d] -> [N]."""
    # By differences: of inner products, duplicates would get a distance from rounding.
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(embeddings, point[None], compute_mode=mode).squeeze(1)
