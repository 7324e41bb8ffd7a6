"""What is foreseen is what a run's meter then counts."""

import pytest

from vecaf_hf.augmentation import CEACallback
from vecaf_hf.cost import CostMeter, Work
from vecaf_hf.inspection import embedding_map
from vecaf_hf.inspection.budget import RunSizes, UnitCosts, evaluation_steps, foreseen
from vecaf_hf.loop import LoopSchedule

RUNS = {
    "the whole pool": {},
    "a part": {"rescore": "sampled", "scoring_fraction": 0.5},
    "the whole pool, then a part": {"rescore": "stale", "scoring_fraction": 0.3, "num_loops": 3},
    "once": {"rescore": "proxy", "num_loops": 3},
    "one selection": {"single_run": True},
    "nothing": {"strategy": "random"},
    "by training's losses": {"strategy": "loss_balanced"},
    "everything is selected": {"strategy": "full"},
    "by groups": {"strategy": "group_balanced", "group_column": "label"},
    "ten candidates a sample": {"strategy": "rho_loss", "selection_budget": 8},
    "once, when a third is over": {"strategy": "jtt", "num_loops": 6},
    "small images": {"scoring_image_size": 16},
    "in bfloat16": {"scoring_bf16": True},
    "a short last loop": {"num_loops": 3, "max_steps": 7},
    "accumulation": {"gradient_accumulation_steps": 2, "max_steps": 5},
    "evaluation by loop": {"eval_strategy": "epoch", "num_loops": 3, "max_steps": 7},
    "evaluation by step": {"eval_strategy": "steps", "eval_steps": 3, "eval_on_start": True},
    "evaluation by a part of the run": {"eval_strategy": "steps", "eval_steps": 0.3, "eval_delay": 3},
}


@pytest.fixture(autouse=True)
def by_pca(monkeypatch):
    """UMAP takes its time to compile."""
    monkeypatch.setattr(embedding_map, "find_spec", lambda name: None)


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_the_budget_is_what_a_run_then_counts(make_vit, make_trainer, options):
    trainer = make_trainer(make_vit(), **options)
    cost = trainer.inspect().cost
    trainer.train()
    counted = trainer.meter.work
    for kind in ("score", "train", "evaluate"):
        total = cost.total[kind]
        assert (total.samples, total.flops) == (counted[kind].samples, pytest.approx(counted[kind].flops)), kind
    assert len(cost.loops) == len(trainer.loop_records)
    assert cost.plain["train"] == cost.total["train"]


@pytest.mark.parametrize(
    ("strategy", "single_run"),
    [*((strategy, single) for strategy in ("ods", "random", "full") for single in (True, False)), ("jtt", False)],
)
def test_the_budget_has_what_augmentation_scores(make_vit, make_trainer, text_encoder, strategy, single_run):
    trainer = make_trainer(
        make_vit(), [CEACallback(text_encoder)], strategy=strategy, single_run=single_run, num_loops=3
    )
    cost = trainer.inspect().cost
    trainer.train()
    assert cost.total["score"].samples == trainer.meter.work["score"].samples
    assert cost.total["score"].flops == pytest.approx(trainer.meter.work["score"].flops)


def test_the_first_selection_costs_what_it_then_does(make_vit, make_trainer):
    trainer = make_trainer(make_vit(), single_run=True)
    foreseen_work = trainer.inspect().cost.total["select"]
    trainer.train()
    assert foreseen_work.samples == trainer.meter.work["select"].samples == 20
    assert trainer.meter.work["select"].flops > 0
    assert foreseen_work.flops == pytest.approx(trainer.meter.work["select"].flops)


# --- By hand ---


def schedule(**sizes):
    values = {"total_updates": 10, "updates_per_loop": 5, "samples_per_update": 8, "batch_size": 4}
    values |= {"gradient_accumulation_steps": 1, "world_size": 2, "pool_size": 101, "budget": 10, "seed": 0}
    return LoopSchedule(**{**values, **sizes})


UNIT = UnitCosts(
    forward_flops=100.0, scoring_flops=10.0, score_seconds=1.0, evaluate_seconds=2.0, train_seconds=4.0,
    select=Work(10, 7.0, 3.0), encode_text=Work(5, 11.0, 13.0),
)  # fmt: skip


def test_seconds_are_of_one_process_and_samples_of_all(arguments):
    args = arguments(eval_strategy="epoch")
    loops = foreseen(args, schedule(), RunSizes(selected=10, evaluated=6, has_cea=True), UNIT).loops
    # 101 samples on two processes: both score 51.
    assert loops[0]["score"] == Work(102, 1020.0, 51.0)
    assert loops[0]["train"] == Work(40, 3 * 40 * 100.0, 20 * 4.0)
    assert loops[0]["evaluate"] == Work(6, 600.0, 3 * 2.0)
    assert (loops[0]["encode_text"], loops[1]["encode_text"]) == (UNIT.encode_text, Work())
    assert loops[1]["select"] == UNIT.select


def test_shares_are_of_what_plain_finetuning_would_not_have(arguments):
    cost = foreseen(arguments(single_run=True), schedule(), RunSizes(selected=10), UNIT)
    extra, plain = 1020.0 + 7 + 11, 3 * 80 * 100.0
    assert cost.share("flops") == pytest.approx(extra / (extra + plain))
    assert cost.share("seconds") == pytest.approx((51 + 3 + 13) / (51 + 3 + 13 + 40 * 4))
    assert foreseen(arguments(strategy="random"), schedule(), RunSizes(10), UNIT).share("flops") == pytest.approx(
        (14 + 11) / (14 + 11 + plain)
    )


def test_what_was_done_before_the_run_is_in_its_budget(make_vit, make_trainer):
    before = CostMeter()
    before.add("auxiliary", 7, 1e9)
    before.add("encode_text", 2, 1e8)
    trainer = make_trainer(make_vit(), trainer={"work_before": before})
    cost = trainer.inspect().cost
    assert (cost.loops[0]["auxiliary"].flops, cost.loops[1]["auxiliary"].flops) == (1e9, 0)
    trainer.train()
    for kind in ("auxiliary", "encode_text"):
        assert cost.total[kind] == trainer.meter.work[kind], kind


def test_a_network_that_learns_at_each_boundary_is_told_of(make_vit, make_trainer, text_encoder):
    def notes(toward):
        cea = CEACallback(text_encoder, domain_prompt="a foggy day", toward=toward)
        return make_trainer(make_vit(), [cea]).inspect().cost.notes

    assert any("learned_difference" in note for note in notes("learned_difference"))
    assert not any("learned_difference" in note for note in notes("difference"))


def test_nothing_is_a_share_of_nothing(arguments):
    unit = UnitCosts(0, 0, 0, 0, 0)
    assert foreseen(arguments(), schedule(), RunSizes(10), unit).share("flops") == 0


def test_the_step_of_every_evaluation(arguments):
    def steps(**options):
        return evaluation_steps(arguments(**options), schedule(updates_per_loop=4))

    assert steps() == []
    assert steps(eval_strategy="epoch") == [4, 8, 10]
    assert steps(eval_strategy="epoch", eval_delay=2) == [8, 10]
    assert steps(eval_strategy="steps", eval_steps=5) == [5, 10]
    assert steps(eval_strategy="steps", eval_steps=4, eval_delay=5) == [8, 10]
    assert steps(eval_strategy="steps", eval_steps=0.25, eval_on_start=True) == [0, 3, 6, 9, 10]
