"""Uniform and class-balanced random subsets, redrawn at each loop."""

from __future__ import annotations

import torch

from vecaf_hf.selection.allocation import class_cells
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.drawing import drawn
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection


def random(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """K samples, each as likely as any other."""
    return Selection(candidates.indices.cpu()[drawn(len(candidates), candidates.relevance, budget, generator)])


def balanced(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """K random samples, the same number of each class as far as the class has them.

    The option `class_balance` can give classes other shares than equal ones.
    """
    classes, turn = candidates.needed_classes("balanced"), candidates.turn_by(generator)
    alike, balance = torch.ones(len(candidates)), options.class_balance
    cells = class_cells(classes, alike, budget, "class", turn, balance, candidates.class_sizes)
    relevance = candidates.relevance
    rows = [
        cell.rows[drawn(len(cell.rows), None if relevance is None else relevance[cell.rows], cell.budget, generator)]
        for cell in cells
    ]
    return Selection(candidates.indices.cpu()[torch.cat(rows)])
