"""Which losses are left out, against the definition by hand and by brute force."""

import pytest
import torch
from every_case import every_case
from hypothesis import given, settings
from hypothesis import strategies as st

from vecaf_hf.selection import STRATEGIES, Candidates, Selection, SelectionOptions, run_strategy
from vecaf_hf.selection.allocation import first_of_classes, largest_of_classes
from vecaf_hf.selection.training_losses import RAMP

NAN = float("nan")


def make(labels: list[int], losses: list[float], progress: float) -> Candidates:
    indices = torch.arange(len(labels))
    return Candidates(indices, labels=torch.tensor(labels), training_losses=torch.tensor(losses), progress=progress)


def run(candidates: Candidates, budget: int, seed: int = 0, **options: object) -> Selection:
    return run_strategy(
        STRATEGIES["trimmed"], candidates, budget, SelectionOptions(strategy="trimmed", **options), seed
    )


samples = st.lists(
    st.tuples(st.integers(0, 2), st.one_of(st.just(NAN), st.integers(0, 4).map(float))), min_size=1, max_size=40
)


@given(samples, st.sampled_from([0.0, 0.25, 0.5, 0.75]))
@settings(deadline=None, max_examples=200)
def test_the_largest_known_losses_of_each_class(found, part):
    labels, losses = [label for label, _ in found], [loss for _, loss in found]
    expected = set()
    for c in set(labels):
        known = [row for row, (label, loss) in enumerate(found) if label == c and loss == loss]
        known.sort(key=lambda row: (-losses[row], row))
        expected |= set(known[: int(part * len(known))])
    largest = largest_of_classes(torch.tensor(losses), torch.tensor(labels), part)
    assert set(largest.nonzero().flatten().tolist()) == expected


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=30), st.data())
def test_the_first_of_each_class(found, data):
    classes, order = [c for c, _ in found], [o for _, o in found]
    due = [data.draw(st.integers(0, classes.count(c))) for c in range(4)]
    rows = first_of_classes(torch.tensor(order), torch.tensor(classes), torch.tensor(due)).tolist()
    by_hand = [sorted((o, row) for row, (c, o) in enumerate(found) if c == mine)[: due[mine]] for mine in range(4)]
    assert rows == [row for of in by_hand for _, row in of]


def test_the_largest_losses_of_a_class_are_left_out_once_a_third_of_the_run_is_over():
    # Class 1 is the harder one: its losses are compared among themselves.
    labels, losses = [0] * 10 + [1] * 10, [*map(float, range(10)), *map(float, range(100, 110))]
    wrong = {8, 9, 18, 19}
    for seed in range(20):
        chosen = run(make(labels, losses, RAMP), 16, seed).indices.tolist()
        assert len(chosen) == 16 and not wrong & set(chosen)
    # Before that, in proportion: one of two is left out, and the other is not.
    early = [set(run(make(labels, losses, RAMP / 2), 16, seed).indices.tolist()) for seed in range(20)]
    assert not any({9, 19} & chosen for chosen in early) and any(8 in chosen for chosen in early)
    at_first = [set(run(make(labels, losses, 0.0), 16, seed).indices.tolist()) for seed in range(20)]
    assert any(9 in chosen for chosen in at_first)


@every_case(("class_balance", "expected"), [(0.0, [16, 4, 1]), (0.5, [12, 6, 3]), (1.0, [7, 7, 7])])
def test_class_shares_follow_class_balance(class_balance, expected):
    candidates = make([0] * 128 + [1] * 32 + [2] * 8, [1.0] * 168, 0.0)
    chosen = run(candidates, 21, class_balance=class_balance).indices
    assert torch.bincount(candidates.labels[chosen]).tolist() == expected


def test_where_the_others_are_not_enough_the_largest_losses_come_last():
    candidates = make([0] * 10, list(map(float, range(10))), 1.0)
    for seed in range(5):
        chosen = run(candidates, 9, seed, trimmed_fraction=0.5).indices.tolist()
        assert {0, 1, 2, 3, 4} < set(chosen)


def test_what_training_has_not_seen_comes_first():
    candidates = make([0] * 10, [1.0] * 6 + [NAN] * 4, 1.0)
    for seed in range(5):
        assert set(run(candidates, 4, seed).indices.tolist()) == {6, 7, 8, 9}


def test_the_others_are_as_likely_as_each_other():
    candidates, draws = make([0] * 5, [3.0, 0.0, 2.0, 1.0, 9.0], 1.0), 2000
    counts = torch.zeros(5)
    for seed in range(draws):
        counts[run(candidates, 2, seed).indices] += 1
    assert counts[4] == 0
    assert ((counts[:4] / draws - 0.5).abs() <= 4 * (0.25 / draws) ** 0.5).all()


def test_a_class_for_each_sample_is_needed():
    candidates = make([0] * 4, [1.0] * 4, 1.0)
    with pytest.raises(ValueError, match="needs labels that are one class per sample"):
        run(
            Candidates(
                torch.arange(4), labels=torch.zeros(4, 3), training_losses=torch.ones(4), progress=candidates.progress
            ),
            2,
        )


def test_nothing_left_out_is_drawn_at_random_again():
    with pytest.raises(ValueError, match="random_fraction would bring back what strategy 'trimmed' leaves out"):
        SelectionOptions(strategy="trimmed", random_fraction=0.3)
