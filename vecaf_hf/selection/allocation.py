"""How many centroids live in which part of the pool."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vecaf_hf.selection.candidates import Candidates, Turn


@dataclass(frozen=True)
class ClassShares:
    """What decides how many samples each class has in a selection.

    Args:
        turn: Who gets what is left over, as `shares` takes it.
        balance: Of `class_claims`.
        sizes: The size of each sample's class that its claim follows; by default what it has among the candidates.
            LongTensor [M].
    """

    turn: Turn
    balance: float = 1.0
    sizes: Tensor | None = None

    @classmethod
    def of(cls, candidates: Candidates, balance: float, generator: torch.Generator) -> ClassShares:
        """For a selection among these candidates; the generator decides where they come from no run."""
        return cls(candidates.turn_by(generator), balance, candidates.class_sizes)


@dataclass(frozen=True)
class Cell:
    """A part of the pool (rows of the candidates, rising, LongTensor [n]), and the samples to select from it (<= n)."""

    rows: Tensor
    budget: int


def class_cells(labels: Tensor | None, weights: Tensor, budget: int, allocation: str, due: ClassShares) -> list[Cell]:
    """One cell for the whole pool (`global`, or a pool without labels), else one a class.

    Args:
        labels: Class of each sample, LongTensor [M], or None.
        weights: Loss weight of each sample. [M].
        budget: K, at most M.
        allocation: `global`; or what a class's share follows: `class` (its size, as `class_claims` takes it),
            `class_loss` (its mean weight, whatever its size). No class gets more than it has.
        due: The sizes that claims follow, and how.

    Raises:
        ValueError: Labels are not one class per sample.
    """
    everything = torch.arange(len(weights), device=weights.device)
    if allocation == "global" or labels is None:
        return [Cell(everything, budget)]
    if labels.dim() != 1 or labels.is_floating_point():
        raise ValueError(
            f'allocation="{allocation}" needs one class per sample, and labels are {labels.dtype} '
            f'{list(labels.shape)}: use allocation="global"'
        )
    classes, inverse, sizes = labels.unique(return_inverse=True, return_counts=True)
    summed = torch.zeros(len(classes), dtype=torch.float64).index_add_(0, inverse.cpu(), weights.double().cpu())
    # Those of one class are all alike.
    counted = sizes if due.sizes is None else torch.zeros_like(sizes).scatter_(0, inverse, due.sizes)
    claims = summed / sizes.cpu() if allocation == "class_loss" else class_claims(counted.cpu(), due.balance)
    budgets = shares(budget, claims, sizes.cpu(), due.turn)
    rows_by_class = everything[inverse.argsort(stable=True).to(everything.device)].split(sizes.tolist())
    return [Cell(rows, count) for rows, count in zip(rows_by_class, budgets.tolist(), strict=True) if count > 0]


def class_claims(sizes: Tensor, class_balance: float) -> Tensor:
    """What the classes' shares are in proportion to: size^(1 - class_balance), from the pool's own shares (0) to equal
    ones (1). LongTensor [C] -> float64 [C]."""
    return sizes.double() ** (1 - class_balance)


def shares(budget: int, claims: Tensor, capacities: Tensor, turn: Turn) -> Tensor:
    """Whole numbers that add up to `budget`, in proportion to the claims, none above its capacity.

    What a full class cannot take goes to the others in proportion; fractions go to the largest remainders, and
    among equal ones to those whose turn it is.

    Args:
        budget: At most the sum of the capacities.
        claims: At least 0. [C].
        capacities: LongTensor [C].
        turn: Decides among equal remainders.

    Returns:
        LongTensor [C].
    """
    claims = claims.double().clamp(min=torch.finfo(torch.float64).tiny)
    given = torch.zeros_like(capacities)
    open_ = capacities > 0
    while (left := budget - int(given.sum())) > 0:
        exact = torch.where(open_, claims, 0.0)
        exact = left * exact / exact.sum()
        room = capacities - given
        full = open_ & (exact >= room)
        if full.any():
            # Fill these first: what they leave over changes everybody else's share.
            given = torch.where(full, capacities, given)
            open_ = open_ & ~full
            continue
        given = given + exact.long()
        if (extra := budget - int(given.sum())) > 0:
            # Rounded, for those to be equal that differ by floating point alone.
            remainder = torch.where(open_, exact - exact.floor(), -1.0).round(decimals=6)
            least = remainder.sort(descending=True).values[extra - 1]
            larger, equal = remainder > least, (remainder == least).nonzero().squeeze(1)
            given[larger] += 1
            given[equal[turn.among(len(equal), extra - int(larger.sum()))]] += 1
    return given


def first_of_classes(order: Tensor, classes: Tensor, due: Tensor) -> Tensor:
    """Rows of the samples that come first in their classes, class by class.

    Args:
        order: What comes first has the smallest. [M].
        classes: From 0 on. LongTensor [M].
        due: How many of each class, at most its size. LongTensor [C].

    Returns:
        LongTensor [due's sum].
    """
    rows = order.argsort(stable=True)
    rows = rows[classes[rows].argsort(stable=True)]
    sizes = torch.bincount(classes, minlength=len(due)).tolist()
    return torch.cat([of_class[:count] for of_class, count in zip(rows.split(sizes), due.tolist(), strict=True)])


def largest_of_classes(losses: Tensor, classes: Tensor, part: float) -> Tensor:
    """Which samples have the largest losses of their classes.

    Args:
        losses: At least 0, NaN where unknown. [M].
        classes: From 0 on. LongTensor [M].
        part: Of a class's known losses, rounded down; among equal ones the lower index is larger.

    Returns:
        BoolTensor [M].
    """
    known = losses.isfinite()
    count = int(classes.max()) + 1
    due = (part * torch.bincount(classes[known], minlength=count).double()).long()
    order = losses.nan_to_num(nan=-1.0).argsort(descending=True, stable=True).argsort()
    largest = torch.zeros(len(losses), dtype=torch.bool)
    largest[first_of_classes(order, classes, due)] = True
    return largest
