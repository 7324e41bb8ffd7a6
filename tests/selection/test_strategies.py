"""What every registered strategy promises, in the manner of scikit-learn's estimator checks."""

from dataclasses import dataclass, field, replace

import pytest
import torch

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
        chosen = {"selection_steps": 25, **self.options, **options}
        return run_strategy(self.strategy, candidates, budget, SelectionOptions(strategy=self.name, **chosen), seed)

    def due(self, candidates: Candidates, budget: int = BUDGET) -> int:
        return len(candidates) if self.strategy.size == "all" else budget

    @property
    def ignores_budget(self) -> bool:
        return self.strategy.size != "budget"


VARIANTS = [
    *(Variant(name) for name in STRATEGIES),
    *(Variant("ods", {"allocation": allocation}) for allocation in ALLOCATIONS),
    *(Variant("ods", {"allocation": "global", "loss_weighting": weighting}) for weighting in LOSS_WEIGHTINGS),
    *(
        Variant(name, {"class_balance": 0.3})
        for name, strategy in STRATEGIES.items()
        if strategy.heeds == {"class_balance"}
    ),
    Variant("ods", {"class_balance": 0.3}),
    Variant("ods", {"ensemble_size": 3}),
    Variant("ods", {"ensemble_size": 3, "ensemble": "debias"}),
    Variant("ods", {"ensemble_size": 3, "ensemble": "debias", "allocation": "global"}),
    Variant("ods", {"centroid_start": "k-means++"}),
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

every_strategy = pytest.mark.parametrize("variant", VARIANTS, ids=str)


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
@pytest.mark.parametrize("budget", [1, 2, BUDGET, 59, 60])
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
    found = {frozenset(ids(variant.run(pool, seed=seed))) for seed in range(4)}
    assert (len(found) == 1) == (variant.name in DETERMINISTIC)


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
@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_the_candidates_does_not_matter(variant, seed, make_pool):
    pool = make_pool()
    shuffled = pool.take(torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed)))
    assert_same(variant.run(pool, seed=seed), variant.run(shuffled, seed=seed))


@every_strategy
@pytest.mark.parametrize("seed", [0, 1])
def test_a_rotation_of_the_embedding_space_changes_nothing(variant, seed, make_pool):
    pool = make_pool()
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))
    head = replace(pool.head, weight=pool.head.weight @ rotation.float())
    rotated = replace(pool, embeddings=pool.embeddings @ rotation, head=head)
    if variant.options.get("centroid_start") == "k-means++":
        # Of two candidates that are each other's nearest, either lowers k-means++'s potential by the same amount:
        # rounding decides between them, and the steps go on from there.
        starts = [variant.run(one, seed=seed, selection_steps=0) for one in (pool, rotated)]
        assert len(ids(starts[0]) ^ ids(starts[1])) <= 2
    else:
        assert ids(variant.run(pool, seed=seed)) == ids(variant.run(rotated, seed=seed))


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
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_floating_point_type(variant, dtype, make_pool):
    pool = make_pool()
    floats = {name: getattr(pool, name).to(dtype) for name in ("embeddings", "losses", "training_losses")}
    check_contract(variant, replace(pool, **floats), BUDGET)


@every_strategy
@pytest.mark.parametrize("budget", [1, 4, 17, 40])
def test_duplicates_in_the_pool(variant, budget, make_pool):
    pool = make_pool(size=40)
    few = replace(pool, embeddings=pool.embeddings[torch.arange(40) % 3], losses=pool.losses[torch.arange(40) % 3])
    check_contract(variant, few, budget)


@every_strategy
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("budget", [1, 9, 30])
def test_identical_and_zero_embeddings(variant, value, budget, make_pool):
    pool = make_pool(size=30)
    head = replace(pool.head, weight=pool.head.weight[:, :4])
    check_contract(variant, replace(pool, embeddings=torch.full((30, 4), value), head=head), budget)


@every_strategy
@pytest.mark.parametrize("budget", [1, BUDGET, 60])
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


@every_strategy
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["embeddings", "losses", "learned_scores"])
def test_values_that_are_not_finite_are_refused_with_the_samples_index(variant, bad, name, make_pool):
    pool = make_pool()
    values = getattr(pool, name).clone()
    values[20] = bad
    with pytest.raises(ValueError, match=rf"{name} of sample 61 is not finite"):
        variant.run(replace(pool, **{name: values}))


@every_strategy
def test_negative_losses_are_refused_with_the_samples_index(variant, make_pool):
    losses = make_pool().losses.clone()
    losses[20] = -0.5
    with pytest.raises(ValueError, match=r"losses of sample 61 is -0.5"):
        variant.run(replace(make_pool(), losses=losses))


@every_strategy
@pytest.mark.parametrize("budget", [-1, 0, 61])
def test_budgets_that_do_not_fit_are_refused(variant, budget, make_pool):
    if variant.ignores_budget:
        assert_same(variant.run(make_pool(), budget), variant.run(make_pool()))
    else:
        with pytest.raises(ValueError, match=rf"cannot select {budget} distinct samples out of 60"):
            variant.run(make_pool(), budget)


@every_strategy
@pytest.mark.parametrize("missing", FIELDS)
def test_only_what_a_strategy_needs_may_not_be_missing(variant, missing, make_pool):
    pool = replace(make_pool(), **{missing: None})
    if missing in variant.strategy.needs:
        with pytest.raises(ValueError, match=rf"strategy '{variant.name}' needs {missing}, which were not given"):
            variant.run(pool)
    else:
        check_contract(variant, pool, BUDGET)


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_a_strategy_needs_is_enough(name, make_pool):
    pool = make_pool()
    unneeded = set(FIELDS) - STRATEGIES[name].needs
    check_contract(Variant(name), replace(pool, **dict.fromkeys(unneeded)), BUDGET)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_described(name):
    strategy = STRATEGIES[name]
    assert strategy.summary.endswith(".") and "\n" not in strategy.summary
    assert strategy.needs_forward == bool(strategy.needs & {"embeddings", "losses", "logits", "learned_scores"})


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


@pytest.mark.parametrize("name", ["learn_loss", "ta_vaal"])
def test_what_was_learned_decides_and_the_lower_index_among_equals(name, make_pool):
    scores = torch.tensor([-1.0, 3.0, 2.0, 3.0, 2.0, -2.0])
    pool = replace(make_pool(size=6), learned_scores=scores)
    assert Variant(name).run(pool, 4).indices.tolist() == [4, 10, 7, 13]


def test_balanced_takes_the_same_number_of_each_class(make_pool):
    labels = torch.tensor([0] * 40 + [1] * 15 + [2] * 5)
    pool = replace(make_pool(), labels=labels)
    chosen = Variant("balanced").run(pool, 15)
    assert labels[(chosen.indices - 1) // 3].bincount().tolist() == [5, 5, 5]


@pytest.mark.parametrize(("class_balance", "expected"), [(0.0, [16, 4, 1]), (0.5, [12, 6, 3]), (1.0, [7, 7, 7])])
@pytest.mark.parametrize("name", ["balanced", "ods"])
def test_class_shares_follow_class_balance(name, class_balance, expected, make_pool):
    labels = torch.tensor([0] * 128 + [1] * 32 + [2] * 8)
    pool = replace(make_pool(size=168), labels=labels)
    chosen = Variant(name).run(pool, 21, class_balance=class_balance)
    assert labels[(chosen.indices - 1) // 3].bincount().tolist() == expected
    # As if the part were of a pool of classes as large as each other.
    equal = Variant(name).run(replace(pool, class_sizes=torch.full((168,), 900)), 21, class_balance=class_balance)
    assert labels[(equal.indices - 1) // 3].bincount().tolist() == [7, 7, 7]


@pytest.mark.parametrize("name", ["balanced", "trimmed", "ods", "group_balanced", "loss_balanced"])
def test_more_classes_than_the_budget_are_selected_in_turn(name, make_pool):
    """A class has one sample or none; after every two loops of a run each has had one, and the seed draws which."""
    labels, firsts = torch.arange(60) % 20, set()
    pool = replace(make_pool(), labels=labels, training_losses=torch.full((60,), torch.nan))
    for seed in range(3):
        for loops in ((0, 1), (2, 3)):
            found = [
                labels[(Variant(name).run(replace(pool, turn=Turn(seed, loop)), 10, seed=loop).indices - 1) // 3]
                for loop in loops
            ]
            assert torch.cat(found).sort().values.tolist() == list(range(20))
            firsts.add(tuple(found[0].sort().values.tolist()))
    # Without a run, a seed has its own turn.
    alone = Variant(name).run(pool, 10, seed=5).indices
    assert len(labels[(alone - 1) // 3].unique()) == 10 and len(firsts) == 3


def test_balanced_refuses_multi_label_targets(make_pool):
    with pytest.raises(ValueError, match="one class per sample"):
        Variant("balanced").run(replace(make_pool(), labels=torch.zeros(60, 3)))


def test_random_takes_every_sample_equally_often(make_pool):
    pool = make_pool(size=20, multiply=1)
    counts = torch.zeros(20)
    for seed in range(600):
        counts[Variant("random").run(pool, 5, seed=seed).indices - 1] += 1
    # 150 expected, standard deviation 10.6
    assert float(counts.min()) > 100 and float(counts.max()) < 200


@pytest.mark.parametrize("allocation", ["class", "class_loss"])
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


@pytest.mark.parametrize(("budget", "part", "chosen"), [(1, 0.9, 1), (10, 0.99, 1), (10, 0.04, 10), (10, 0.25, 8)])
def test_the_random_part_is_rounded_and_leaves_one(budget, part, chosen, make_pool):
    candidates = make_pool()
    selection = Variant("topk_loss").run(candidates, budget, random_fraction=part)
    assert torch.equal(selection.indices[:chosen], Variant("topk_loss").run(candidates, chosen).indices)
    assert len(ids(selection)) == budget


def test_random_samples_beside_weighted_ones_are_refused(make_pool):
    with pytest.raises(ValueError, match="random_fraction and sample_weights='mass' do not go together"):
        Variant("ods").run(make_pool(), random_fraction=0.5, sample_weights="mass")

    def weighs(candidates, budget, options, generator):
        return Selection(candidates.indices[:budget], weights=torch.arange(1.0, budget + 1))

    options = SelectionOptions(strategy=weighs, random_fraction=0.5)
    with pytest.raises(ValueError, match="gives weights, and samples drawn at random have none"):
        run_strategy(replace(STRATEGIES["random"], select=weighs), make_pool(), 10, options, 0)
