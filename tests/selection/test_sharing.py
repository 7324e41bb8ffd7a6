"""Processes that share the work of a selection select what one does."""

from dataclasses import replace

import torch
from every_case import every_case
from in_threads import in_threads

from vecaf_hf.selection import SelectionOptions, find_strategy, run_strategy, starts
from vecaf_hf.selection.processes import Spread, dealt


def tied(pool):
    """On a coarse grid, where many are equally far; most of them twice, some often, one without a direction."""
    rows = torch.arange(len(pool))
    coarse = (pool.embeddings * 2).round()[rows % (len(pool) // 2 + 1)]
    coarse = torch.where((rows % 5 == 4)[:, None], coarse[0], coarse)
    return replace(pool, embeddings=torch.where((rows == len(pool) // 3)[:, None], 0, coarse))


def shared(pool, processes):
    """Each process holds a block of the embeddings, the first one half as many as the others."""
    begin = [round(len(pool) * (2 * rank - 1) / (2 * processes.world - 1)) for rank in range(1, processes.world)]
    bounds = (0, *begin, len(pool))
    own = pool.embeddings[bounds[processes.rank] : bounds[processes.rank + 1]]
    spread = Spread(own, bounds, processes)
    return replace(pool, embeddings=None, shared_embeddings=spread, processes=processes)


def assert_same(found, expected):
    assert torch.equal(found.indices, expected.indices)
    assert found.info == expected.info
    similarities = found.centroid_similarity, expected.centroid_similarity
    torch.testing.assert_close(*similarities, rtol=0, atol=0, equal_nan=True)


def selected(pool, budget, options, processes=None):
    given = pool if processes is None else shared(pool, processes)
    return run_strategy(find_strategy(options.strategy), given, budget, options, 3)


@every_case("world", [2, 3])
@every_case("allocation", ["class", "class_loss", "global"])
@every_case("made", [lambda pool: pool, tied])
def test_ods_is_that_of_one_process(world, allocation, made, make_pool):
    """Cells are dealt out, and the large ones shared by all: the whole pool, or the largest of its classes."""
    pool = made(make_pool(size=130, classes=4))
    for changes in ({}, {"diversity_weight": 0.0}, {"ensemble_size": 2, "ensemble": "debias"}):
        options = SelectionOptions(strategy="ods", allocation=allocation, **changes)
        expected = selected(pool, 30, options)
        for found in in_threads(world, lambda one, options=options: selected(pool, 30, options, one)):
            assert_same(found, expected)


@every_case("allocation", ["class", "global"])
def test_a_start_that_looks_at_a_part_is_that_of_one_process(allocation, make_pool, monkeypatch):
    monkeypatch.setattr(starts, "FEWEST_SEEN", 20)
    monkeypatch.setattr(starts, "SAMPLES_PER_START", 2)
    pool, options = tied(make_pool(size=330, classes=4)), SelectionOptions(strategy="ods", allocation=allocation)
    expected = selected(pool, 30, options)
    for found in in_threads(3, lambda one: selected(pool, 30, options, one)):
        assert_same(found, expected)


@every_case("strategy", ["activeft", "k_center"])
@every_case(("world", "size", "budget"), [(2, 61, 20), (3, 61, 59), (3, 2, 1), (3, 2, 2), (3, 4, 3)])
@every_case("made", [lambda pool: pool, tied])
def test_some_may_have_no_sample(strategy, world, size, budget, made, make_pool):
    pool = made(make_pool(size=size, classes=1))
    options = SelectionOptions(strategy=strategy)
    expected = selected(pool, budget, options)
    for found in in_threads(world, lambda one: selected(pool, budget, options, one)):
        assert_same(found, expected)


def test_a_step_sends_sums_and_no_samples(make_pool):
    """Of three times as many samples: their similarities to what was drawn, a few times in all, and nothing more. Two
    thirds of them are in one process."""
    options = SelectionOptions(strategy="activeft", selection_tolerance=0.0)

    def sent_by(size):
        pool = make_pool(size=size, dimension=32)
        return max(in_threads(2, lambda one: (selected(pool, 20, options, one), one.sent)[1]))

    assert sent_by(9000) - sent_by(3000) <= 11 * 4 * 4000


def test_large_pieces_are_for_all_and_the_others_dealt_out_the_largest_first():
    assert dealt([1, 5, 3, 3, 2, 6], 2) == [1, 0, 1, 1, 0, None]
    assert dealt([2.0], 3) == [None]
    assert dealt([2.0, 1.0], 1) == [None, 0]
    assert dealt([], 2) == []


@every_case("bounds", [(0, 2, 9, 11), (0, 0, 7, 11), (0, 11, 11, 11)])
def test_the_first_is_handed_all_rows_however_many_each_holds(bounds, monkeypatch):
    monkeypatch.setattr("vecaf_hf.selection.processes.BLOCK_ROWS", 3)
    rows = torch.arange(22.0).unflatten(0, (11, 2))

    def in_first(one):
        return Spread(rows[bounds[one.rank] : bounds[one.rank + 1]], bounds, one).in_first()

    first, *others = in_threads(3, in_first)
    assert torch.equal(first, rows) and not any(len(other) for other in others)
