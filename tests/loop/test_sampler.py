"""The order in which a loop trains on its selection."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vecaf_hf.data.indexed import Draw
from vecaf_hf.loop import LoopSampler, Stream

selections = st.lists(st.integers(0, 500), min_size=1, max_size=25, unique=True)
seeds = st.integers(0, 2**31)
quick = settings(deadline=None, max_examples=60)


def stream_of(indices, start=0, offset=0) -> Stream:
    return Stream(torch.tensor(indices), start, offset)


def positions(draws) -> list[int]:
    return [draw.position for draw in draws]


@given(selections, seeds, st.integers(0, 5), st.integers(0, 70))
@quick
def test_every_pass_is_exactly_a_permutation_of_the_selection(indices, seed, start, count):
    draws = list(stream_of(indices, start).draws(count, seed))
    assert len(draws) == count
    for first in range(0, count, len(indices)):
        turn = draws[first : first + len(indices)]
        assert {(draw.stream, draw.turn) for draw in turn} == {(start, first // len(indices))}
        seen = positions(turn)
        assert len(set(seen)) == len(seen) and set(seen) <= set(indices)
        assert len(seen) < len(indices) or set(seen) == set(indices)


@given(selections, seeds, st.lists(st.integers(0, 40), max_size=6))
@quick
def test_loops_of_the_same_selection_are_one_long_stream(indices, seed, parts):
    stream, found = stream_of(indices, start=2), []
    for loop, part in enumerate(parts, start=3):
        found += stream.draws(part, seed)
        stream = stream.after(part, torch.tensor(sorted(indices)), loop)
    assert found == list(stream_of(indices, start=2).draws(sum(parts), seed))
    assert stream.offset == sum(parts)


@given(selections, selections, st.integers(0, 40))
@quick
def test_the_same_set_continues_and_another_starts_anew(indices, others, used):
    stream = stream_of(indices, start=1, offset=3)
    following = stream.after(used, torch.tensor(others), loop=4)
    if set(indices) == set(others):
        assert (following.indices.tolist(), following.start, following.offset) == (indices, 1, 3 + used)
    else:
        assert (following.indices.tolist(), following.start, following.offset) == (others, 4, 0)


def test_passes_starts_and_seeds_differ():
    def order(seed=0, start=0, turn=0):
        return tuple(positions(stream_of(range(20), start, 20 * turn).draws(20, seed)))

    orders = [order(turn=turn) for turn in range(10)]
    orders += [order(start=start) for start in range(1, 10)] + [order(seed=seed) for seed in range(1, 10)]
    assert len(set(orders)) == len(orders)
    assert all(set(found) == set(range(20)) for found in orders)


def test_every_order_of_a_pass_is_about_as_frequent():
    orders = [tuple(positions(stream_of([7, 8, 9]).draws(3, seed))) for seed in range(600)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6 and min(counts) > 60


def test_the_sampler_yields_one_loop_each_time():
    sampler = LoopSampler(samples_per_loop=7, seed=3)
    assert len(sampler) == 7
    with pytest.raises(RuntimeError, match="no selection yet"):
        iter(sampler)
    sampler.stream = stream_of([4, 5, 6])
    first = list(sampler)
    assert first == list(sampler) and len(first) == 7
    assert all(isinstance(draw, Draw) for draw in first)
    sampler.stream = sampler.stream.after(7, torch.tensor([6, 5, 4]), loop=1)
    assert first + list(sampler) == list(stream_of([4, 5, 6]).draws(14, 3))


def test_the_sampler_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    list(stream_of(range(10)).draws(25, 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_long_selection_is_drawn_lazily():
    draws = stream_of(range(1000)).draws(10**9, 0)
    for first, second in pairwise([next(draws) for _ in range(1500)]):
        assert first.turn <= second.turn


@given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 60))
@settings(deadline=None, max_examples=60)
def test_the_samples_to_come_are_those_of_the_draws(size, offset, count):
    stream = Stream(torch.arange(size) * 3, start=1, offset=offset)
    assert stream.samples(count, seed=4).tolist() == sorted({draw.position for draw in stream.draws(count, seed=4)})
