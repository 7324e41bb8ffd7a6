"""Just Train Twice (arXiv 2107.09044): what the model gets wrong after a first training counts more in a second one."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.drawing import drawn
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.registry import strategy
from vecaf_hf.selection.selection import Selection

# Part of a run that is the first training.
FIRST_PART = 1 / 3


@strategy(needs={"mistaken"})
def jtt(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """JTT (arXiv 2107.09044): after a third of the run on all of the pool, draws that favour what it then got wrong.

    K distinct samples, drawn with chances in proportion to `jtt_upweight` for those in the error set and to 1 for the
    others; in the paper they come so many times in an epoch. The error set is found once, when the second part of the
    run begins, by one scoring pass over the pool, which is counted; until then a run selects as `full` does. The second
    training begins with the run's first weights, as published, or goes on (`jtt_restart`). Either way the run makes no
    more batches than another, and its learning rates are those of one schedule from the first batch to the last.
    """
    mistaken = candidates.given("mistaken").cpu()
    rates = torch.where(mistaken, float(options.jtt_upweight), 1.0)
    rows = drawn(len(candidates), rates, budget, generator)
    figures = {"mistaken": float(mistaken.sum()), "mistaken_selected": float(mistaken[rows].sum())}
    return Selection(candidates.indices.cpu()[rows], info=figures)


def second_training(loops: int) -> int:
    """The loop, 0-based, that the second training begins with: after the part of them that is nearest to a third.

    Args:
        loops: Of the run, at least 2.
    """
    return max(1, round(FIRST_PART * loops))


def mistakes(candidates: Candidates) -> Tensor:
    """Which candidates the model gives another class than their own. BoolTensor [M].

    Raises:
        ValueError: There is not one class per sample and a logit for each class.
    """
    classes, logits = candidates.needed_classes("jtt"), candidates.logits
    if logits is None or logits.shape[1] < 2:
        found = "none" if logits is None else logits.shape[1]
        raise ValueError(f"strategy 'jtt' needs a logit of each of at least two classes, and there is {found}")
    return logits.argmax(dim=1) != classes.to(logits.device)
