"""Optimising ODS's centroids: a few large steps on parts of the pool, one exact pass at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from vecaf_hf.selection.assignment import NEAREST_SAMPLES
from vecaf_hf.selection.objective import (
    mean_log_sum,
    objective,
    products_of_repulsion,
    pull,
    repulsion,
    tangent,
)
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.similarity import Survey, survey
from vecaf_hf.selection.weighting import target_distribution
from vecaf_hf.vectors import unit

# Fewest samples of a step: below, a step's fixed costs outweigh its products.
LEAST_BATCH = 512
# Where centroids are many beside a step's samples, the repulsion would cost more than the pull. It changes slower, too:
# the pull hops with the assignment. So every third step renews it then; measured against each step, with K a twentieth
# of the pool, that takes .002 of the decrease in J, and 2.7 passes less.
REPULSION_EVERY = 3
# Centroids start this far beside their samples, each on another side: equal ones would stay together for ever. The
# sides are mixed of so many samples, so that a rotation of the space rotates them too.
JITTER, MIXED = 1e-3, 8
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
        self.second.lerp_(torch.linalg.vecdot(gradient, gradient)[:, None], 1 - beta2)
        size = learning_rate / (1 - beta1**self.steps)
        scale = (self.second / (1 - beta2**self.steps)).sqrt_().add_(self.epsilon)
        return unit(centroids.addcdiv(self.first, scale, value=-size))


@dataclass(frozen=True)
class Optimised:
    """How the centroids came about.

    Args:
        view: theta*, and the pool seen from them.
        start: J before the first step, of the first step's samples.
        steps: Taken.
        flops: Of the products of matrices.
    """

    view: View
    start: float
    steps: int
    flops: float


def optimise_centroids(
    embeddings: Tensor,
    weights: Tensor,
    start: Tensor,
    options: SelectionOptions,
    generator: torch.Generator,
    advance: Callable[[int], object] = lambda steps: None,
) -> Optimised:
    """theta* of Eq. 7 from the given start; the start itself where that is better on the first step's samples.

    All steps together see each sample with a weight at least once, unless they stop earlier: a step an equal part of
    the pool but no less than LEAST_BATCH samples. The learning rate falls linearly to 0.

    Args:
        embeddings: e, unit rows. [N, d].
        weights: Loss weight of each sample. [N].
        start: Unit rows. [K, d].
        options: Steps, learning rate, tolerance, temperature and diversity weight.
        generator: Draws each step's samples.
        advance: Told of the work done, in parts that add up to twice `selection_steps`.

    Raises:
        ValueError: J is not finite.
    """
    descent = _Descent(embeddings, weights, options, generator)
    centroids, history = start, []
    if options.selection_steps > 0:
        centroids = _jittered(start, embeddings, generator)
    for step in range(options.selection_steps):
        value, centroids = descent.step(centroids, step)
        history.append(value)
        advance(1)
        if _settled(history, options.selection_tolerance):
            break
    view = View.of(embeddings, weights, centroids, options)
    descent.count_view(centroids)
    if history and not view.objective_on(*descent.rows_of(0)) <= history[0]:
        view = View.of(embeddings, weights, start, options)
        descent.count_view(start)
    advance(2 * options.selection_steps - len(history))
    return Optimised(view, history[0] if history else view.objective, len(history), descent.flops)


@dataclass(frozen=True)
class View:
    """Centroids, and the whole pool seen from them: one exact pass.

    Args:
        centroids: Unit rows. [K, d].
        survey: Similarities of the pool.
        log_sum: Value of the repulsion.
        objective: J, exact.
        options: Temperature and diversity weight of J.
    """

    centroids: Tensor
    survey: Survey
    log_sum: Tensor
    objective: float
    options: SelectionOptions

    @classmethod
    def of(cls, embeddings: Tensor, weights: Tensor, centroids: Tensor, options: SelectionOptions) -> View:
        """The view from these centroids.

        Raises:
            ValueError: J is not finite.
        """
        seen = survey(embeddings, centroids, min(NEAREST_SAMPLES, len(embeddings)))
        log_sum = centroids.new_zeros(())
        if options.diversity_weight > 0:
            log_sum = mean_log_sum(centroids, options.temperature)
        similarity = target_distribution(weights) @ seen.similarity
        value = float(objective(similarity, log_sum, options.temperature, options.diversity_weight))
        if not math.isfinite(value):
            raise ValueError(
                f"ODS's objective is {value} with temperature={options.temperature:g} and "
                f"diversity_weight={options.diversity_weight:g}: choose less extreme ones"
            )
        return cls(centroids, seen, log_sum, value, options)

    def objective_on(self, rows: Tensor, probabilities: Tensor) -> float:
        """J with only these samples of the pool, and p_L among them. LongTensor [n], [n]."""
        similarity = probabilities @ self.survey.similarity[rows]
        return float(objective(similarity, self.log_sum, self.options.temperature, self.options.diversity_weight))


class _Descent:
    """Adam on J, estimated on one part of the pool after another."""

    def __init__(
        self, embeddings: Tensor, weights: Tensor, options: SelectionOptions, generator: torch.Generator
    ) -> None:
        self.embeddings, self.weights, self.options = embeddings, weights, options
        # A sample without weight pulls nothing; without any weights all are alike.
        pulling = (weights if bool(weights.any()) else torch.ones_like(weights)).nonzero().squeeze(1)
        self.order = pulling[_drawn(len(pulling), len(pulling), generator, pulling.device)]
        self.size = min(len(self.order), max(LEAST_BATCH, -(-len(self.order) // max(1, options.selection_steps))))
        self.optimiser = SphericalAdam()
        self.flops = 0.0

    def step(self, centroids: Tensor, step: int) -> tuple[float, Tensor]:
        """J of these centroids on the step's samples, and the centroids after it."""
        options = self.options
        rows, probabilities = self.rows_of(step)
        similarity, pulled = pull(self.embeddings[rows], probabilities, centroids)
        self.count(self.size, centroids)
        every = 1 if 2 * len(centroids) <= self.size else REPULSION_EVERY
        if step % every == 0:
            self.log_sum, self.repelled = self._repulsion(centroids)
        value = objective(similarity, self.log_sum, options.temperature, options.diversity_weight)
        gradient = objective(pulled, self.repelled, options.temperature, options.diversity_weight)
        learning_rate = options.selection_learning_rate * (1 - step / options.selection_steps)
        return float(value), self.optimiser.step(centroids, tangent(gradient, centroids), learning_rate)

    def rows_of(self, step: int) -> tuple[Tensor, Tensor]:
        """A step's samples, and p_L among them; the order of the pool repeats. LongTensor [n], [n]."""
        places = torch.arange(step * self.size, (step + 1) * self.size, device=self.order.device) % len(self.order)
        rows = self.order[places]
        return rows, target_distribution(self.weights[rows])

    def _repulsion(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        if self.options.diversity_weight == 0:
            return centroids.new_zeros(()), torch.zeros_like(centroids)
        self.count(products_of_repulsion(len(centroids)) * len(centroids), centroids)
        return repulsion(centroids, self.options.temperature)

    def count(self, rows: int, centroids: Tensor) -> None:
        """Count a product of so many rows with all centroids."""
        self.flops += 2.0 * rows * centroids.numel()

    def count_view(self, centroids: Tensor) -> None:
        """Count a look at the whole pool from these centroids."""
        with_log_sum = self.options.diversity_weight > 0 and len(centroids) > 1
        self.count(len(self.embeddings) + with_log_sum * len(centroids), centroids)


def _jittered(centroids: Tensor, embeddings: Tensor, generator: torch.Generator) -> Tensor:
    samples = embeddings[_drawn(len(embeddings), MIXED, generator, embeddings.device)]
    shares = torch.randn(len(centroids), len(samples), generator=generator).to(samples)
    return unit(centroids.addmm(shares, samples, alpha=JITTER))


def _drawn(size: int, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """`count` of `size` rows at random, distinct. LongTensor [count]."""
    return torch.randperm(size, generator=generator)[:count].to(device)


def _settled(history: list[float], tolerance: float) -> bool:
    """Whether the objective changed twice in a row, from window to window, by no more than this part of all its change.

    Once would not do: samples of the pool tell J with noise, and two means may agree by chance. At the default,
    stopping cost at most .001 of the change that all steps bring (six shapes of pools, of 80 to 12,000 samples).
    """
    if len(history) < 3 * WINDOW:
        return False
    first, second, third = (fmean(history[len(history) - back * WINDOW :][:WINDOW]) for back in (3, 2, 1))
    return max(abs(first - second), abs(second - third)) <= tolerance * abs(history[0] - third)
