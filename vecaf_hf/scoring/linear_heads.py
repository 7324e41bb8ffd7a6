"""Linear heads on embeddings: the model's own, and those fitted in its place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vecaf_hf.scoring.head import logits_from
from vecaf_hf.scoring.logistic import TOLERANCE, logistic_regression
from vecaf_hf.scoring.losses import OUTPUTS, SampleLoss
from vecaf_hf.selection.candidates import Candidates, LinearHead, evenly_spaced
from vecaf_hf.selection.processes import Spread

# Most samples that a head is fitted on: more change it little, and the solver's time grows with them.
MAX_SAMPLES = 50_000
# A probe's losses are read in a selection and fitted anew at each boundary: they need not be exact.
PROBE_TOLERANCE = 10 * TOLERANCE
# Embeddings that go through a head at once: bounds the memory of logits with many classes.
ROWS = 2**14
# What may stand beside the linear layer: none of them changes an embedding when the model is evaluated.
PASSING = (nn.Identity, nn.Dropout, nn.Flatten)


def linear_of(head: nn.Module) -> nn.Linear | None:
    """The linear layer that a head is, but for layers that pass an embedding on as it is; None if it has others."""
    layers = [
        module
        for module in head.modules()
        if not isinstance(module, PASSING)
        and (any(True for _ in module.parameters(recurse=False)) or not any(True for _ in module.children()))
    ]
    return layers[0] if len(layers) == 1 and isinstance(layers[0], nn.Linear) else None


def linear_head(head: nn.Module, strategy: object) -> LinearHead:
    """The head as it is now, for a strategy that computes logits of other embeddings.

    Raises:
        ValueError: The head has other layers than a linear one.
    """
    layer = linear_of(head)
    if layer is None:
        # PEFT's classes have the names of torch's.
        by_peft = ", adapted by PEFT" if type(head).__module__.startswith("peft.") else ""
        raise ValueError(
            f"strategy {strategy!r} needs a linear head, and this one is {type(head).__name__}{by_peft}: choose "
            "another strategy"
        )
    # Copies: the layer goes on learning.
    weight = layer.weight.detach().to(torch.float32, copy=True)
    bias = torch.zeros_like(weight[:, 0]) if layer.bias is None else layer.bias.detach().to(torch.float32, copy=True)
    return LinearHead(weight, bias)


def fit_head(head: nn.Linear, candidates: Candidates, tolerance: float = TOLERANCE) -> float:
    """Set a linear head to the multinomial logistic regression on the candidates' embeddings and classes.

    Costs no forward pass. Fitted on at most MAX_SAMPLES candidates, evenly spaced. Embeddings are standardised by one
    common scale for the solver; classes that the candidates lack keep their rows. The tolerance is that of
    `logistic_regression`.

    Returns:
        FLOPs: two products of embeddings and classes, for losses and gradient, each time that the solver asks.
    """
    labels, embeddings = candidates.given("classes"), candidates.given("embeddings")
    kept = evenly_spaced(len(labels), MAX_SAMPLES)
    labels, embeddings = labels[kept], embeddings[kept].float()
    scale = embeddings.std(correction=0)
    # Numbers that are all the same have no scale.
    scale = torch.where(scale > 1e-12, scale, 1.0)
    classes, places = labels.unique(return_inverse=True)
    weight, bias, passes = logistic_regression(embeddings / scale, places, len(classes), tolerance)
    with torch.no_grad():
        head.weight[classes.to(head.weight.device)] = (weight / scale).to(head.weight)
        head.bias[classes.to(head.bias.device)] = bias.to(head.bias)
    return 4.0 * embeddings.numel() * len(classes) * passes


def flops_of_logits(head: nn.Linear, embeddings: Tensor | Spread) -> float:
    """FLOPs of a linear head on these embeddings."""
    return Spread.of(embeddings).flops_with(head.out_features)


def make_probe(head: nn.Module, embeddings: Tensor) -> nn.Linear:
    """A linear layer in place of a head that takes these embeddings [N, d], on its device.

    All zeros, so that a class which it is not fitted on has the mean of the others' logits: the regression centres
    them.
    """
    weight, training = next(head.parameters()), head.training
    with torch.inference_mode():
        classes = logits_from(head.eval(), embeddings[:1].to(weight)).shape[1]
    head.train(training)
    # Made on the CPU, whose generators its caller has seeded: what it draws there is not missing in training.
    probe = nn.Linear(embeddings.shape[1], classes)
    for parameter in probe.parameters():
        nn.init.zeros_(parameter)
    return probe.to(weight.device)


def rescored(
    head: nn.Module,
    candidates: Candidates,
    sample_loss: SampleLoss,
    kind: str = "ModelOutput",
    keep_logits: bool | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Candidates:
    """The candidates with losses, and logits, of a head on the embeddings that they have.

    Args:
        head: Of the embeddings; it is evaluated.
        candidates: With embeddings and labels.
        sample_loss: (outputs, labels) -> [n].
        kind: The model's, of OUTPUTS: the objective is given what the model would give it.
        keep_logits: Whether to give them logits; None for those that have some.
        autocast: A block that the head works in.
    """
    keep_logits = candidates.logits is not None if keep_logits is None else keep_logits
    weight, training = next(head.parameters()), head.training
    held = candidates.held_embeddings
    losses, logits = [], []
    head.eval()
    with torch.inference_mode():
        own = held.own.split(ROWS), candidates.given("labels")[held.share].split(ROWS)
        for embeddings, labels in zip(*own, strict=True):
            with autocast():
                found = logits_from(head, embeddings.to(weight)).float()
            # A process may hold no sample, of which a user's objective need not know the loss.
            some = sample_loss(OUTPUTS[kind](found), labels.to(weight.device)) if len(labels) else torch.empty(0)
            losses.append(some.float().cpu())
            if keep_logits:
                logits.append(found.cpu())
    head.train(training)
    # Outside: what is made in inference mode cannot be changed later.
    candidates = replace(candidates, losses=held.whole(torch.cat(losses)))
    return replace(candidates, logits=held.whole(torch.cat(logits))) if logits else candidates
