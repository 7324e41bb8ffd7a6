"""The solver's minimum is scikit-learn's, on embeddings of low rank too, where plain steps are slow."""

from __future__ import annotations

import pytest
import torch
from every_case import every_case
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import cross_entropy

from vecaf_hf.scoring.logistic import MAX_ITERATIONS, logistic_regression


def make(classes: int, count: int = 400, dimension: int = 30) -> tuple[Tensor, Tensor]:
    """Embeddings, not centred, whose directions have lengths from 1 to 0.01."""
    generator = torch.Generator().manual_seed(classes)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, dimension, generator=generator)
    found = centres[labels] + torch.randn(count, dimension, generator=generator)
    found = found * torch.logspace(0, -2, dimension) + 1
    return found / found.std(), labels


def objective(embeddings: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> float:
    weight, bias = weight.double(), bias.double()
    penalty = weight.square().sum() / 2 * (2 if len(weight) == 2 else 1)
    return float(cross_entropy(embeddings.double() @ weight.T + bias, labels, reduction="sum") + penalty)


@every_case("classes", [2, 3, 10])
def test_the_minimum_is_scikit_learns(classes: int) -> None:
    embeddings, labels = make(classes)
    solver = LogisticRegression(max_iter=10_000, tol=1e-8)
    solver.fit(embeddings.double().numpy(), labels.numpy())
    weight, bias, passes = logistic_regression(embeddings, labels, classes)
    theirs, their_bias = torch.as_tensor(solver.coef_), torch.as_tensor(solver.intercept_).reshape(-1)
    if classes == 2:
        theirs, their_bias = torch.cat([-theirs, theirs]) / 2, torch.cat([-their_bias, their_bias]) / 2
    least = objective(embeddings, labels, theirs, their_bias.expand(classes))
    assert objective(embeddings, labels, weight, bias) == pytest.approx(least, rel=1e-3)
    assert passes < MAX_ITERATIONS / 2
    chances = torch.as_tensor(solver.predict_proba(embeddings.double().numpy())).float()
    torch.testing.assert_close((embeddings @ weight.T + bias).softmax(dim=1), chances, rtol=0, atol=1e-2)
    torch.testing.assert_close(weight.sum(dim=0), torch.zeros(30), rtol=0, atol=1e-3)


def test_it_takes_fewer_steps_than_scikit_learn() -> None:
    embeddings, labels = make(10, count=1000, dimension=100)
    solver = LogisticRegression(max_iter=10_000).fit(embeddings.numpy(), labels.numpy())
    _, _, passes = logistic_regression(embeddings, labels, 10)
    assert passes < 0.8 * int(solver.n_iter_[0])


def test_fewer_samples_than_dimensions() -> None:
    embeddings, labels = make(3, count=12)
    weight, bias, _ = logistic_regression(embeddings, labels, 3)
    assert torch.equal((embeddings @ weight.T + bias).argmax(dim=1), labels)


def test_it_is_the_same_each_time_and_leaves_the_generators_alone() -> None:
    embeddings, labels = make(3)
    before = torch.get_rng_state()
    (one, *_), (other, *_) = (logistic_regression(embeddings, labels, 3) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())
