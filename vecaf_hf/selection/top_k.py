"""What every strategy by a score of each sample alone ends with."""

from __future__ import annotations

from torch import Tensor

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.selection import Selection


def top_k(candidates: Candidates, scores: Tensor, budget: int) -> Selection:
    """The K candidates of the largest scores [M]; among equal scores the lower index first."""
    rows = scores.argsort(descending=True, stable=True)[:budget]
    return Selection(candidates.indices.cpu()[rows.cpu()])
