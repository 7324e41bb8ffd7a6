"""Learning Loss for Active Learning (arXiv 1905.03677): a module that predicts which samples have large losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vecaf_hf.learners.learner import Learner, Run
from vecaf_hf.learners.levels import find_levels

WIDTH = 128
MARGIN = 1.0
# Lambda of Eq. 1, of the loss prediction beside the model's own loss.
WEIGHT = 1.0
# The part of training after which the gradient into the model is stopped (section 5: after 120 of 200 epochs).
STOPPED_AFTER = 0.6


class LossPredictor(nn.Module):
    """The loss prediction module (section 3.2): per level a linear layer and ReLU, and one linear layer of them all.

    Args:
        sizes: Features of each level.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Linear(size, WIDTH) for size in sizes)
        self.together = nn.Linear(WIDTH * len(sizes), 1)

    def forward(self, pooled: Sequence[Tensor]) -> Tensor:
        """Global averages of each level, [n, c] each -> predicted losses [n]."""
        seen = [functional.relu(level(values)) for level, values in zip(self.levels, pooled, strict=True)]
        return self.together(torch.cat(seen, dim=1)).squeeze(1)


def ranking_loss(predicted: Tensor, losses: Tensor) -> Tensor:
    """Eq. 2, its mean over the pairs (i, n/2 + i) of a batch of n; of an odd one the last sample is left out.

    max(0, -1(l_i, l_j) (p_i - p_j) + margin), where 1(l_i, l_j) is +1 if l_i > l_j, else -1.

    Args:
        predicted: p. [n].
        losses: l, the target loss. [n].
    """
    half = len(losses) // 2
    sign = torch.where(losses[:half] > losses[half : 2 * half], 1.0, -1.0)
    return functional.relu(MARGIN - sign * (predicted[:half] - predicted[half : 2 * half])).mean()


class LearnLoss(Learner):
    """Scores are predicted losses."""

    def __init__(self, model: nn.Module, run: Run) -> None:
        super().__init__(model, run)
        if run.batch_size < 2:
            raise ValueError(
                f"strategy {run.strategy!r} learns from pairs of samples of a batch, and a process has batches of "
                f"{run.batch_size}: set per_device_train_batch_size to at least 2"
            )
        self.levels = find_levels(model)

    def attach(self) -> None:
        self.levels.attach()

    def detach(self) -> None:
        self.levels.detach()

    def watching(self) -> AbstractContextManager[None]:
        return self.levels.recording()

    def sizes(self, inputs: Mapping[str, Any], count: int) -> Any:
        return [values.shape[1] for values in self.levels.pooled(count)]

    def build(self, sizes: Any) -> None:
        self.predictor = LossPredictor(sizes).to(self.run.device)

    def networks(self) -> nn.ModuleDict:
        return nn.ModuleDict({"predictor": self.predictor})

    def parameters(self) -> list[nn.Parameter]:
        return list(self.predictor.parameters())

    def loss(self, losses: Tensor, step: int) -> Tensor:
        """lambda L_loss of Eq. 1."""
        pooled = self.levels.pooled(len(losses))
        if step >= STOPPED_AFTER * self.run.total_updates:
            pooled = [values.detach() for values in pooled]
        # A backward pass, which Trainer makes, costs two more.
        with self.run.counted("predictor", len(losses), factor=3):
            predicted = self.predictor(pooled)
        return WEIGHT * ranking_loss(predicted, losses)

    def scores(self, inputs: Mapping[str, Any], count: int) -> dict[str, Tensor]:
        return {"learned_scores": self.predicted(count)}

    def predicted(self, count: int) -> Tensor:
        """Of the samples of the pass that was watched. [count]."""
        pooled = self.levels.pooled(count)
        with self.run.counted("predictor", count):
            return self.predictor(pooled)
