"""Eq. 3."""

import pytest
import torch
from every_case import every_case

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


@every_case("size", [1, 2, 10, 19, 20, 1000])
def test_clipped_changes_at_most_a_twentieth(size):
    losses = torch.rand(size, generator=torch.Generator().manual_seed(1))
    changed = int((loss_weights(losses, "clipped") < losses).sum())
    assert changed <= size / 20 + 0.5


def test_sqrt_and_uniform():
    torch.testing.assert_close(loss_weights(LOSSES, "sqrt").square(), LOSSES)
    assert torch.equal(loss_weights(LOSSES, "uniform"), torch.ones(100))


@every_case("weighting", LOSS_WEIGHTINGS)
def test_zero_losses_are_uniform(weighting):
    probabilities = target_distribution(loss_weights(torch.zeros(8), weighting))
    assert probabilities.tolist() == [1 / 8] * 8


@every_case("weighting", [name for name in LOSS_WEIGHTINGS if name != "trimmed"])
def test_a_larger_loss_never_weighs_less_and_the_losses_are_left_alone(weighting):
    before = LOSSES.clone()
    weights = loss_weights(LOSSES, weighting)
    assert bool((weights[LOSSES.argsort()].diff() >= 0).all())
    assert torch.equal(LOSSES, before)


@every_case("fraction", [0.0, 0.2, 0.5, 0.99])
@every_case("names", [[0, 1, 2], [-100, 7, 3]])
def test_trimmed_leaves_out_the_largest_of_each_class_and_no_other(fraction, names):
    # Of 60, 30 and 10 samples, the losses of the second are the largest.
    numbers = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    losses = LOSSES + 10.0 * (numbers == 1)
    weights = loss_weights(losses, "trimmed", torch.tensor(names)[numbers], fraction)
    for number, size in enumerate([60, 30, 10]):
        mine, kept = losses[numbers == number], weights[numbers == number]
        left_out = mine.argsort(descending=True)[: int(fraction * size)]
        expected = mine.clone()
        expected[left_out] = 0
        assert torch.equal(kept, expected)


def test_trimmed_without_classes_is_of_the_whole_pool():
    before = LOSSES.clone()
    weights = loss_weights(LOSSES, "trimmed")
    assert int((weights == 0).sum()) == 20
    assert float(LOSSES[weights == 0].min()) > float(weights.max())
    assert torch.equal(weights[weights > 0], LOSSES[weights > 0])
    assert torch.equal(LOSSES, before)


@every_case("size", [1, 2, 4])
def test_trimmed_leaves_classes_of_a_few_samples_alone(size):
    labels = torch.arange(12) // size
    assert torch.equal(loss_weights(LOSSES[:12], "trimmed", labels), LOSSES[:12])


def test_of_equal_losses_trimmed_leaves_out_the_first():
    assert loss_weights(torch.ones(10), "trimmed").tolist() == [0.0] * 2 + [1.0] * 8


def test_a_callable_is_given_the_losses_alone():
    given = []

    def weigh(*arguments):
        given.append(arguments)
        return arguments[0]

    loss_weights(LOSSES, weigh, torch.zeros(100, dtype=torch.long), 0.5)
    ((losses,),) = given
    assert torch.equal(losses, LOSSES)


def test_a_callable_is_used_as_it_is():
    torch.testing.assert_close(loss_weights(LOSSES, torch.square), LOSSES**2)


@every_case("weighting", [lambda x: x > 1, lambda x: (x > 1).long(), lambda x: (x > 1).double()])
def test_a_callable_may_return_any_numeric_type(weighting):
    weights = loss_weights(LOSSES, weighting)
    assert weights.dtype == LOSSES.dtype
    assert torch.equal(weights, (LOSSES > 1).float())


@every_case(
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
