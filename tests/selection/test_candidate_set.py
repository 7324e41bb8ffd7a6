"""Which samples are scored."""

import torch
from every_case import every_case
from hypothesis import given, settings
from hypothesis import strategies as st

from vecaf_hf.selection.candidate_set import candidate_set


def draw(pool_size, count, labels=None, seed=0, **options):
    return candidate_set(pool_size, count, labels, torch.Generator().manual_seed(seed), **options)


@given(st.data(), st.integers(1, 80))
@settings(deadline=None, max_examples=80)
def test_distinct_rising_positions_exactly_as_many_as_asked(data, pool_size):
    count = data.draw(st.integers(1, pool_size))
    labels = data.draw(st.none() | st.lists(st.integers(0, 4), min_size=pool_size, max_size=pool_size))
    labels = None if labels is None else torch.tensor(labels)
    found = draw(pool_size, count, labels)
    assert len(found) == count and bool((found.diff() > 0).all())
    assert set(found.tolist()) <= set(range(pool_size))
    if labels is not None:
        for label in labels.unique():
            share = count * float((labels == label).float().mean())
            assert abs(int((labels[found] == label).sum()) - share) < 1


@every_case(("class_balance", "expected"), [(0.0, [64, 16, 4]), (0.5, [48, 24, 12]), (1.0, [32, 32, 20])])
def test_so_many_of_each_class_as_the_selection_takes(class_balance, expected):
    labels = torch.tensor([0] * 320 + [1] * 80 + [2] * 20)
    found = draw(420, 84, labels, class_balance=class_balance)
    assert torch.bincount(labels[found]).tolist() == expected


def test_the_whole_pool_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert candidate_set(5, 5, None, generator).tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(generator.get_state(), before)


@every_case("labels", [None, torch.arange(200) % 4])
def test_the_generator_decides(labels):
    assert torch.equal(draw(200, 40, labels, 1), draw(200, 40, labels, 1))
    assert not torch.equal(draw(200, 40, labels, 1), draw(200, 40, labels, 2))


def test_every_sample_has_its_turn():
    labels = torch.arange(30) % 3
    assert torch.cat([draw(30, 6, labels, seed) for seed in range(40)]).unique().numel() == 30
