"""Objective-aware Data Selection: Section 3.1 of VeCAF (arXiv 2401.07853).

`ods` is the whole section: the target distribution (Eq. 3), K centroids optimised in the embedding space
(Eq. 4 to 7), the sample nearest to each. `allocation.py` says in which part of the pool each centroid lives,
`ensemble.py` what several initialisations become.

Embeddings and centroids have unit rows, so that inner products are cosine similarities <., .>.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from sklearn.cluster import kmeans_plusplus
from torch import Tensor
from tqdm.auto import tqdm

from vecaf_hf.candidates import Candidates
from vecaf_hf.selection.allocation import class_cells
from vecaf_hf.selection.assignment import distinct_nearest
from vecaf_hf.selection.ensemble import debiased
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection
from vecaf_hf.selection.similarity import chunks, nearest
from vecaf_hf.selection.weighting import loss_weights, target_distribution
from vecaf_hf.vectors import unit

# Steps over which the objective must have settled for the optimisation to stop.
CONVERGENCE_WINDOW = 10


def ods(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """Select `budget` samples whose embeddings cover the pool where the finetuning loss is large."""
    assert candidates.embeddings is not None and candidates.losses is not None
    embeddings = unit(candidates.embeddings.float())  # [M, d]
    weights = loss_weights(candidates.losses.float(), options.loss_weighting)  # [M]
    if candidates.relevance is not None:
        weights = weights * candidates.relevance.float()

    cells = class_cells(candidates.classes, weights, budget, options.allocation)
    hidden = getattr(options, "disable_tqdm", True)  # Trainer's arguments have it
    parts = [
        _select_in_cell(cell.rows, cell.budget, embeddings, weights, options, generator)
        for cell in tqdm(cells, "Selecting", disable=hidden, leave=False)
    ]
    figures = torch.tensor([[part.start, part.end, part.steps] for part in parts], dtype=torch.float64)
    start, end, steps = figures.mean(dim=0).tolist()
    flops = sum(part.flops for part in parts)
    return Selection(
        indices=candidates.indices.cpu()[torch.cat([part.rows for part in parts])],
        weights=torch.cat([part.mass for part in parts]),
        info={"objective_start": start, "objective_end": end, "steps": steps, "flops": float(flops)},
    )


def activeft(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """ActiveFT (arXiv 2303.14382): ODS in the whole pool with the same weight for every sample."""
    assert candidates.embeddings is not None
    blind = replace(candidates, losses=torch.ones_like(candidates.embeddings[:, 0]), relevance=None)
    return ods(blind, budget, replace_options(options, loss_weighting="uniform", allocation="global"), generator)


def objective_and_gradient(
    embeddings: Tensor, probabilities: Tensor, centroids: Tensor, temperature: float, diversity_weight: float
) -> tuple[Tensor, Tensor]:
    """J(theta) of Eq. 7 in its normalised form, and its gradient on the sphere.

        J = - sum_i p_L(i) <e_i, theta_c(i)> / tau  +  lambda / K sum_j log sum_{k != j} exp(<theta_j, theta_k> / tau)

    The assignment c is piecewise constant, so the first term's gradient is a weighted sum of the samples
    assigned to each centroid: no autograd, no N x K matrix.

    Args:
        embeddings: e, unit rows. [N, d].
        probabilities: p_L of Eq. 3. [N].
        centroids: theta, unit rows. [K, d].
        temperature: tau.
        diversity_weight: lambda.

    Returns:
        J as a scalar, and dJ/dtheta projected on the tangent space of each centroid. [], [K, d].
    """
    pull, pull_gradient = _pull(embeddings, probabilities, centroids)
    repulsion, repulsion_gradient = _repulsion(centroids, temperature)
    objective = diversity_weight * repulsion - pull / temperature
    gradient = diversity_weight * repulsion_gradient - pull_gradient / temperature
    return objective, tangent(gradient, centroids)


def _pull(embeddings: Tensor, probabilities: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """sum_i p_L(i) <e_i, theta_c(i)> with c(i) the nearest centroid (Eq. 4, 5), and its gradient."""
    similarity, assignment = nearest(embeddings, centroids)
    gradient = torch.zeros_like(centroids)
    for where, block in chunks(embeddings, embeddings.shape[1]):
        gradient.index_add_(0, assignment[where], probabilities[where, None] * block)
    return probabilities @ similarity, gradient


def _repulsion(centroids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """1/K sum_j log sum_{k != j} exp(<theta_j, theta_k> / tau) (minus R of Eq. 6), and its gradient.

    A single centroid has no other to repel: 0.
    """
    count = len(centroids)
    gradient = torch.zeros_like(centroids)
    if count == 1:
        return centroids.new_zeros(()), gradient
    total = centroids.new_zeros(())
    for where, block in chunks(centroids, count):
        logits = block @ centroids.T / temperature
        own = torch.arange(count, device=centroids.device)[where]
        logits[torch.arange(len(block), device=centroids.device), own] = -torch.inf
        total += logits.logsumexp(dim=1).sum()
        shares = logits.softmax(dim=1)
        # theta_k enters both in its own sum and in the sum of every other centroid.
        gradient[where] += shares @ centroids
        gradient += shares.T @ block
    return total / count, gradient / (count * temperature)


def tangent(gradient: Tensor, centroids: Tensor) -> Tensor:
    """The gradient without its radial part, which would leave the sphere. [K, d], [K, d] -> [K, d]."""
    return gradient - (gradient * centroids).sum(dim=1, keepdim=True) * centroids


@dataclass
class SphericalAdam:
    """Adam on the unit sphere, with one second moment per centroid in place of one per coordinate.

    So a rotation of the embedding space rotates the whole path and changes no selection (VectorAdam,
    arXiv 2205.13599); the step has Adam's size.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    steps: int = 0
    first: Tensor = field(default_factory=lambda: torch.zeros(()))
    second: Tensor = field(default_factory=lambda: torch.zeros(()))

    def step(self, centroids: Tensor, gradient: Tensor) -> Tensor:
        """The centroids after one step, unit rows again. [K, d], [K, d] -> [K, d]."""
        self.steps += 1
        beta1, beta2 = self.betas
        device = centroids.device
        self.first = beta1 * self.first.to(device) + (1 - beta1) * gradient
        self.second = beta2 * self.second.to(device) + (1 - beta2) * gradient.square().mean(dim=1, keepdim=True)
        first = self.first / (1 - beta1**self.steps)
        second = self.second / (1 - beta2**self.steps)
        return unit(centroids - self.learning_rate * first / (second.sqrt() + self.epsilon))


@dataclass(frozen=True)
class Optimised:
    """Centroids [K, d], with the objective before and after and the number of steps between."""

    centroids: Tensor
    start: float
    end: float
    steps: int


def optimise_centroids(
    embeddings: Tensor, probabilities: Tensor, centroids: Tensor, options: SelectionOptions
) -> Optimised:
    """theta* of Eq. 7 from the given start, by Adam until J has settled. [N, d], [N], [K, d]."""
    optimiser = SphericalAdam(options.selection_learning_rate)
    best, history = centroids, []
    for _ in range(options.selection_steps + 1):
        objective, gradient = objective_and_gradient(
            embeddings, probabilities, centroids, options.temperature, options.diversity_weight
        )
        history.append(float(objective))
        if history[-1] <= min(history):
            best = centroids
        if _settled(history, options.selection_tolerance):
            break
        centroids = optimiser.step(centroids, gradient)
    return Optimised(best, start=history[0], end=min(history), steps=len(history) - 1)


def _settled(history: list[float], tolerance: float) -> bool:
    if len(history) <= CONVERGENCE_WINDOW:
        return False
    before, now = history[-1 - CONVERGENCE_WINDOW], history[-1]
    return abs(before - now) <= tolerance * max(abs(before), torch.finfo(torch.float32).tiny)


def starting_centroids(embeddings: Tensor, count: int, start: str, generator: torch.Generator) -> Tensor:
    """`count` distinct pool samples. [N, d] -> [K, d]."""
    if start == "k-means++":
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        _, rows = kmeans_plusplus(embeddings.cpu().numpy(), count, random_state=seed)
        return embeddings[torch.as_tensor(rows, device=embeddings.device)]
    rows = torch.randperm(len(embeddings), generator=generator)[:count]
    return embeddings[rows.to(embeddings.device)]


@dataclass(frozen=True)
class _Part:
    """What was selected in one cell: rows [k] of the candidates, the mass of each, how J went, what it took."""

    rows: Tensor
    mass: Tensor
    start: float
    end: float
    steps: int
    flops: float


def _select_in_cell(
    rows: Tensor,
    budget: int,
    embeddings: Tensor,
    weights: Tensor,
    options: SelectionOptions,
    generator: torch.Generator,
) -> _Part:
    cell, probabilities = embeddings[rows], target_distribution(weights[rows])
    members = [
        optimise_centroids(
            cell, probabilities, starting_centroids(cell, budget, options.centroid_start, generator), options
        )
        for _ in range(options.ensemble_size)
    ]
    best = min(members, key=lambda member: member.end)
    centroids = best.centroids
    if options.ensemble == "debias" and options.ensemble_size > 1:
        centroids = debiased([member.centroids for member in members])
    chosen = distinct_nearest(cell, centroids).to(rows.device)
    _, assignment = nearest(cell, cell[chosen])
    # At least itself: among duplicates `nearest` credits only one.
    mass = torch.bincount(assignment, minlength=budget).clamp(min=1)
    # Per evaluation of J: one n x k product of similarities, three k x k products of the repulsion.
    evaluations = sum(member.steps + 1 for member in members)
    flops = evaluations * 2.0 * cell.shape[1] * (len(cell) * budget + 3 * budget**2)
    return _Part(rows[chosen].cpu(), mass.float().cpu(), best.start, best.end, best.steps, flops)


def replace_options(options: SelectionOptions, **changes: object) -> SelectionOptions:
    """A plain SelectionOptions with some fields changed; also from a subclass that validates much more."""
    names = SelectionOptions.__dataclass_fields__
    return SelectionOptions(**{name: getattr(options, name) for name in names} | changes)
