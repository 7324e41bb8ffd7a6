"""Optimising ODS's centroids: a few large steps on parts of the pool, one exact pass at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from vecaf_hf.selection.assignment import NEAREST_SAMPLES
from vecaf_hf.selection.objective import mean_log_sum, objective, pull, repulsion, tangent
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.similarity import Survey, survey
from vecaf_hf.selection.weighting import target_distribution
from vecaf_hf.vectors import unit

# Fewest samples of a step: below, a step's fixed costs outweigh its products.
LEAST_BATCH = 512
# The repulsion changes slower than the pull, which hops with the assignment: every third step renews it. Measured
# against each step, with K a twentieth of the pool: .002 of the decrease in J, and 2.7 passes less.
REPULSION_EVERY = 3
# Steps whose mean objective is compared with that of as many before.
WINDOW = 4


@dataclass
class SphericalAdam:
    """Adam on the unit sphere, with one second moment per centroid in place of one per coordinate.

    So a rotation of the embedding space rotates the whole path and changes no selection (VectorAdam,
    arXiv 2205.13599), and the learning rate is an angle, about that of a step, in a space of any dimension. The first
    moment forgets faster than Adam's: there are few steps.
    """

    betas: tuple[float, float] = (0.7, 0.999)
    epsilon: float = 1e-8
    steps: int = 0
    first: Tensor = field(default_factory=lambda: torch.zeros(()))
    second: Tensor = field(default_factory=lambda: torch.zeros(()))

    def step(self, centroids: Tensor, gradient: Tensor, learning_rate: float) -> Tensor:
        """The centroids after one step, unit rows again; the learning rate in radians. [K, d], [K, d] -> [K, d]."""
        if self.steps == 0:
            self.first, self.second = torch.zeros_like(gradient), torch.zeros_like(gradient[:, :1])
        self.steps += 1
        beta1, beta2 = self.betas
        self.first.lerp_(gradient, 1 - beta1)
        self.second.lerp_(gradient.square().sum(dim=1, keepdim=True), 1 - beta2)
        size = learning_rate / (1 - beta1**self.steps)
        scale = (self.second / (1 - beta2**self.steps)).sqrt_().add_(self.epsilon)
        return unit(centroids.addcdiv(self.first, scale, value=-size))


@dataclass(frozen=True)
class Optimised:
    """Centroids, and how they came about.

    Args:
        centroids: theta*, unit rows. [K, d].
        survey: The pool seen from them.
        start: J before the first step, of the first step's samples.
        end: J of the centroids, exact.
        steps: Taken.
        flops: Of all products of matrices.
    """

    centroids: Tensor
    survey: Survey
    start: float
    end: float
    steps: int
    flops: float


def optimise_centroids(
    embeddings: Tensor,
    weights: Tensor,
    centroids: Tensor,
    options: SelectionOptions,
    generator: torch.Generator,
    advance: Callable[[int], object] = lambda steps: None,
) -> Optimised:
    """theta* of Eq. 7 from the given start.

    All steps together see each sample about once, a step an equal part of the pool; the learning rate falls linearly to
    0. What comes out is never worse than the start, as far as the first step's samples can tell.

    Args:
        embeddings: e, unit rows. [N, d].
        weights: Loss weight of each sample. [N].
        centroids: Unit rows. [K, d].
        options: Steps, learning rate, tolerance, temperature and diversity weight.
        generator: Draws each step's samples.
        advance: Told of every step, so many done.
    """
    settings = options.temperature, options.diversity_weight
    batches = _Batches(embeddings, weights, options.selection_steps, generator)
    optimiser, start, history = SphericalAdam(), centroids, []
    log_sum, repelled = centroids.new_zeros(()), torch.zeros_like(centroids)
    for step in range(options.selection_steps):
        similarity, pulled = pull(*batches.next(), centroids)
        if step % REPULSION_EVERY == 0 and options.diversity_weight > 0:
            log_sum, repelled = repulsion(centroids, options.temperature)
        history.append(float(objective(similarity, log_sum, *settings)))
        if _settled(history, options.selection_tolerance):
            break
        gradient = tangent(objective(pulled, repelled, *settings), centroids)
        learning_rate = options.selection_learning_rate * (1 - step / options.selection_steps)
        centroids = optimiser.step(centroids, gradient, learning_rate)
        advance(1)
    seen, end = _surveyed(embeddings, weights, centroids, options)
    if history and end > history[0]:
        centroids = start
        seen, end = _surveyed(embeddings, weights, centroids, options)
    advance(options.selection_steps - optimiser.steps)
    return Optimised(
        centroids,
        seen,
        start=history[0] if history else end,
        end=end,
        steps=optimiser.steps,
        flops=_flops(len(history), batches.size, embeddings.shape, len(centroids)),
    )


class _Batches:
    """Samples of one step after another, in one random order of the pool that repeats."""

    def __init__(self, embeddings: Tensor, weights: Tensor, steps: int, generator: torch.Generator) -> None:
        count = len(embeddings)
        self.embeddings, self.weights = embeddings, weights
        self.size = min(count, max(LEAST_BATCH, -(-count // max(1, steps))))
        self.order = torch.randperm(count, generator=generator).to(embeddings.device)
        self.drawn = 0

    def next(self) -> tuple[Tensor, Tensor]:
        """Their embeddings and p_L among them. [n, d], [n]."""
        if self.size == len(self.order):
            return self.embeddings, target_distribution(self.weights)
        places = torch.arange(self.drawn, self.drawn + self.size, device=self.order.device) % len(self.order)
        self.drawn += self.size
        rows = self.order[places]
        return self.embeddings[rows], target_distribution(self.weights[rows])


def _settled(history: list[float], tolerance: float) -> bool:
    """Whether the objective changed twice in a row, from window to window, by no more than this part of all its change.

    Once would not do: samples of the pool tell J with noise, and two means may agree by chance.
    """
    if len(history) < 3 * WINDOW:
        return False
    first, second, third = (fmean(history[len(history) - back * WINDOW :][:WINDOW]) for back in (3, 2, 1))
    return max(abs(first - second), abs(second - third)) <= tolerance * abs(history[0] - third)


def _surveyed(
    embeddings: Tensor, weights: Tensor, centroids: Tensor, options: SelectionOptions
) -> tuple[Survey, float]:
    """The pool seen from these centroids, and their J."""
    seen = survey(embeddings, centroids, min(NEAREST_SAMPLES, len(embeddings)))
    similarity = target_distribution(weights) @ seen.similarity
    log_sum = mean_log_sum(centroids, options.temperature)
    return seen, float(objective(similarity, log_sum, options.temperature, options.diversity_weight))


def _flops(steps: int, batch: int, pool: torch.Size, count: int) -> float:
    """Of the products of matrices: similarities of each step and of the last pass, three products a renewal."""
    size, dimension = pool
    renewals = -(-steps // REPULSION_EVERY)
    return 2.0 * dimension * ((steps * batch + size) * count + (2 * renewals + 1) * count**2)
