"""Reducible holdout loss selection (arXiv 2206.07137)."""

from __future__ import annotations

import torch

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection
from vecaf_hf.selection.top_k import top_k


def rho_loss(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """RHO-LOSS (arXiv 2206.07137): the K losses that exceed those of a model of held-out data most, of 10 K candidates.

    Eq. 3: the loss under the current model minus the irreducible loss, that of a small model fitted on held-out data
    (`vecaf_hf/scoring/irreducible.py`). What no model can learn, such as a wrong label, has both.
    """
    assert candidates.losses is not None and candidates.irreducible is not None
    return top_k(candidates, candidates.losses.float() - candidates.irreducible.float(), budget)
