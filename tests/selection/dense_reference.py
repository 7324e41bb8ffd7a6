"""Eq. 7 written out with autograd over the whole N x K matrix, and problems to try it on."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def dense_objective(
    embeddings: Tensor, probabilities: Tensor, centroids: Tensor, temperature: float, diversity_weight: float
) -> Tensor:
    """J of Eq. 7, normalised inside the graph."""
    e = embeddings / embeddings.norm(dim=1, keepdim=True)
    theta = centroids / centroids.norm(dim=1, keepdim=True)
    pull = (probabilities * (e @ theta.T).max(dim=1).values).sum() / temperature
    count = len(theta)
    if count == 1:
        return -pull
    own = torch.eye(count, dtype=torch.bool, device=theta.device)
    logits = (theta @ theta.T / temperature).masked_fill(own, -torch.inf)
    return -pull + diversity_weight * logits.logsumexp(dim=1).mean()


def dense_descent(
    embeddings: Tensor,
    probabilities: Tensor,
    start: Tensor,
    temperature: float = 0.07,
    diversity_weight: float = 1.0,
    steps: int = 300,
) -> list[float]:
    """J before each of these full-batch steps of Adam at 1e-3, as the official codes take them, and after the last."""
    theta = start.clone().requires_grad_()
    adam = torch.optim.Adam([theta], lr=1e-3)
    reached = []
    for _ in range(steps + 1):
        adam.zero_grad()
        loss = dense_objective(embeddings, probabilities, theta, temperature, diversity_weight)
        reached.append(loss.item())
        loss.backward()
        adam.step()
    return reached


def problem(
    size: int, count: int, dimension: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Unit embeddings in clusters, losses, and unit centroids near some of the embeddings."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(5, dimension, generator=generator, dtype=dtype)
    member = torch.randint(5, (size,), generator=generator)
    embeddings = normalize(centres[member] + torch.randn(size, dimension, generator=generator, dtype=dtype), dim=-1)
    losses = torch.rand(size, generator=generator, dtype=dtype)
    rows = torch.randperm(size, generator=generator)[:count]
    shift = 0.05 * torch.randn(count, dimension, generator=generator, dtype=dtype)
    return embeddings, losses, normalize(embeddings[rows] + shift, dim=-1)
