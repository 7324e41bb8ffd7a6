"""Margin, entropy and EL2N against their definitions."""

import math

import pytest
import torch
from every_case import every_case
from torch import nn

from vecaf_hf.selection import STRATEGIES, Candidates, SelectionOptions, run_strategy

LOGITS = 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(50) % 4


def chosen(strategy: str, budget: int, logits=LOGITS, labels=LABELS) -> list[int]:
    candidates = Candidates(torch.arange(len(logits)), logits=logits, labels=labels)
    return run_strategy(
        STRATEGIES[strategy], candidates, budget, SelectionOptions(strategy=strategy), 0
    ).indices.tolist()


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


PROBABILITIES = [softmax(row) for row in LOGITS.tolist()]


@every_case("budget", [1, 12, 50])
def test_margin(budget):
    margins = [sorted(row)[-1] - sorted(row)[-2] for row in PROBABILITIES]
    assert chosen("margin", budget) == sorted(range(50), key=margins.__getitem__)[:budget]


@every_case("budget", [1, 12, 50])
def test_entropy(budget):
    entropies = [-sum(p * math.log(p) for p in row) for row in PROBABILITIES]
    assert chosen("entropy", budget) == sorted(range(50), key=entropies.__getitem__, reverse=True)[:budget]


@every_case("budget", [1, 12, 50])
def test_el2n_is_the_norm_of_the_losss_gradient_in_the_logits(budget):
    logits = LOGITS.clone().requires_grad_()
    nn.functional.cross_entropy(logits, LABELS, reduction="sum").backward()
    norms = logits.grad.norm(dim=1).tolist()
    assert chosen("el2n", budget) == sorted(range(50), key=norms.__getitem__, reverse=True)[:budget]


@every_case("strategy", ["margin", "entropy", "el2n"])
def test_ties_go_to_the_lower_index(strategy):
    sure, torn = [9.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    logits = torch.tensor([sure, torn, sure, torn, torn])
    assert chosen(strategy, 5, logits, torch.zeros(5, dtype=torch.long)) == [1, 3, 4, 0, 2]


def test_a_sure_prediction_has_no_entropy():
    logits = torch.tensor([[200.0, 0.0], [1.0, 0.0], [0.0, 300.0]])
    assert chosen("entropy", 3, logits, LABELS[:3]) == [1, 0, 2]


@every_case("strategy", ["margin", "entropy", "el2n", "badge"])
def test_one_output_is_refused(strategy):
    candidates = Candidates(
        torch.arange(5), logits=torch.zeros(5, 1), labels=torch.zeros(5, dtype=torch.long), embeddings=torch.ones(5, 2)
    )
    with pytest.raises(ValueError, match="compares the probabilities of classes, and the model has one output"):
        run_strategy(STRATEGIES[strategy], candidates, 2, SelectionOptions(strategy=strategy), 0)


def test_el2n_refuses_multi_label_targets():
    with pytest.raises(ValueError, match="'el2n' needs labels that are one class per sample"):
        chosen("el2n", 3, labels=torch.zeros(50, 4))
