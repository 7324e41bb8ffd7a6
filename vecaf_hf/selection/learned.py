"""Selection by what a learner makes of each sample: see `vecaf_hf/learners`."""

from __future__ import annotations

import torch

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection
from vecaf_hf.selection.top_k import top_k


def learn_loss(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """LearnLoss (arXiv 1905.03677): the K largest losses by a module trained to predict them, of 10 K candidates.

    The first loop's samples are random.
    """
    assert candidates.learned_scores is not None
    return top_k(candidates, candidates.learned_scores, budget)


def ta_vaal(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """TA-VAAL (arXiv 2002.04709): the K samples that look least like selected ones to a VAE's discriminator, of 10 K.

    Both know LearnLoss's predicted rank. The first loop's samples are random.
    """
    assert candidates.learned_scores is not None
    return top_k(candidates, candidates.learned_scores, budget)
