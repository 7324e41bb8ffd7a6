"""The naive objective-aware selection (VeCAF, Table 2)."""

from __future__ import annotations

import torch

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection
from vecaf_hf.selection.top_k import top_k


def topk_loss(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """The K largest losses; among equal losses the lower index first."""
    assert candidates.losses is not None
    return top_k(candidates, candidates.losses, budget)
