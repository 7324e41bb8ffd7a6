"""Class shares by what training saw, against their definition."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from every_case import every_case
from hypothesis import given, settings
from hypothesis import strategies as st

from vecaf_hf.selection import STRATEGIES, Candidates, Selection, SelectionOptions, run_strategy
from vecaf_hf.selection.allocation import shares
from vecaf_hf.selection.candidates import Turn

NAN = float("nan")


def run(candidates: Candidates, budget: int, seed: int = 0, **options: object) -> Selection:
    return run_strategy(
        STRATEGIES["loss_balanced"], candidates, budget, SelectionOptions(strategy="loss_balanced", **options), seed
    )


def make(labels: list[int], losses: list[float]) -> Candidates:
    return Candidates(torch.arange(len(labels)), labels=torch.tensor(labels), training_losses=torch.tensor(losses))


def counts(candidates: Candidates, selection: Selection) -> list[int]:
    assert candidates.labels is not None
    return torch.bincount(candidates.labels[selection.indices], minlength=3).tolist()


# Squares: sums of weights are whole numbers, exact in whatever order they are added.
samples = st.lists(
    st.tuples(st.integers(0, 2), st.one_of(st.just(NAN), st.integers(0, 7).map(lambda root: float(root**2)))),
    min_size=1,
    max_size=40,
)


@given(samples, st.sampled_from(["sqrt", "raw", "uniform"]), st.data())
@settings(deadline=None, max_examples=150)
def test_shares_follow_the_mean_weight_of_each_classs_known_losses(found, weighting, data):
    labels, losses = [label for label, _ in found], [loss for _, loss in found]
    budget = data.draw(st.integers(1, len(found)))
    weigh = {"sqrt": lambda loss: loss**0.5, "raw": lambda loss: loss, "uniform": lambda loss: 1.0}[weighting]
    known = {c: [weigh(loss) for label, loss in found if label == c and loss == loss] for c in range(3)}
    everything = [weight for of in known.values() for weight in of]
    overall = sum(everything) / len(everything) if everything else 1.0
    claims = [sum(of) / len(of) if of else overall for of in known.values()]
    present = [c for c in range(3) if c in labels]
    due = shares(
        budget,
        torch.tensor([claims[c] for c in present], dtype=torch.float64),
        torch.tensor([labels.count(c) for c in present]),
        Turn(0),
    )
    candidates = make(labels, losses)
    given_ = counts(candidates, run(candidates, budget, loss_weighting=weighting))
    assert [given_[c] for c in present] == due.tolist()


def test_equal_shares_before_training_has_seen_anything():
    candidates = make([0] * 20 + [1] * 10 + [2] * 2, [NAN] * 32)
    assert counts(candidates, run(candidates, 12)) == [5, 5, 2]


def test_what_training_has_not_seen_comes_first():
    candidates = make([0] * 10, [1.0] * 6 + [NAN] * 4)
    for seed in range(5):
        chosen = run(candidates, 4, seed).indices
        assert set(chosen.tolist()) == {6, 7, 8, 9}
    assert {6, 7, 8, 9} < set(run(candidates, 7).indices.tolist())


def test_what_training_has_seen_is_as_likely_whatever_its_loss():
    losses, draws = [16.0, 4.0, 1.0, 0.25, 0.0], 3000
    pairs = Counter(tuple(sorted(run(make([0] * 5, losses), 2, seed).indices.tolist())) for seed in range(draws))
    assert len(pairs) == 10
    assert all(abs(count / draws - 0.1) <= 4 * (0.1 * 0.9 / draws) ** 0.5 for count in pairs.values())


def test_a_harder_class_gets_more():
    candidates = make([0] * 50 + [1] * 50, [4.0] * 5 + [NAN] * 45 + [1.0] * 5 + [NAN] * 45)
    assert counts(candidates, run(candidates, 30, loss_weighting="sqrt")) == [20, 10, 0]
    assert counts(candidates, run(candidates, 30, loss_weighting="raw")) == [24, 6, 0]


def test_a_negative_loss_is_named():
    candidates = make([0] * 4, [NAN, 1.0, -0.5, 2.0])
    with pytest.raises(ValueError, match=r"training_losses of sample 2 is -0.5: selection weights follow it"):
        run(candidates, 2)


@every_case("labels", [None, torch.rand(6, 3)])
def test_a_pool_without_classes_counts_as_one_class(labels):
    candidates = replace(make([0] * 6, [1.0, 2.0, 3.0, NAN, NAN, 4.0]), labels=labels)
    chosen = run(candidates, 3).indices.tolist()
    assert {3, 4} < set(chosen) and len(chosen) == 3


def test_trimmed_weights_are_of_the_losses_that_are_left():
    """Two of ten losses of the first class are wrong: its mean is the second's without them."""
    candidates = make([0] * 10 + [1] * 10, [1.0] * 8 + [100.0] * 2 + [1.0] * 10)
    assert counts(candidates, run(candidates, 10, loss_weighting="trimmed")) == [5, 5, 0]
    assert counts(candidates, run(candidates, 10, loss_weighting="raw")) == [10, 0, 0]
