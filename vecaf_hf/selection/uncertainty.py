"""Three scores of what the model predicts for a sample: margin, entropy, and the error vector's norm."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection
from vecaf_hf.selection.top_k import top_k


def margin(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """The K smallest margins between the probabilities of the two likeliest classes."""
    first, second = probabilities(candidates).topk(2, dim=1).values.unbind(dim=1)
    return top_k(candidates, second - first, budget)


def entropy(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """The K largest entropies of the predicted probabilities."""
    return top_k(candidates, torch.special.entr(probabilities(candidates)).sum(dim=1), budget)


def el2n(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """EL2N (arXiv 2107.07075): the K samples of the largest error, the norm of p - onehot(y).

    Of the current model; the paper prunes a dataset once, by the mean over ten models that are trained briefly.
    """
    if candidates.classes is None:
        raise ValueError("strategy 'el2n' needs labels that are one class per sample")
    errors = probabilities(candidates).clone()
    errors[torch.arange(len(errors), device=errors.device), candidates.classes] -= 1
    return top_k(candidates, errors.norm(dim=1), budget)


def probabilities(candidates: Candidates) -> Tensor:
    """p, the softmax of the logits. [M, C].

    Raises:
        ValueError: There are no two classes to choose between.
    """
    assert candidates.logits is not None
    if candidates.logits.shape[1] < 2:
        raise ValueError("this strategy compares the probabilities of classes, and the model has one output")
    return candidates.logits.float().softmax(dim=1)
