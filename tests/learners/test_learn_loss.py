"""The loss prediction module (arXiv 1905.03677) against its formulas, and what it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from every_case import every_case
from torch import Tensor

from vecaf_hf.learners import LearnLoss
from vecaf_hf.learners.learn_loss import LossPredictor, ranking_loss


def by_hand(predicted: list[float], losses: list[float]) -> float:
    """Eq. 2 pair by pair."""
    half = len(losses) // 2
    total = 0.0
    for i, j in zip(range(half), range(half, 2 * half), strict=True):
        indicator = 1 if losses[i] > losses[j] else -1
        total += max(0.0, -indicator * (predicted[i] - predicted[j]) + 1.0)
    return total / half


@every_case("count", [2, 3, 8, 17])
def test_ranking_loss_is_eq_2(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    predicted = torch.randn(count, generator=generator) * 2
    # Some of them equal.
    losses = torch.randint(0, 4, (count,), generator=generator).float()
    assert float(ranking_loss(predicted, losses)) == pytest.approx(by_hand(predicted.tolist(), losses.tolist()))


def test_a_pair_in_the_right_order_by_the_margin_costs_nothing() -> None:
    assert ranking_loss(torch.tensor([3.0, 2.0]), torch.tensor([0.7, 0.1])) == 0
    assert ranking_loss(torch.tensor([2.0, 2.5]), torch.tensor([0.7, 0.1])) == pytest.approx(1.5)


def test_the_module_is_section_3_2() -> None:
    torch.manual_seed(0)
    module = LossPredictor([3, 5])
    pooled = [torch.randn(4, 3), torch.randn(4, 5)]
    hidden = [
        (values @ layer.weight.T + layer.bias).clamp(min=0) for values, layer in zip(pooled, module.levels, strict=True)
    ]
    assert [part.shape[1] for part in hidden] == [128, 128]
    expected = torch.cat(hidden, dim=1) @ module.together.weight[0] + module.together.bias
    torch.testing.assert_close(module(pooled), expected)


def made(model: Any, run: Any) -> LearnLoss:
    learner = LearnLoss(model, run)
    learner.attach()
    watch(learner, torch.randn(4, 3, 2, 2))
    torch.manual_seed(1)
    learner.build(learner.sizes({}, 4))
    return learner


def watch(learner: LearnLoss, images: Tensor) -> Tensor:
    with learner.watching():
        return learner.model(images)


@pytest.mark.parametrize(("step", "reaches"), [(0, True), (5, True), (6, False), (9, False)])
def test_its_gradient_into_the_model_stops_after_60_percent(
    make_staged: Any, make_run: Any, step: int, reaches: bool
) -> None:
    learner = made(make_staged(), make_run(total_updates=10))
    watch(learner, torch.randn(6, 3, 2, 2))
    learner.loss(torch.rand(6), step).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in learner.parameters() if parameter.dim() == 2)
    gradients = [parameter.grad for parameter in learner.model.parameters()]
    assert all((gradient is not None and gradient.abs().sum() > 0) == reaches for gradient in gradients)


def test_all_levels_are_of_the_plain_model(make_staged: Any, make_run: Any) -> None:
    learner = made(make_staged(), make_run())
    images = torch.randn(5, 3, 2, 2)
    watched, pooled = watch(learner, images), images.flatten(1)
    levels = []
    for block in learner.model.blocks:
        levels.append(block(pooled))
        pooled = levels[-1].tanh()
    torch.testing.assert_close(learner.scores({}, 5)["learned_scores"], learner.predictor(levels))
    assert torch.equal(watched, pooled)


def test_it_learns_which_losses_are_large(make_staged: Any, make_run: Any) -> None:
    """On a loss that the features tell; pairs that it has not seen, in the right order."""
    torch.manual_seed(0)
    learner = made(make_staged(width=16), make_run(total_updates=10_000))
    images = torch.randn(600, 3, 2, 2)
    losses = (images.flatten(1)[:, :3].sum(dim=1)).exp()
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)

    def right() -> float:
        watch(learner, images[500:])
        with torch.no_grad():
            predicted = learner.scores({}, 100)["learned_scores"]
        order = (predicted[:, None] > predicted) == (losses[500:, None] > losses[500:])
        return float(order[~torch.eye(100, dtype=torch.bool)].float().mean())

    before = right()
    for step in range(300):
        rows = torch.randint(0, 500, (32,))
        watch(learner, images[rows])
        optimizer.zero_grad()
        learner.loss(losses[rows], step).backward()
        optimizer.step()
    assert before < 0.6 and right() > 0.8


def test_batches_without_pairs_are_refused(make_staged: Any, make_run: Any) -> None:
    with pytest.raises(ValueError, match=r"'learn_loss' learns from pairs.*batches of 1.*at least 2"):
        LearnLoss(make_staged(), make_run(batch_size=1))
