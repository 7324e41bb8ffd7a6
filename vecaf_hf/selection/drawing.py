"""Distinct rows by chance, with given chances or with equal ones."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.selection.allocation import ClassShares, class_cells

# Logarithm that stands for a rate of zero: below that of any positive number, with room for the waiting time's own.
NEVER = -2000.0


def drawn(size: int, rates: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
    """Distinct rows, drawn one after the other with chances in proportion to the rates of those that are left.

    After Efraimidis and Spirakis (2006). Rows of rate zero come when no other is left, in random order: where all rates
    are zero, each row is as likely as any other.

    Args:
        size: n.
        rates: At least 0, finite; None for equal ones. [n].
        count: At most n.
        generator: Draws them, on the CPU.

    Returns:
        LongTensor [count], in the order of the draws.
    """
    if rates is None:
        return torch.randperm(size, generator=generator)[:count]
    return log_waiting(rates.cpu().double(), generator).argsort(stable=True)[:count]


def log_waiting(rates: Tensor, generator: torch.Generator) -> Tensor:
    """Logarithms, which do not overflow, of exponential waiting times. The chance of a row to come first is its
    rate's share of all rates. float64 [n] -> [n]."""
    waiting = torch.empty_like(rates).exponential_(generator=generator).log()
    return waiting - torch.where(rates > 0, rates.log(), NEVER)


def drawn_by_class(
    labels: Tensor, rates: Tensor | None, count: int, generator: torch.Generator, due: ClassShares
) -> Tensor:
    """Rows that are drawn in each class, as many as the class's share.

    Args:
        labels: LongTensor [n].
        rates: As `drawn` takes them. [n].
        count: At most n.
        generator: Draws them, on the CPU.
        due: As `class_cells` takes it.

    Returns:
        LongTensor [count], class by class.
    """
    cells = class_cells(labels, torch.ones(len(labels)), count, "class", due)
    return torch.cat(
        [
            cell.rows[drawn(len(cell.rows), None if rates is None else rates[cell.rows], cell.budget, generator)]
            for cell in cells
        ]
    )
