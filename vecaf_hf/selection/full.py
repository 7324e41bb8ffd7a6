"""Conventional finetuning."""

from __future__ import annotations

import torch

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection


def full(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """The whole pool, whatever the budget: every batch is a fresh part of an epoch."""
    return Selection(candidates.indices)
