"""What several independently initialised sets of centroids become (Section 3.1, ensemble)."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from sklearn.covariance import LedoitWolf
from torch import Tensor
from torch.nn.functional import normalize


def matched(members: list[Tensor]) -> Tensor:
    """The members with their centroids permuted so that centroid j of each is the counterpart of centroid j
    of the first: the optimal assignment on cosine similarity. E x [K, d] -> [E, K, d]."""
    first = members[0]
    aligned = [first]
    for member in members[1:]:
        _, order = linear_sum_assignment((first @ member.T).cpu().numpy(), maximize=True)
        aligned.append(member[torch.as_tensor(order, device=member.device)])
    return torch.stack(aligned)


def debiased(members: list[Tensor]) -> Tensor:
    """theta* = theta_1 - Sigma^-1 (theta_1 - mu), unit rows. E x [K, d] -> [K, d].

    mu is the mean of the matched members; Sigma [d, d] is the Ledoit-Wolf covariance of their deviations
    from it. Spread on the sphere is far below 1, so Sigma^-1 overshoots by orders of magnitude as published:
    each centroid's step is bounded by its distance to mu.
    """
    aligned = matched(members)
    mean = aligned.mean(dim=0)
    bias = aligned[0] - mean  # [K, d]
    # Where members are alike but for rounding, Sigma^-1 leaves single precision's range.
    step = torch.linalg.solve(shrunk_covariance(aligned - mean), bias.double().T).T
    norm = step.norm(dim=1, keepdim=True).clamp(min=torch.finfo(step.dtype).tiny)
    bounded = step * (bias.norm(dim=1, keepdim=True) / norm).clamp(max=1)
    return normalize(aligned[0] - bounded.to(bias.dtype), dim=-1)


def shrunk_covariance(deviations: Tensor) -> Tensor:
    """Ledoit-Wolf covariance of deviations from a known mean. [E, K, d] -> [d, d], float64."""
    rows = deviations.flatten(0, 1).double().cpu().numpy()
    covariance = LedoitWolf(assume_centered=True, store_precision=False).fit(rows).covariance_
    # Few rows can leave it singular (one centroid in two members: rank 1, no shrinkage), identical members
    # zero: a ridge that is small against Sigma, and positive, leaves the direction of the step as it is.
    limits = torch.finfo(torch.float64)
    ridge = limits.eps**0.5 * covariance.trace() / len(covariance) + limits.tiny**0.5
    return torch.as_tensor(covariance, device=deviations.device) + ridge * torch.eye(
        len(covariance), dtype=torch.float64, device=deviations.device
    )
