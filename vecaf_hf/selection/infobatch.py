"""InfoBatch (arXiv 2303.04947): unbiased dynamic data pruning."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection

# The paper's r: the probability that a well-learned sample is pruned.
PRUNED = 0.5
# The paper's delta: the part of the run after which nothing is pruned.
ANNEALED = 0.875


def infobatch(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """InfoBatch (arXiv 2303.04947): all but a random half of those whose last training loss is below the mean.

    The budget is ignored. The half that stays has twice the weight of the other samples, so that the expected loss is
    that of the whole pool; samples that training has not seen stay too. A loop that begins in the last 12.5 % of the
    run takes the whole pool with equal weights. Where none begins there, as with fewer than 8 loops of equal length,
    the run prunes to its end. In the paper a loop is an epoch: set `num_loops` to the run's passes over the pool.

    Weights have mean 1 over the selection, as all of ours have: a step's gradient is an unbiased estimate of that of
    the pool's mean loss, as without pruning. The paper leaves the weights 1 and 2, and its steps are larger by the size
    of the pool over that of the selection (4/3 where half of the losses are below the mean): it makes that many fewer
    in an epoch, while our runs have a fixed number.
    """
    assert candidates.training_losses is not None and candidates.progress is not None
    indices = candidates.indices.cpu()
    learned = well_learned(candidates.training_losses.cpu())
    if candidates.progress >= ANNEALED or not learned.any():
        return Selection(indices)
    kept = torch.ones_like(learned)
    kept[drawn(learned.nonzero()[:, 0], PRUNED, generator)] = False
    weights = torch.where(learned, 1 / (1 - PRUNED), 1.0)
    return Selection(indices[kept], weights[kept])


def well_learned(losses: Tensor) -> Tensor:
    """Which losses, NaN where unknown, are below the mean of the known ones. [M] -> BoolTensor [M]."""
    # In double precision the mean of equal losses is not above them.
    losses = losses.double()
    return losses < losses.nanmean()


def drawn(rows: Tensor, part: float, generator: torch.Generator) -> Tensor:
    """A random part of these rows, to the nearest whole number on either side: each row is as likely as `part` says.

    LongTensor [n] -> [about part * n].
    """
    count = int(part * len(rows) + torch.rand((), dtype=torch.float64, generator=generator))
    return rows[torch.randperm(len(rows), generator=generator)[:count]]
