"""Eq. 3."""

import pytest
import torch

from vecaf_hf.selection.weighting import LOSS_WEIGHTINGS, loss_weights, target_distribution

LOSSES = torch.rand(100, generator=torch.Generator().manual_seed(0)) * 4


def test_raw_weights_give_equation_3():
    probabilities = target_distribution(loss_weights(LOSSES, "raw"))
    expected = torch.tensor([loss / sum(LOSSES.tolist()) for loss in LOSSES.tolist()])
    torch.testing.assert_close(probabilities, expected)
    assert float(probabilities.sum()) == pytest.approx(1)


def test_clipped_ends_at_the_95th_percentile():
    weights = loss_weights(LOSSES, "clipped")
    bound = LOSSES.sort().values[94]
    assert float(weights.max()) == float(bound)
    assert int((weights == bound).sum()) == 6
    assert torch.equal(weights, LOSSES.minimum(bound))


@pytest.mark.parametrize("size", [1, 2, 10, 19, 20, 1000])
def test_clipped_changes_at_most_a_twentieth(size):
    losses = torch.rand(size, generator=torch.Generator().manual_seed(1))
    changed = int((loss_weights(losses, "clipped") < losses).sum())
    assert changed <= size / 20 + 0.5


def test_sqrt_and_uniform():
    torch.testing.assert_close(loss_weights(LOSSES, "sqrt").square(), LOSSES)
    assert torch.equal(loss_weights(LOSSES, "uniform"), torch.ones(100))


@pytest.mark.parametrize("weighting", LOSS_WEIGHTINGS)
def test_zero_losses_are_uniform(weighting):
    probabilities = target_distribution(loss_weights(torch.zeros(8), weighting))
    assert probabilities.tolist() == [1 / 8] * 8


@pytest.mark.parametrize("weighting", LOSS_WEIGHTINGS)
def test_a_larger_loss_never_weighs_less_and_the_losses_are_left_alone(weighting):
    before = LOSSES.clone()
    weights = loss_weights(LOSSES, weighting)
    assert bool((weights[LOSSES.argsort()].diff() >= 0).all())
    assert torch.equal(LOSSES, before)


def test_a_callable_is_used_as_it_is():
    torch.testing.assert_close(loss_weights(LOSSES, torch.square), LOSSES**2)


@pytest.mark.parametrize("weighting", [lambda x: x > 1, lambda x: (x > 1).long(), lambda x: (x > 1).double()])
def test_a_callable_may_return_any_numeric_type(weighting):
    weights = loss_weights(LOSSES, weighting)
    assert weights.dtype == LOSSES.dtype
    assert torch.equal(weights, (LOSSES > 1).float())


@pytest.mark.parametrize(
    "weighting",
    [
        lambda x: x - 1,
        lambda x: x.log() * torch.inf,
        lambda x: x / 0,
        lambda x: x[:-1],
        lambda x: x[:, None],
        lambda x: x.sum(),
    ],
    ids=["negative", "nan", "infinite", "short", "column", "scalar"],
)
def test_a_bad_callable_is_refused(weighting):
    with pytest.raises(ValueError, match=r"loss_weighting must return \[100\] finite weights of at least 0"):
        loss_weights(LOSSES, weighting)
