"""Optimising ODS's centroids: steps towards the fixed point of J, and one exact pass at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vecaf_hf.selection.assignment import NEAREST_SAMPLES
from vecaf_hf.selection.drawing import drawn
from vecaf_hf.selection.objective import (
    mean_log_sum,
    objective,
    products_of_repulsion,
    pull,
    repulsion,
    tangent,
)
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.processes import Spread
from vecaf_hf.selection.similarity import Survey, nearest, survey
from vecaf_hf.selection.starts import Start
from vecaf_hf.selection.weighting import target_distribution

# Samples of a step: the steps of a large pool make as many looks as there are samples that the start has not seen,
# those of a small one look so many times at each, in batches between these sizes. So cells of 1,200 real embeddings end
# where 300 full-batch steps do, at a third of the products that batches of 512 take there.
LOOKS = 3
LEAST_BATCH, MOST_REPEATED = 128, 512
# Most products of the repulsion beside those of the pull; and in a large pool where it is weak, which a diversity
# weight below WEAK makes it. Where centroids are many beside a step's samples, it is not renewed in each step: it
# changes slower than the pull, which hops with the assignment.
REPULSION_SHARE, WEAK_REPULSION_SHARE, WEAK = 0.5, 0.2, 0.1
# Centroids that repel start this far beside their samples, each on another side: equal ones would stay together for
# ever. The sides are mixed of so many samples, so that a rotation of the space rotates them too.
JITTER, MIXED = 1e-3, 8
# Part of the last step's direction in a step's.
MOMENTUM = 0.7
# A pull below this part of the mean one is rounding: nothing is assigned to the centroid.
NO_PULL = 1e-6
# Similarities that differ by less are the same but for rounding.
ROUNDING = 1e-6
# Steps whose mean J is compared with that of as many before.
WINDOW = 4


@dataclass(frozen=True)
class Optimised:
    """How the centroids came about.

    Args:
        view: theta*, and the pool seen from them.
        start: J before the first step, of the samples that the start has seen.
        steps: Taken.
        flops: Of the products of matrices.
    """

    view: View
    start: float
    steps: int
    flops: float

    @property
    def figures(self) -> dict[str, float]:
        """For logs."""
        seen = self.view
        return {
            "objective_start": self.start,
            "objective_end": seen.objective,
            "steps": self.steps,
            "occupied": seen.occupied,
        }


def optimise_centroids(
    embeddings: Tensor | Spread,
    weights: Tensor,
    start: Start,
    options: SelectionOptions,
    generator: torch.Generator,
    advance: Callable[[int], object] = lambda steps: None,
) -> Optimised:
    """theta* of Eq. 7 from the given start; the start itself where it has seen all, and is better.

    Args:
        embeddings: e, unit rows. [N, d].
        weights: Loss weight of each sample. [N].
        start: K samples, and which of them each sample is nearest to.
        options: Steps, their length, tolerance, temperature and diversity weight.
        generator: Draws the order in which samples are looked at again.
        advance: Told of the work done, in parts that add up to twice `selection_steps`.

    Raises:
        ValueError: J is not finite.
    """
    spread = Spread.of(embeddings)
    descent = _Descent(spread, weights, start, options, generator)
    history = []
    for step in range(options.selection_steps):
        history.append(descent.step(step))
        advance(1)
        # Where J is of more samples after each step, it tells nothing of the centroids' rest.
        if not descent.is_large and _settled(history, options.selection_tolerance):
            break
    view = descent.view(descent.centroids)
    # Of a start that has seen a part, J is not known: what it saw is nearer to it than the rest.
    if history and not descent.is_large and not view.objective <= history[0]:
        view = min(view, descent.view(spread.at(start.rows)), key=lambda seen: seen.objective)
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
    def of(cls, embeddings: Tensor | Spread, weights: Tensor, centroids: Tensor, options: SelectionOptions) -> View:
        """The view from these centroids.

        Raises:
            ValueError: J is not finite.
        """
        spread = Spread.of(embeddings)
        seen = survey(spread, centroids, min(NEAREST_SAMPLES, spread.size))
        log_sum = centroids.new_zeros(())
        if options.diversity_weight > 0:
            log_sum = mean_log_sum(centroids, options.temperature, spread.processes)
        similarity = target_distribution(weights) @ seen.similarity
        value = float(objective(similarity, log_sum, options.temperature, options.diversity_weight))
        if not math.isfinite(value):
            raise ValueError(
                f"ODS's objective is {value} with temperature={options.temperature:g} and "
                f"diversity_weight={options.diversity_weight:g}: choose less extreme ones"
            )
        return cls(centroids, seen, log_sum, value, options)

    @property
    def occupied(self) -> float:
        """Part of the centroids that one of their nearest samples, of the few that are looked up, is nearest to; of
        equal centroids all are."""
        top = self.survey.top
        return float((top.values >= self.survey.similarity[top.rows] - ROUNDING).any(dim=1).float().mean())


class _Descent:
    """Steps towards J's fixed point.

    With the assignment fixed, J's gradient vanishes on the sphere where each centroid has the direction of

        K sum_{i: c(i) = j} p_L(i) e_i - lambda r_j,    r_j = sum_k (p_jk + p_kj) theta_k  (objective.py)

    Without diversity that is the weighted mean of its samples, and the steps are those of k-means. With it, r moves
    with the centroids, and a step is no longer than an angle that falls to 0. Each step looks again at a part of the
    pool, whose samples change their centroids; the sums are of all that has been looked at, so that a step has little
    noise. In a large pool start and steps make as many looks as there are samples: those with large losses have two,
    and some with small ones none. In a small pool the steps look at each sample, several times. Processes look at their
    own samples, and tell each other how the sums change.

    Attributes:
        centroids: theta, unit rows. [K, d].
        assignment: c(i), as it was when sample i was looked at last, -1 before; of this process's own. LongTensor [n].
        unseen: Who has a weight and has not been looked at, in whichever process. BoolTensor [N].
        is_large: Whether the start has seen a part of the pool.
        pulled: The sums. [K, d].
        mass: Of p_L, of who has been looked at.
        flops: Of the products of matrices, those of the start included.
    """

    def __init__(
        self,
        embeddings: Tensor | Spread,
        weights: Tensor,
        start: Start,
        options: SelectionOptions,
        generator: torch.Generator,
    ) -> None:
        self.spread = spread = Spread.of(embeddings)
        self.weights, self.options = weights, options
        self.probabilities = target_distribution(weights)
        self.assignment = start.assignment.clone()
        self.centroids = spread.at(start.rows)
        if options.diversity_weight > 0 and options.selection_steps > 0:
            self.centroids = _jittered(self.centroids, spread, generator)
        self.unseen = ~start.seen & (self.probabilities > 0)
        self.is_large = bool(self.unseen.any())
        seen = self.probabilities.masked_fill(~start.seen, 0)
        self.mass = float(seen.sum())
        own = pull(spread.own, seen[spread.share], self.assignment.clamp(min=0), len(start.rows))
        self.pulled = spread.processes.sum(own)
        self.velocity: Tensor | None = None
        # A sample without weight pulls nothing, wherever it is assigned.
        pulling = self.probabilities.nonzero().squeeze(1)
        steps, unseen = max(1, options.selection_steps), int(self.unseen.sum())
        self.size = batch_size(len(pulling), unseen, steps)
        if self.is_large and (looks := (steps - 1) * self.size) < len(pulling):
            # As many looks as there are samples to see: who has most of the loss has a look, seen by the start or not.
            pulling = pulling[drawn(len(pulling), self.probabilities[pulling], looks, generator).to(pulling.device)]
        self.order = pulling[_drawn(len(pulling), len(pulling), generator, pulling.device)]
        self.renewed_every = repulsion_every(
            len(start.rows), self.size, self.is_large and options.diversity_weight < WEAK
        )
        self.flops = 0.0
        self.count(int(start.seen.sum()))

    def step(self, step: int) -> float:
        """Move the centroids; J before, with the assignment as it was known."""
        options = self.options
        # Before the first one the start has looked.
        if step > 0:
            self.look_again(self.rows_of(step - 1))
        if step % self.renewed_every == 0:
            self.log_sum, self.repelled = self._repulsion()
        similarity = (self._pull() * self.centroids).sum()
        value = objective(similarity, self.log_sum, options.temperature, options.diversity_weight)
        longest = options.selection_learning_rate * (1 - step / options.selection_steps)
        self._move(self._target(), longest)
        return float(value)

    def look_again(self, rows: Tensor) -> None:
        """Assign these samples, LongTensor [n], to their nearest centroids."""
        self.count(len(rows))
        self.mass += float(self.probabilities[rows[self.unseen[rows]]].sum())
        self.unseen[rows] = False
        whole, count = len(rows), len(self.centroids)
        rows = self.spread.own_of(rows)
        embeddings, probabilities = self.spread.own[rows], self.probabilities[self.spread.share][rows]
        before, now = self.assignment[rows], nearest(embeddings, self.centroids, whole)[1]
        moved = before != now
        change = pull(embeddings[moved], probabilities[moved], now[moved], count, before[moved])
        self.pulled += self.spread.processes.sum(change)
        self.assignment[rows] = now

    def rows_of(self, step: int) -> Tensor:
        """A step's samples; the order of the pool repeats. LongTensor [n]."""
        places = torch.arange(step * self.size, (step + 1) * self.size, device=self.order.device) % len(self.order)
        return self.order[places]

    def view(self, centroids: Tensor) -> View:
        """The whole pool from these centroids, counted."""
        with_log_sum = self.options.diversity_weight > 0 and len(centroids) > 1
        self.count(self.spread.size + with_log_sum * len(centroids))
        return View.of(self.spread, self.weights, centroids, self.options)

    def _target(self) -> Tensor:
        """The fixed point that assignment and repulsion, as they are, put each centroid at: unit rows. [K, d]."""
        count, options = len(self.centroids), self.options
        # The gradient of the repulsion is r / (K tau).
        force = count * self._pull() - options.diversity_weight * count * options.temperature * self.repelled
        return torch.where(force.norm(dim=1, keepdim=True) > NO_PULL, normalize(force, dim=-1), self.centroids)

    def _move(self, target: Tensor, longest: float) -> None:
        """All the way to the target, where nothing repels; else towards it, no longer than this angle."""
        if self.options.diversity_weight == 0:
            self.centroids = target
            return
        direction = normalize(tangent(target, self.centroids), dim=-1)
        angle = torch.linalg.vecdot(target, self.centroids)[:, None].clamp(-1, 1).acos()
        way = direction * angle
        self.velocity = way if self.velocity is None else torch.lerp(self.velocity, way, 1 - MOMENTUM)
        length = self.velocity.norm(dim=1, keepdim=True).clamp(min=torch.finfo(way.dtype).tiny)
        self.centroids = normalize(self.centroids + self.velocity * (longest / length).clamp(max=1), dim=-1)

    def _pull(self) -> Tensor:
        """The sums, of who has been looked at in place of all. [K, d]."""
        return (self.pulled / max(self.mass, torch.finfo(self.pulled.dtype).tiny)).to(self.centroids)

    def _repulsion(self) -> tuple[Tensor, Tensor]:
        if self.options.diversity_weight == 0:
            return self.centroids.new_zeros(()), torch.zeros_like(self.centroids)
        self.count(products_of_repulsion(len(self.centroids)) * len(self.centroids))
        return repulsion(self.centroids, self.options.temperature, self.spread.processes)

    def count(self, rows: int) -> None:
        """Count a product of so many rows with all centroids."""
        self.flops += self.spread.flops_with(len(self.centroids), rows)


def batch_size(count: int, unseen: int, steps: int) -> int:
    """How many samples a step looks at, of `count` with a weight, where the start has not seen so many of them."""
    # The first step has none to look at.
    once = -(-unseen // max(1, steps - 1)) if unseen else -(-count // steps)
    repeated = -(-LOOKS * count // steps)
    return min(count, max(once, min(repeated, MOST_REPEATED), LEAST_BATCH))


def repulsion_every(count: int, batch: int, is_weak: bool = False) -> int:
    """After how many steps, of so many samples each, the repulsion of K centroids is renewed."""
    share = WEAK_REPULSION_SHARE if is_weak else REPULSION_SHARE
    return max(1, math.ceil(products_of_repulsion(count) * count / (share * batch)))


def _jittered(centroids: Tensor, spread: Spread, generator: torch.Generator) -> Tensor:
    samples = spread.at(_drawn(spread.size, MIXED, generator, centroids.device))
    shares = torch.randn(len(centroids), len(samples), generator=generator).to(samples)
    return normalize(centroids.addmm(shares, samples, alpha=JITTER), dim=-1)


def _drawn(size: int, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """`count` of `size` rows at random, distinct. LongTensor [count]."""
    return torch.randperm(size, generator=generator)[:count].to(device)


def _settled(history: list[float], tolerance: float) -> bool:
    """Whether J changed twice in a row, from window to window, by no more than this part of all its change.

    Once would not do: where centroids repel, they overshoot, and two means may agree by chance.
    """
    if len(history) < 3 * WINDOW:
        return False
    first, second, third = (fmean(history[len(history) - back * WINDOW :][:WINDOW]) for back in (3, 2, 1))
    return max(abs(first - second), abs(second - third)) <= tolerance * abs(history[0] - third)
