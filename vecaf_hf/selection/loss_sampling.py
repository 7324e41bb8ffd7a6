"""Eq. 3 of VeCAF (arXiv 2401.07853) alone: what ODS is without its centroids."""

from __future__ import annotations

import torch

from vecaf_hf.selection.candidate_weights import selection_weights
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.drawing import drawn
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection


def loss_sampling(
    candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator
) -> Selection:
    """K distinct samples, drawn with probability in proportion to the loss weight (Eq. 3), whatever the embedding.

    One after the other, so that K of few large weights are still distinct. Samples of weight zero come when there are
    no others; where all weights are zero, each sample is as likely as any other.
    """
    assert candidates.losses is not None
    weights = selection_weights(candidates, options)  # [M]
    return Selection(candidates.indices.cpu()[drawn(len(candidates), weights, budget, generator)])
