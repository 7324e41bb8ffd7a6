"""Multinomial logistic regression in torch alone.

SciPy's solver steps through NumPy's threads, and its loss through torch's: pools of threads that wait for each other.
Here are products of matrices in torch's, few of them: embeddings are nearly of low rank, so that plain L-BFGS takes
hundreds of steps, and a change of variable that makes their covariance the identity leaves it some tens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MAX_ITERATIONS = 200
# Steps that the solver remembers, each in two copies of the weights.
HISTORY = 20
# At ten times this the losses are those of the minimum but for a correlation of 0.995, after a third of the passes.
TOLERANCE = 3e-4
# Samples that the covariance is of: it need not be exact.
MAX_SAMPLES = 4096


def logistic_regression(
    embeddings: Tensor, labels: Tensor, classes: int, tolerance: float = TOLERANCE
) -> tuple[Tensor, Tensor, int]:
    """The minimum of scikit-learn's objective: the sum of the losses and half the squared length of the weights.

    Deterministic; sums differ in their last bits with the number of torch's threads.

    Args:
        embeddings: Not far from a scale of 1. [n, d].
        labels: LongTensor [n], each of the classes at least once.
        classes: C; weights and bias of a single one are zeros.
        tolerance: Largest derivative of the mean loss at which the solver ends, each of a variable that moves logits by
            about 1.

    Returns:
        Weights [C, d], a bias [C], which is not penalised, both summing up to zero over the classes, and how often
        losses and gradient were computed.
    """
    embeddings = embeddings.float()
    count, dimension = embeddings.shape
    # Of two classes scikit-learn fits one logit: half of it to each side gives the same probabilities, for half of its
    # squared length.
    penalty = (2 if classes == 2 else 1) / count
    mean = embeddings.mean(dim=0)
    whitening = _whitening(embeddings, mean, classes, penalty)
    ones = torch.nn.functional.one_hot(labels, classes).to(embeddings)
    # A bias moves logits as much as a whitened embedding of length 1 does.
    scale = float(classes) ** 0.5
    solution = torch.zeros(classes, dimension + 1, requires_grad=True)
    passes = 0

    def heads() -> tuple[Tensor, Tensor]:
        weight, bias = solution[:, :-1] @ whitening, solution[:, -1] * scale
        return weight, bias - weight @ mean

    def closure() -> Any:
        nonlocal passes
        passes += 1
        weight, bias = heads()
        logits = torch.addmm(bias, embeddings, weight.T)
        log_sum = logits.logsumexp(dim=1, keepdim=True)
        right = logits.gather(1, labels[:, None])
        loss = (log_sum - right).mean() + penalty / 2 * weight.square().sum()
        residuals = logits.sub_(log_sum).exp_().sub_(ones).div_(count)  # [n, C]
        by_bias = residuals.sum(dim=0)
        by_weight = residuals.T @ embeddings - torch.outer(by_bias, mean) + penalty * weight
        solution.grad = torch.cat([by_weight @ whitening.T, scale * by_bias[:, None]], dim=1)
        return loss

    solver = torch.optim.LBFGS(
        [solution],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=tolerance,
        tolerance_change=0.0,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )
    with torch.no_grad():
        solver.step(closure)
        weight, bias = heads()
    return weight, bias, passes


def _whitening(embeddings: Tensor, mean: Tensor, classes: int, penalty: float) -> Tensor:
    """What makes the curvature of the objective, where all classes are as likely, the identity. [d, d]."""
    some = embeddings[torch.linspace(0, len(embeddings) - 1, min(len(embeddings), MAX_SAMPLES)).long()] - mean
    curvature = (some.T @ some / (len(some) * classes)).double()
    curvature.diagonal().add_(penalty)
    identity = torch.eye(len(curvature), dtype=torch.float64)
    found = torch.linalg.solve_triangular(torch.linalg.cholesky(curvature), identity, upper=False)
    return found.to(embeddings.dtype)
