"""Eq. 3 of VeCAF (arXiv 2401.07853) alone: what ODS is without its centroids."""

from __future__ import annotations

import torch

from vecaf_hf.candidates import Candidates
from vecaf_hf.selection.drawing import drawn
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection
from vecaf_hf.selection.weighting import loss_weights


def loss_sampling(
    candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator
) -> Selection:
    """K distinct samples, drawn with probability in proportion to the loss weight (Eq. 3), whatever the embedding.

    One after the other, so that K of few large weights are still distinct. Samples of weight zero come when there are
    no others; where all weights are zero, each sample is as likely as any other.
    """
    assert candidates.losses is not None
    losses, weighting = candidates.losses.float(), options.loss_weighting
    weights = loss_weights(losses, weighting, candidates.classes, options.trimmed_fraction)  # [M]
    if candidates.relevance is not None:
        weights = weights * candidates.relevance.float()
    return Selection(candidates.indices.cpu()[drawn(len(candidates), weights, budget, generator)])
