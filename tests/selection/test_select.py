"""`select` on arrays, `SelectionOptions` and `Selection`."""

import numpy as np
import pytest
import torch
from every_case import every_case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from vecaf_hf.selection import STRATEGIES, Selection, SelectionOptions, find_strategy, select
from vecaf_hf.selection.ods import replace_options
from vecaf_hf.selection.options import ALLOCATIONS, CENTROID_STARTS, ENSEMBLES
from vecaf_hf.selection.weighting import LOSS_WEIGHTINGS

GENERATOR = torch.Generator().manual_seed(0)
EMBEDDINGS = torch.randn(50, 6, generator=GENERATOR)
LOSSES = torch.rand(50, generator=GENERATOR)
LABELS = torch.arange(50) % 4
# What `select` has arguments for.
GIVEN = {"embeddings", "losses", "labels", "logits"}


@st.composite
def calls(draw: st.DrawFn) -> dict:
    """Small pools with ties, duplicates and zero vectors, and any options."""
    size, dimension = draw(st.integers(1, 40)), draw(st.integers(1, 8))
    number = st.one_of(st.integers(-2, 2).map(float), st.floats(-1e3, 1e3, width=32))
    vector = st.lists(number, min_size=dimension, max_size=dimension)
    distinct = draw(st.lists(vector, min_size=1, max_size=size))
    rows = draw(st.lists(st.integers(0, len(distinct) - 1), min_size=size, max_size=size))
    loss = st.one_of(st.just(0.0), st.floats(0, 1e4, width=32))
    labels = st.lists(st.integers(0, 3), min_size=size, max_size=size)
    allocation = draw(st.sampled_from(ALLOCATIONS))
    return {
        "embeddings": torch.tensor(distinct, dtype=torch.float32)[rows],
        "losses": torch.tensor(draw(st.lists(loss, min_size=size, max_size=size))),
        "labels": draw(st.none() | labels.map(torch.tensor)),
        "logits": torch.tensor(draw(st.lists(st.lists(number, min_size=4, max_size=4), min_size=size, max_size=size))),
        "budget": draw(st.one_of(st.just(size), st.just(1), st.integers(1, size))),
        "seed": draw(st.integers(0, 9)),
        "loss_weighting": draw(st.sampled_from(list(LOSS_WEIGHTINGS))),
        "allocation": allocation,
        "class_balance": draw(st.floats(0, 1)) if allocation == "class" else 1.0,
        "ensemble": draw(st.sampled_from(ENSEMBLES)),
        "ensemble_size": draw(st.integers(1, 3)),
        "centroid_start": draw(st.sampled_from(CENTROID_STARTS)),
        "diversity_weight": draw(st.sampled_from([0.0, 1.0, 10.0])),
        "selection_steps": draw(st.sampled_from([0, 1, 12])),
    }


@settings(deadline=None, max_examples=200)
@given(calls())
def test_ods_always_selects_k_distinct_samples(call):
    selection = select(strategy="ods", **call)
    assert len(selection) == selection.indices.unique().numel() == call["budget"]
    assert int(selection.indices.min()) >= 0 and int(selection.indices.max()) < len(call["losses"])
    assert all(np.isfinite(value) for value in selection.info.values())


@settings(deadline=None, max_examples=60)
@given(
    calls(), st.sampled_from(sorted(name for name in STRATEGIES if name != "ods" and STRATEGIES[name].needs <= GIVEN))
)
def test_every_strategy_always_selects_distinct_samples(call, strategy):
    call["class_balance"] = call["class_balance"] if "class_balance" in STRATEGIES[strategy].heeds else 1.0
    if call["labels"] is None and "labels" in STRATEGIES[strategy].needs:
        with pytest.raises(ValueError, match="needs labels"):
            select(strategy=strategy, **call)
        return
    selection = select(strategy=strategy, **call)
    due = len(call["losses"]) if STRATEGIES[strategy].size == "all" else call["budget"]
    assert len(selection) == selection.indices.unique().numel() == due


def test_arrays_of_numpy_and_lists():
    from_tensors = select(EMBEDDINGS, LOSSES, budget=8, labels=LABELS, selection_steps=5)
    for convert in (lambda x: x.numpy(), lambda x: x.tolist()):
        found = select(convert(EMBEDDINGS), convert(LOSSES), budget=8, labels=convert(LABELS), selection_steps=5)
        assert torch.equal(found.indices, from_tensors.indices)


def test_a_callable_may_return_a_selection_or_indices():
    seen = {}

    def first(candidates, budget, options, generator):
        seen.update(candidates=candidates, options=options, draw=torch.rand(3, generator=generator))
        return candidates.indices[:budget]

    found = select(EMBEDDINGS, LOSSES, budget=3, strategy=first, labels=LABELS, seed=11, temperature=0.5)
    assert found.indices.tolist() == [0, 1, 2] and found.weights is None
    assert torch.equal(seen["candidates"].embeddings, EMBEDDINGS)
    assert torch.equal(seen["candidates"].labels, LABELS)
    assert seen["options"].temperature == 0.5
    assert torch.equal(seen["draw"], torch.rand(3, generator=torch.Generator().manual_seed(11)))

    for returned in ([4, 2], (4, 2), np.array([4, 2]), torch.tensor([4, 2], dtype=torch.int32)):
        found = select(EMBEDDINGS, LOSSES, budget=2, strategy=lambda *_, returned=returned: returned)
        assert found.indices.tolist() == [4, 2] and found.indices.dtype == torch.long

    whole = Selection(torch.tensor([9, 5]), weights=torch.tensor([1.0, 3.0]), info={"a": 1.0})
    found = select(EMBEDDINGS, LOSSES, budget=2, strategy=lambda *_: whole)
    assert torch.equal(found.indices, whole.indices) and torch.equal(found.weights, whole.weights)
    assert found.info["a"] == 1.0


@every_case(
    ("returned", "message"),
    [
        ([1, 2], "selected 2 samples where 3 were due"),
        ([1, 2, 3, 4], "selected 4 samples where 3 were due"),
        ([1, 2, 50], "not among the candidates"),
        ([1, 2, -1], "negative index -1"),
        ([1, 2, 2], "sample 2 more than once"),
        ([], "at least one index"),
        ([[1, 2, 3]], "at least one index"),
    ],
)
def test_a_callable_that_breaks_the_contract_is_refused(returned, message):
    with pytest.raises(ValueError, match=message):
        select(EMBEDDINGS, LOSSES, budget=3, strategy=lambda *_: torch.tensor(returned))


@every_case(("typed", "meant"), [("odds", "ods"), ("active_ft", "activeft"), ("topk", "topk_loss")])
def test_an_unknown_strategy_suggests_the_near_one(typed, meant):
    with pytest.raises(ValueError, match=rf"strategy is '{typed}' \(did you mean '{meant}'\?\)"):
        select(EMBEDDINGS, LOSSES, budget=3, strategy=typed)


def test_an_unknown_strategy_lists_the_choices():
    with pytest.raises(ValueError, match=", ".join(STRATEGIES)) as error:
        find_strategy("zzz")
    assert "did you mean" not in str(error.value)


BAD_OPTIONS = [
    *(
        (name, value)
        for name in ("loss_weighting", "allocation", "ensemble", "centroid_start")
        for value in ("zzz", "", None, 3)
    ),
    *((name, lambda *_: None) for name in ("allocation", "ensemble", "centroid_start")),
    *((name, -0.1) for name in ("diversity_weight", "selection_tolerance")),
    *((name, value) for name in ("temperature", "selection_learning_rate") for value in (0, 0.0, -1.0)),
    *(
        (name, value)
        for name in ("diversity_weight", "selection_tolerance", "temperature", "selection_learning_rate")
        for value in (float("nan"), float("inf"))
    ),
    ("selection_steps", -1),
    ("ensemble_size", 0),
    ("ensemble_size", -2),
    ("random_fraction", -0.1),
    ("random_fraction", 1.0),
    ("random_fraction", float("nan")),
    ("trimmed_fraction", -0.1),
    ("trimmed_fraction", 1.0),
    ("class_balance", -0.1),
    ("class_balance", 1.1),
    ("class_balance", float("nan")),
    ("class_balance", "1"),
]


@every_case(("name", "value"), BAD_OPTIONS)
def test_a_bad_option_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name} is "):
        select(EMBEDDINGS, LOSSES, budget=3, **{name: value})


@every_case(
    ("options", "told"),
    [
        ({"strategy": "random"}, "strategy 'random' gives classes no .* balanced, group_balanced, ods, trimmed, or"),
        ({"strategy": "ods", "allocation": "class_loss"}, "allocation='class_loss' gives classes no .* set allocation"),
    ],
)
def test_a_class_balance_that_nothing_heeds_is_refused(options, told):
    with pytest.raises(ValueError, match=f"class_balance is 0.5, and {told}"):
        select(EMBEDDINGS, LOSSES, budget=3, labels=LABELS, class_balance=0.5, **options)
    assert len(select(EMBEDDINGS, LOSSES, budget=3, labels=LABELS, class_balance=1, **options)) == 3


def test_a_callable_may_heed_class_balance():
    def chosen(candidates, budget, options, generator):
        assert options.class_balance == 0.5
        return candidates.indices[:budget]

    assert len(select(EMBEDDINGS, LOSSES, budget=3, strategy=chosen, class_balance=0.5)) == 3


def test_near_choices_of_options_are_suggested():
    with pytest.raises(ValueError, match=r"did you mean 'class_loss'\?"):
        SelectionOptions(allocation="class_losses")


def test_every_option_has_help_and_a_valid_default():
    options = SelectionOptions()
    for name, option in SelectionOptions.__dataclass_fields__.items():
        assert option.metadata["help"], name
        assert getattr(options, name) == option.default


def test_replacing_options_keeps_the_others():
    changed = replace_options(SelectionOptions(temperature=0.3, ensemble_size=4), allocation="global")
    assert (changed.temperature, changed.ensemble_size, changed.allocation) == (0.3, 4, "global")


@every_case(
    ("changes", "message"),
    [
        ({"losses": LOSSES[:-1]}, "losses must have 1 dimension"),
        ({"losses": LOSSES[:, None]}, "losses must have 1 dimension"),
        ({"embeddings": EMBEDDINGS[:, 0]}, "embeddings must have 2 dimension"),
        ({"labels": LABELS[:-1]}, "labels has 49 rows for 50 samples"),
        ({"labels": LABELS / 2}, "labels are torch.float32; classes are whole numbers"),
        ({"labels": ["a"] * 50}, "labels must be an array of numbers"),
        ({"budget": 2.5}, "budget is 2.5; it must be a whole number"),
        ({"budget": 51}, "cannot select 51 distinct samples out of 50"),
        ({"budget": 0}, "budget is 0; it must be at least 1"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(changes, message):
    arguments = {"embeddings": EMBEDDINGS, "losses": LOSSES, "budget": 3} | changes
    with pytest.raises(ValueError, match=message):
        select(**arguments)


def clusters() -> tuple[Tensor, Tensor, Tensor]:
    """Six overlapping clusters of 50 in 16 dimensions; the first has ten times the loss of the others.

    Overlapping: a centroid feels only the samples that are nearest to it (Eq. 5), so none crosses a gap.
    """
    generator = torch.Generator().manual_seed(5)
    cluster = torch.arange(300) // 50
    centres = 0.3 * torch.randn(6, 16, generator=generator)
    embeddings = centres[cluster] + torch.randn(300, 16, generator=generator)
    losses = (0.5 + torch.rand(300, generator=generator)) * torch.where(cluster == 0, 10.0, 1.0)
    return embeddings, losses, cluster


@every_case("seed", range(3))
def test_more_is_selected_where_the_loss_is_large(seed):
    embeddings, losses, cluster = clusters()

    def share(strategy: str, **options: object) -> float:
        found = select(embeddings, losses, budget=30, strategy=strategy, seed=seed, **options)
        return float((cluster[found.indices] == 0).float().mean())

    assert share("ods", allocation="global", loss_weighting="raw") > share("activeft")


def nearest_neighbour_distance(embeddings: Tensor, chosen: Tensor) -> float:
    points = normalize(embeddings[chosen], dim=-1)
    return float((torch.cdist(points, points) + 9 * torch.eye(len(points))).amin(dim=1).mean())


@every_case("allocation", ["global", "class"])
@every_case("seed", range(3))
def test_the_selection_is_more_spread_than_the_largest_losses(seed, allocation):
    embeddings, losses, cluster = clusters()
    ours = select(embeddings, losses, budget=30, labels=cluster, allocation=allocation, seed=seed)
    naive = select(embeddings, losses, budget=30, strategy="topk_loss")
    assert nearest_neighbour_distance(embeddings, ours.indices) > nearest_neighbour_distance(embeddings, naive.indices)


def test_ods_covers_the_clusters_that_random_draws_would_miss():
    embeddings, losses, cluster = clusters()
    found = select(embeddings, losses, budget=6, labels=cluster, allocation="class")
    assert cluster[found.indices].sort().values.tolist() == list(range(6))


def test_figures_become_pythons_numbers():
    figures = {"a": np.float32(1.5), "b": np.int64(3), "c": torch.tensor([2.0]), "d": 4}
    info = Selection([0], info=figures).info
    assert info == {"a": 1.5, "b": 3, "c": 2.0, "d": 4}
    assert all(type(value) in (int, float) for value in info.values())


@every_case("info", [{"a": [1, 2]}, {"a": "much"}, {"a": None}, {"a": torch.ones(2)}, {3: 1.0}])
def test_what_is_no_figure_is_refused(info):
    with pytest.raises(ValueError, match=r"info\[.*\] of a selection is .*; a figure is one number under a name"):
        Selection([0], info=info)


@every_case("indices", [torch.tensor([0.0, 1.5]), [1.0, 2.0], torch.tensor([True, False])])
def test_indices_are_whole_numbers(indices):
    with pytest.raises(ValueError, match="indices are whole numbers, got torch"):
        Selection(indices)


def test_selection_weights_have_mean_one():
    selection = Selection(torch.tensor([3, 1, 2]), weights=torch.tensor([2, 0, 4]))
    assert selection.weights.tolist() == [1, 0, 2]
    assert len(selection) == 3
    assert Selection([3, 1]).indices.dtype == torch.long


@every_case("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")], [[1.0, 1.0]]])
def test_bad_selection_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be"):
        Selection(torch.tensor([0, 1]), weights=torch.tensor(weights))
