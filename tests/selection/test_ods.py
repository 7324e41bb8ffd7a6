"""The whole of ODS: what it selects, from what, and what it tells."""

from dataclasses import replace

import torch
from every_case import every_case

from vecaf_hf.selection import SelectionOptions, find_strategy, run_strategy


def test_uniform_losses_give_activefts_choice(make_pool):
    pool = make_pool(size=80)
    uniform = SelectionOptions(strategy="ods", allocation="global", loss_weighting="uniform", diversity_weight=1.0)
    theirs = run_strategy(find_strategy("activeft"), pool, 9, SelectionOptions(strategy="activeft"), 5)
    ours = run_strategy(find_strategy("ods"), pool, 9, uniform, 5)
    assert torch.equal(ours.indices, theirs.indices)
    assert ours.info == theirs.info
    # Equal losses say the same whatever the weighting.
    equal = replace(pool, losses=torch.full((80,), 0.7))
    for weighting in ("raw", "clipped", "sqrt"):
        options = SelectionOptions(allocation="global", loss_weighting=weighting, diversity_weight=1.0)
        assert torch.equal(run_strategy(find_strategy("ods"), equal, 9, options, 5).indices, ours.indices)


def test_activeft_looks_at_neither_losses_nor_relevance_nor_labels(make_pool):
    pool = make_pool()
    bare = replace(pool, losses=None, labels=None, logits=None)
    told = replace(pool, relevance=torch.rand(60, generator=torch.Generator().manual_seed(0)))
    options = SelectionOptions(strategy="activeft", selection_steps=20)
    a, b = (run_strategy(find_strategy("activeft"), c, 7, options, 0) for c in (bare, told))
    assert torch.equal(a.indices, b.indices)


def test_what_has_no_weight_is_selected_only_where_the_budget_takes_more(make_pool):
    pool = make_pool()
    pool = replace(pool, losses=pool.losses * (torch.arange(60) % 3 == 0))
    for budget in (5, 12, 20, 25):
        options = SelectionOptions(loss_weighting="raw", allocation="global", selection_steps=5)
        chosen = run_strategy(find_strategy("ods"), pool, budget, options, 0)
        weighted = torch.isin(chosen.indices, pool.indices[pool.losses > 0])
        assert weighted.all() if budget <= 20 else len(chosen) == budget


@every_case("dtype", [torch.float32, torch.float64])
def test_relevance_multiplies_the_loss_weights(dtype, make_pool):
    pool = make_pool()
    relevance = torch.rand(60, generator=torch.Generator().manual_seed(0)).to(dtype)
    options = SelectionOptions(loss_weighting="raw", allocation="global", selection_steps=20)
    told = run_strategy(find_strategy("ods"), replace(pool, relevance=relevance), 7, options, 0)
    product = replace(pool, losses=pool.losses * relevance.float())
    assert torch.equal(told.indices, run_strategy(find_strategy("ods"), product, 7, options, 0).indices)


@every_case("weighting", [lambda x: x.double(), lambda x: (x > 2.5).long(), lambda x: x > 99])
def test_weightings_may_return_any_numeric_type(weighting, make_pool):
    options = SelectionOptions(loss_weighting=weighting, selection_steps=10)
    assert len(run_strategy(find_strategy("ods"), make_pool(), 7, options, 0)) == 7


@every_case("allocation", ["global", "class"])
def test_trimmed_weights_are_zero_for_the_largest_losses_of_each_class(allocation, make_pool):
    pool = make_pool()
    losses = pool.losses + 5.0 * (pool.labels == 1)
    kept = losses.clone()
    for label in range(3):
        rows = (pool.labels == label).nonzero()[:, 0]
        kept[rows[losses[rows].argsort(descending=True)[: len(rows) // 2]]] = 0
    trimmed = SelectionOptions(loss_weighting="trimmed", trimmed_fraction=0.5, allocation=allocation)
    raw = SelectionOptions(loss_weighting="raw", allocation=allocation)
    one = run_strategy(find_strategy("ods"), replace(pool, losses=losses), 12, trimmed, 0)
    other = run_strategy(find_strategy("ods"), replace(pool, losses=kept), 12, raw, 0)
    assert torch.equal(one.indices, other.indices)
    assert one.info["objective_end"] == other.info["objective_end"]


def test_info_reports_how_the_objective_went(make_pool):
    found = run_strategy(find_strategy("ods"), make_pool(), 10, SelectionOptions(selection_steps=40), 0)
    assert found.info["objective_end"] < found.info["objective_start"]
    assert 0 < found.info["steps"] <= 40


def test_best_of_an_ensemble_is_at_least_as_good_as_its_first_member(make_pool):
    def run(size: int, seed: int) -> float:
        options = SelectionOptions(allocation="global", ensemble_size=size, selection_steps=30)
        return run_strategy(find_strategy("ods"), make_pool(), 8, options, seed).info["objective_end"]

    single, best = ([run(size, seed) for seed in range(5)] for size in (1, 4))
    assert all(b <= a for a, b in zip(single, best, strict=True)) and best != single


@every_case("allocation", ["global", "class"])
def test_what_has_no_weight_is_not_selected(allocation, make_pool):
    pool = make_pool(size=120)
    losses = pool.losses.clone()
    losses[::3] = 0
    options = SelectionOptions(allocation=allocation, loss_weighting="raw")
    found = run_strategy(find_strategy("ods"), replace(pool, losses=losses), 12, options, 0)
    rows = torch.searchsorted(pool.indices, found.indices)
    assert float(losses[rows].min()) > 0
    # Unless there is too little else.
    losses[:-5] = 0
    assert len(run_strategy(find_strategy("ods"), replace(pool, losses=losses), 12, options, 0)) == 12
