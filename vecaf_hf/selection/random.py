"""Uniform and class-balanced random subsets, redrawn at each loop."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.candidates import Candidates
from vecaf_hf.selection.allocation import class_cells
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection


def random(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """K samples, each as likely as any other."""
    return Selection(candidates.indices.cpu()[_draw(len(candidates), candidates.relevance, budget, generator)])


def balanced(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """K random samples, the same number of each class as far as the class has them."""
    cells = class_cells(candidates.needed_classes("balanced"), torch.ones(len(candidates)), budget, "class")
    relevance = candidates.relevance
    drawn = [
        cell.rows[_draw(len(cell.rows), None if relevance is None else relevance[cell.rows], cell.budget, generator)]
        for cell in cells
    ]
    return Selection(candidates.indices.cpu()[torch.cat(drawn)])


def _draw(size: int, relevance: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
    """Distinct rows; where there is a relevance [n], one after the other with chances in proportion to it (Efraimidis
    and Spirakis, 2006). LongTensor [count]."""
    if relevance is None:
        return torch.randperm(size, generator=generator)[:count]
    # The first of exponential waiting times comes at a rate's share of all rates.
    rates = relevance.cpu().double().clamp(min=torch.finfo(torch.float64).tiny)
    return (torch.empty_like(rates).exponential_(generator=generator) / rates).argsort(stable=True)[:count]
