"""What selects by one score of each sample: the K largest."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.registry import strategy
from vecaf_hf.selection.selection import Selection

# RHO-LOSS selects a tenth of each large batch, LearnLoss and TA-VAAL 1,000 of 10,000 random samples.
CANDIDATES_PER_SAMPLE = 10


@strategy(needs={"losses"})
def topk_loss(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """The K largest losses; among equal losses the lower index first."""
    return top_k(candidates, candidates.given("losses"), budget)


@strategy(needs={"logits"})
def margin(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """The K smallest margins between the probabilities of the two likeliest classes."""
    first, second = probabilities(candidates).topk(2, dim=1).values.unbind(dim=1)
    return top_k(candidates, second - first, budget)


@strategy(needs={"logits"})
def entropy(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """The K largest entropies of the predicted probabilities."""
    return top_k(candidates, torch.special.entr(probabilities(candidates)).sum(dim=1), budget)


@strategy(needs={"logits", "labels"})
def el2n(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """EL2N (arXiv 2107.07075): the K samples of the largest error, the norm of p - onehot(y).

    Of the current model; the paper prunes a dataset once, by the mean over ten models that are trained briefly.
    """
    classes, errors = candidates.needed_classes("el2n"), probabilities(candidates).clone()
    errors[torch.arange(len(errors), device=errors.device), classes] -= 1
    return top_k(candidates, errors.norm(dim=1), budget)


@strategy(needs={"losses", "irreducible"}, candidates_per_sample=CANDIDATES_PER_SAMPLE)
def rho_loss(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """RHO-LOSS (arXiv 2206.07137): the K losses that exceed those of a model of held-out data most, of 10 K candidates.

    Eq. 3: the loss under the current model minus the irreducible loss, that of a small model fitted on held-out data
    (`vecaf_hf/scoring/irreducible.py`). What no model can learn, such as a wrong label, has both.
    """
    return top_k(candidates, candidates.given("losses").float() - candidates.given("irreducible").float(), budget)


@strategy(needs={"learned_scores"}, candidates_per_sample=CANDIDATES_PER_SAMPLE)
def learn_loss(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """LearnLoss (arXiv 1905.03677): the K largest losses by a module trained to predict them, of 10 K candidates.

    The first loop's samples are random.
    """
    return top_k(candidates, candidates.given("learned_scores"), budget)


@strategy(needs={"learned_scores"}, candidates_per_sample=CANDIDATES_PER_SAMPLE)
def ta_vaal(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """TA-VAAL (arXiv 2002.04709): the K samples that look least like selected ones to a VAE's discriminator, of 10 K.

    Both know LearnLoss's predicted rank. The first loop's samples are random.
    """
    return top_k(candidates, candidates.given("learned_scores"), budget)


def top_k(candidates: Candidates, scores: Tensor, budget: int) -> Selection:
    """The K candidates of the largest scores [M]; among equal scores the lower index first."""
    rows = scores.argsort(descending=True, stable=True)[:budget]
    return Selection(candidates.indices.cpu()[rows.cpu()])


def probabilities(candidates: Candidates) -> Tensor:
    """p, the softmax of the logits. [M, C].

    Raises:
        ValueError: There are no two classes to choose between.
    """
    logits = candidates.given("logits")
    if logits.shape[1] < 2:
        raise ValueError("this strategy compares the probabilities of classes, and the model has one output")
    return logits.float().softmax(dim=1)
