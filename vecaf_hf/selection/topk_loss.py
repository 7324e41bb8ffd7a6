"""The naive objective-aware selection (VeCAF, Table 2)."""

from __future__ import annotations

import torch

from vecaf_hf.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection


def topk_loss(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """The K largest losses; among equal losses the lower index first."""
    assert candidates.losses is not None
    rows = candidates.losses.argsort(descending=True, stable=True)[:budget]
    return Selection(candidates.indices.cpu()[rows.cpu()])
