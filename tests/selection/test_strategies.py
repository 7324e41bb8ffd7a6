"""What every registered strategy promises, in the manner of scikit-learn's estimator checks."""

from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
from every_case import every_case

from vecaf_hf.selection import STRATEGIES, Candidates, Selection, SelectionOptions, run_strategy
from vecaf_hf.selection.candidates import Turn
from vecaf_hf.selection.options import ALLOCATIONS
from vecaf_hf.selection.weighting import LOSS_WEIGHTINGS

BUDGET = 13


@dataclass(frozen=True)
class Variant:
    name: str
    options: dict = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{value}" for value in self.options.values())])

    @property
    def strategy(self):
        return STRATEGIES[self.name]

    def run(self, candidates: Candidates, budget: int = BUDGET, seed: int = 0, **options) -> Selection:
        chosen = {"selection_steps": 8, **self.options, **options}
        return run_strategy(self.strategy, candidates, budget, SelectionOptions(strategy=self.name, **chosen), seed)

    def due(self, candidates: Candidates, budget: int = BUDGET) -> int:
        return len(candidates) if self.strategy.size == "all" else budget

    @property
    def ignores_budget(self) -> bool:
        return self.strategy.size != "budget"


DEFAULTS = SelectionOptions()
VARIANTS = [
    *(Variant(name) for name in STRATEGIES),
    *(Variant("ods", {"allocation": allocation}) for allocation in ALLOCATIONS if allocation != DEFAULTS.allocation),
    *(
        Variant("ods", {"allocation": "global", "loss_weighting": weighting})
        for weighting in LOSS_WEIGHTINGS
        if weighting != DEFAULTS.loss_weighting
    ),
    *(
        Variant(name, {"class_balance": 0.3})
        for name, strategy in STRATEGIES.items()
        if strategy.heeds >= {"class_balance"} and "allocation" not in strategy.heeds
    ),
    Variant("ods", {"class_balance": 0.3}),
    Variant("ods", {"ensemble_size": 2}),
    Variant("ods", {"ensemble_size": 2, "ensemble": "debias", "allocation": "global"}),
    Variant("activeft", {"centroid_start": "k-means++", "ensemble_size": 2}),
]
DETERMINISTIC = {"topk_loss", "full", "margin", "entropy", "el2n", "k_center", "rho_loss", "learn_loss", "ta_vaal"}
# A sample's norm counts.
EUCLIDEAN = {"k_center", "badge", "alfa_mix"}
FIELDS = (
    "embeddings",
    "losses",
    "labels",
    "logits",
    "irreducible",
    "head",
    "training_losses",
    "progress",
    "learned_scores",
    "groups",
    "mistaken",
)

every_strategy = every_case("variant", VARIANTS, ids=str)


def ids(selection: Selection) -> set[int]:
    return set(selection.indices.tolist())


def assert_same(one: Selection, other: Selection) -> None:
    assert torch.equal(one.indices, other.indices)
    assert (one.weights is None) == (other.weights is None)
    assert one.weights is None or torch.equal(one.weights, other.weights)


def check_contract(variant: Variant, candidates: Candidates, budget: int, **options) -> Selection:
    selection = variant.run(candidates, budget, **options)
    assert len(selection) == len(ids(selection))
    assert len(selection) == variant.due(candidates, budget) or variant.strategy.size == "own"
    assert ids(selection) <= set(candidates.indices.tolist())
    if selection.weights is not None:
        assert float(selection.weights.mean()) == pytest.approx(1, rel=1e-5)
    return selection


@every_strategy
@every_case("budget", [1, 2, BUDGET, 59, 60])
def test_exactly_k_distinct_samples_of_the_pool(variant, budget, make_pool):
    pool = make_pool()
    selection = check_contract(variant, pool, budget)
    if budget == len(pool) and variant.strategy.size != "own":
        assert ids(selection) == set(pool.indices.tolist())


@every_strategy
def test_the_same_seed_gives_the_same_selection(variant, make_pool):
    pool = make_pool()
    torch.manual_seed(1)
    first = variant.run(pool, seed=7)
    torch.manual_seed(2)
    second = variant.run(pool, seed=7)
    assert_same(first, second)
    assert first.info == second.info


@every_strategy
def test_another_seed_changes_what_is_stochastic(variant, make_pool):
    pool = make_pool()
    first, *others = (ids(variant.run(pool, seed=seed)) for seed in range(3))
    assert all(other == first for other in others) == (variant.name in DETERMINISTIC)


@every_strategy
def test_the_global_generator_and_the_candidates_are_left_alone(variant, make_pool):
    pool = make_pool()
    before = replace(pool, embeddings=pool.embeddings.clone(), losses=pool.losses.clone())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    variant.run(pool)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(pool.embeddings, before.embeddings) and torch.equal(pool.losses, before.losses)


@every_strategy
def test_the_order_of_the_candidates_does_not_matter(variant, make_pool):
    pool = make_pool()
    shuffled = pool.take(torch.randperm(len(pool), generator=torch.Generator().manual_seed(1)))
    assert_same(variant.run(pool, seed=1), variant.run(shuffled, seed=1))


@every_strategy
def test_a_rotation_of_the_embedding_space_changes_nothing(variant, make_pool):
    pool = make_pool()
    generator = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))
    head = replace(pool.head, weight=pool.head.weight @ rotation.float())
    rotated = replace(pool, embeddings=pool.embeddings @ rotation, head=head)
    if variant.options.get("centroid_start") == "k-means++":
        # Of two candidates that are each other's nearest, either lowers k-means++'s potential by the same amount:
        # rounding decides between them, and the steps go on from there.
        starts = [variant.run(one, selection_steps=0) for one in (pool, rotated)]
        assert len(ids(starts[0]) ^ ids(starts[1])) <= 2
    else:
        assert ids(variant.run(pool)) == ids(variant.run(rotated))


@every_strategy
def test_the_scale_of_the_embeddings_changes_nothing(variant, make_pool):
    pool = make_pool()
    scale = torch.rand(60, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 100 + 0.01
    if variant.name in EUCLIDEAN:
        scale = scale[:1]
    weight = pool.head.weight / scale[0].float()
    scaled = replace(pool, embeddings=pool.embeddings * scale, head=replace(pool.head, weight=weight))
    assert ids(variant.run(pool)) == ids(variant.run(scaled))


@every_strategy
@every_case("dtype", [torch.float16, torch.bfloat16])
def test_any_floating_point_type(variant, dtype, make_pool):
    pool = make_pool()
    floats = {name: getattr(pool, name).to(dtype) for name in ("embeddings", "losses", "training_losses")}
    check_contract(variant, replace(pool, **floats), BUDGET)


@every_strategy
@every_case("budget", [1, 17, 40])
def test_duplicates_in_the_pool(variant, budget, make_pool):
    pool = make_pool(size=40)
    few = replace(pool, embeddings=pool.embeddings[torch.arange(40) % 3], losses=pool.losses[torch.arange(40) % 3])
    check_contract(variant, few, budget)


@every_strategy
@every_case(("value", "budget"), [(0.0, 9), (0.0, 30), (1.0, 1), (1.0, 9)])
def test_identical_and_zero_embeddings(variant, value, budget, make_pool):
    pool = make_pool(size=30)
    head = replace(pool.head, weight=pool.head.weight[:, :4])
    check_contract(variant, replace(pool, embeddings=torch.full((30, 4), value), head=head), budget)


@every_strategy
@every_case("budget", [BUDGET, 60])
def test_zero_losses(variant, budget, make_pool):
    check_contract(variant, replace(make_pool(), losses=torch.zeros(60)), budget)


@every_strategy
def test_a_single_candidate(variant, make_pool):
    selection = check_contract(variant, make_pool().take(torch.tensor([17])), 1)
    assert selection.indices.tolist() == [17 * 3 + 1]


@every_strategy
def test_a_class_smaller_than_its_share(variant, make_pool):
    labels = torch.tensor([0] * 2 + [1] * 1 + [2] * 57)
    selection = check_contract(variant, replace(make_pool(), labels=labels), 30)
    allocation = variant.options.get("allocation", SelectionOptions().allocation)
    if variant.name == "balanced" or (variant.name == "ods" and allocation == "class"):
        assert {1, 4, 7} <= ids(selection)


@every_case("variant", map(Variant, STRATEGIES), ids=str)
@every_case("budget", [-1, 0, 61])
def test_budgets_that_do_not_fit_are_refused(variant, budget, make_pool):
    if variant.ignores_budget:
        assert_same(variant.run(make_pool(), budget), variant.run(make_pool()))
    else:
        with pytest.raises(ValueError, match=rf"cannot select {budget} distinct samples out of 60"):
            variant.run(make_pool(), budget)


@every_case(("name", "missing"), [(name, need) for name in STRATEGIES for need in STRATEGIES[name].needs])
def test_what_a_strategy_needs_may_not_be_missing(name, missing, make_pool):
    with pytest.raises(ValueError, match=rf"strategy '{name}' needs {missing}, which were not given"):
        Variant(name).run(replace(make_pool(), **{missing: None}))


@every_strategy
def test_what_a_strategy_needs_is_enough(variant, make_pool):
    unneeded = set(FIELDS) - variant.strategy.needs
    check_contract(variant, replace(make_pool(), **dict.fromkeys(unneeded)), BUDGET)


@every_case("name", STRATEGIES)
def test_every_strategy_is_described(name):
    strategy = STRATEGIES[name]
    assert strategy.summary.endswith(".") and "\n" not in strategy.summary
    assert strategy.needs_forward == bool(strategy.needs & {"embeddings", "losses", "logits", "learned_scores"})


def test_the_oracle_alone_reads_groups():
    assert {name for name, strategy in STRATEGIES.items() if "groups" in strategy.reads} == {"group_balanced"}


def test_what_costs_no_forward_pass():
    assert {name for name, strategy in STRATEGIES.items() if not strategy.needs_forward} == {
        "random",
        "balanced",
        "infobatch",
        "loss_balanced",
        "trimmed",
        "jtt",
        "full",
        "group_balanced",
    }


def test_topk_loss_takes_the_largest_losses_and_the_lower_index_among_equals(make_pool):
    losses = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 2.0])
    pool = replace(make_pool(size=6), losses=losses)
    assert Variant("topk_loss").run(pool, 4).indices.tolist() == [4, 10, 7, 13]


@every_case("name", ["learn_loss", "ta_vaal"])
def test_what_was_learned_decides_and_the_lower_index_among_equals(name, make_pool):
    scores = torch.tensor([-1.0, 3.0, 2.0, 3.0, 2.0, -2.0])
    pool = replace(make_pool(size=6), learned_scores=scores)
    assert Variant(name).run(pool, 4).indices.tolist() == [4, 10, 7, 13]


def test_balanced_takes_the_same_number_of_each_class(make_pool):
    labels = torch.tensor([0] * 40 + [1] * 15 + [2] * 5)
    pool = replace(make_pool(), labels=labels)
    chosen = Variant("balanced").run(pool, 15)
    assert labels[(chosen.indices - 1) // 3].bincount().tolist() == [5, 5, 5]


@every_case(("class_balance", "expected"), [(0.0, [16, 4, 1]), (0.5, [12, 6, 3]), (1.0, [7, 7, 7])])
@every_case("name", ["balanced", "ods"])
def test_class_shares_follow_class_balance(name, class_balance, expected, make_pool):
    labels = torch.tensor([0] * 128 + [1] * 32 + [2] * 8)
    pool = replace(make_pool(size=168), labels=labels)
    chosen = Variant(name).run(pool, 21, class_balance=class_balance)
    assert labels[(chosen.indices - 1) // 3].bincount().tolist() == expected
    # As if the part were of a pool of classes as large as each other.
    equal = Variant(name).run(replace(pool, class_sizes=torch.full((168,), 900)), 21, class_balance=class_balance)
    assert labels[(equal.indices - 1) // 3].bincount().tolist() == [7, 7, 7]


@every_case("name", ["balanced", "trimmed", "ods", "group_balanced", "loss_balanced"])
def test_more_classes_than_the_budget_are_selected_in_turn(name, make_pool):
    """A class has one sample or none; after every two loops of a run each has had one, and the seed draws which."""
    run = partial(Variant(name).run, selection_steps=1)
    labels, firsts = torch.arange(60) % 20, set()
    pool = replace(make_pool(), labels=labels, training_losses=torch.full((60,), torch.nan))
    for seed in range(3):
        for loops in ((0, 1), (2, 3)):
            found = [
                labels[(run(replace(pool, turn=Turn(seed, loop)), 10, seed=loop).indices - 1) // 3] for loop in loops
            ]
            assert torch.cat(found).sort().values.tolist() == list(range(20))
            firsts.add(tuple(found[0].sort().values.tolist()))
    # Without a run, a seed has its own turn.
    alone = run(pool, 10, seed=5).indices
    assert len(labels[(alone - 1) // 3].unique()) == 10 and len(firsts) == 3


def test_balanced_refuses_multi_label_targets(make_pool):
    with pytest.raises(ValueError, match="one class per sample"):
        Variant("balanced").run(replace(make_pool(), labels=torch.zeros(60, 3)))


def test_random_takes_every_sample_equally_often(make_pool):
    pool = make_pool(size=20, multiply=1)
    counts = torch.zeros(20)
    for seed in range(200):
        counts[Variant("random").run(pool, 5, seed=seed).indices - 1] += 1
    # 50 expected, standard deviation 6.1
    assert float(counts.min()) > 30 and float(counts.max()) < 70


@every_case("allocation", ["class", "class_loss"])
def test_ods_by_class_takes_multi_label_targets_as_one_cell(allocation, make_pool):
    pool = replace(make_pool(), labels=torch.zeros(60, 3))
    by_class = run_strategy(STRATEGIES["ods"], pool, 10, SelectionOptions(allocation=allocation), seed=0)
    whole = run_strategy(STRATEGIES["ods"], pool, 10, SelectionOptions(allocation="global"), seed=0)
    assert torch.equal(by_class.indices, whole.indices)


# --- With random samples ---


def test_a_part_drawn_at_random_is_balanced_and_beside_what_the_strategy_selects(make_pool):
    candidates = make_pool()
    for seed in range(3):
        selection = Variant("topk_loss").run(candidates, 20, seed, random_fraction=0.5)
        best = Variant("topk_loss").run(candidates, 10, seed)
        assert torch.equal(selection.indices[:10], best.indices)
        assert len(ids(selection)) == 20
        drawn = torch.isin(candidates.indices, selection.indices[10:])
        counts = candidates.labels[drawn].bincount()
        assert counts.max() - counts.min() <= 1
    runs = [ids(Variant("topk_loss").run(candidates, 20, seed, random_fraction=0.5)) for seed in range(3)]
    assert runs[0] != runs[1] != runs[2]


def test_without_classes_the_random_part_is_drawn_from_all_others(make_pool):
    candidates = replace(make_pool(), labels=None)
    runs = [ids(Variant("topk_loss").run(candidates, 20, seed, random_fraction=0.9)) for seed in range(60)]
    best = ids(Variant("topk_loss").run(candidates, 2))
    assert all(best < run and len(run) == 20 for run in runs)
    assert set().union(*runs) == set(candidates.indices.tolist())


@every_case(("budget", "part", "chosen"), [(1, 0.9, 1), (10, 0.99, 1), (10, 0.04, 10), (10, 0.25, 8)])
def test_the_random_part_is_rounded_and_leaves_one(budget, part, chosen, make_pool):
    candidates = make_pool()
    selection = Variant("topk_loss").run(candidates, budget, random_fraction=part)
    assert torch.equal(selection.indices[:chosen], Variant("topk_loss").run(candidates, chosen).indices)
    assert len(ids(selection)) == budget


def test_random_samples_beside_weighted_ones_are_refused(make_pool):
    def weighs(candidates, budget, options, generator):
        return Selection(candidates.indices[:budget], weights=torch.arange(1.0, budget + 1))

    options = SelectionOptions(strategy=weighs, random_fraction=0.5)
    with pytest.raises(ValueError, match="gives weights, and samples drawn at random have none"):
        run_strategy(replace(STRATEGIES["random"], select=weighs), make_pool(), 10, options, 0)
