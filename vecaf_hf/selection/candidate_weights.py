"""The weight of each candidate in a selection that follows the losses."""

from __future__ import annotations

from torch import Tensor

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.weighting import loss_weights


def selection_weights(candidates: Candidates, options: SelectionOptions) -> Tensor:
    """`loss_weighting` of the losses, times the relevance where there is one. [M]."""
    assert candidates.losses is not None
    losses = candidates.losses.float()
    weights = loss_weights(losses, options.loss_weighting, candidates.classes, options.trimmed_fraction)
    return weights if candidates.relevance is None else weights * candidates.relevance.float()
