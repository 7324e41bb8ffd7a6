"""Losses that no training on the pool brings down: those of a small model fitted on held-out data."""

from __future__ import annotations

from torch import Tensor, nn

from vecaf_hf.scoring.linear_heads import fit_head, flops_of_logits, rescored
from vecaf_hf.scoring.losses import SampleLoss
from vecaf_hf.selection.candidates import Candidates


def irreducible_losses(
    held_out: Candidates, pool: Candidates, sample_loss: SampleLoss, num_classes: int, kind: str = "ModelOutput"
) -> tuple[Tensor, float]:
    """L[y | x; D_ho] of Eq. 3 of RHO-LOSS (arXiv 2206.07137), by the run's own objective.

    The model is the multinomial logistic regression on held-out embeddings. A class without held-out samples has the
    logit 0.

    Args:
        held_out: Embeddings and classes of held-out samples.
        pool: The same of the samples whose losses are asked for. [M].
        sample_loss: (outputs, labels) -> [M].
        num_classes: C, if known; more where labels say so.
        kind: Of the model's output, as `rescored` takes it.

    Returns:
        The losses, [M]; and the FLOPs of fit and losses.

    Raises:
        ValueError: Labels are not one class per sample, or held-out samples are all of one class.
    """
    if held_out.classes is None or pool.classes is None:
        raise ValueError("irreducible losses need one class per sample, in train_dataset and eval_dataset")
    if len(held_out.classes.unique()) < 2:
        raise ValueError("irreducible losses need an eval_dataset of more than one class")
    embeddings = pool.given("embeddings")
    classes = 1 + int(max(held_out.classes.max(), pool.classes.max()))
    # Without the start that it would draw from the global generator.
    model = nn.utils.skip_init(nn.Linear, embeddings.shape[1], max(classes, num_classes))
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    flops = fit_head(model, held_out) + flops_of_logits(model, embeddings)
    return rescored(model, pool, sample_loss, kind).given("losses"), flops
