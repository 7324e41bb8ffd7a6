"""Runs whose pool is scored for less: what is paid, what is selected, and that training does not notice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer
from vecaf_hf.arguments import replaced
from vecaf_hf.cost import FULL_SIZE, TRAINING_FACTOR
from vecaf_hf.scoring.rescoring import RESCORING

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]

POOL, LOOPS = 120, 3
# Forward passes over three loops.
SCORED = {"full": 3 * POOL, "sampled": 3 * POOL // 4, "stale": POOL + 2 * POOL // 4, "proxy": POOL}


@pytest.mark.parametrize(
    ("rescore", "strategy"),
    [*((rescore, strategy) for rescore in RESCORING for strategy in ("ods", "random")), ("stale", "topk_loss")],
)
def test_what_each_mode_pays(make_vit: MakeModel, make_trainer: MakeTrainer, rescore: str, strategy: str) -> None:
    options = {"rescore": rescore, "strategy": strategy}
    trainer = make_trainer(make_vit(), num_loops=LOOPS, max_steps=6, eval_strategy="no", **options)
    trainer.train()
    assert [len(selection) for selection in trainer.selection_history] == 3 * [20]
    scored = strategy != "random"
    assert trainer.meter.work["score"].samples == (SCORED[rescore] if scored else 0)
    assert all((record.pool_loss is not None) == scored for record in trainer.loop_records)


def test_the_proxy_follows_training(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    seen: list[Any] = []

    def watched(candidates: Any, budget: int, options: Any, generator: torch.Generator) -> Tensor:
        seen.append(candidates)
        return candidates.indices[:budget]

    make_trainer(make_vit(), rescore="proxy", strategy=watched, eval_strategy="no").train()
    first, second = seen
    assert torch.equal(first.embeddings, second.embeddings) and second.logits.shape == (POOL, 10)
    # The probe has seen the first twenty, and knows them better than the fresh head knew any, and than it knows others.
    assert second.losses[:20].mean() < first.losses[:20].mean() - 0.1
    assert second.losses[:20].mean() < second.losses[20:].mean() - 0.1


def test_cea_and_every_mode(make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder) -> None:
    for rescore in RESCORING:
        size = None if rescore == "stale" else 16
        trainer = make_trainer(make_vit(), [CEACallback(text_encoder)], rescore=rescore, scoring_image_size=size)
        trainer.train()
        assert trainer.loop_records[1].info["cea_relative_shift"] > 0


def test_a_second_run_scores_anew(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(make_vit(), rescore="proxy", max_steps=2)
    for _ in range(2):
        trainer.train()
        assert trainer.meter.work["score"].samples == POOL


def test_a_part_that_leaves_no_choice_is_told_at_construction(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match=r"scoring_fraction is 0.1, .* 12 of 120 .* budget .* is 20"):
        make_trainer(make_vit(), rescore="sampled", scoring_fraction=0.1)


def test_fits_are_counted_and_checked_samples_timed(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(make_vit(), rescore="proxy", strategy="topk_loss", eval_strategy="no")
    trainer.train()
    # A fit, and a product of the whole pool with what was fitted.
    assert trainer.meter.work["select"].flops > 2 * POOL * 16 * 10
    trainer = make_trainer(make_vit(), strategy="random", eval_strategy="no", on_bad_sample="check")
    trainer.train()
    score = trainer.meter.work["score"]
    assert score.samples == score.flops == 0 and score.seconds > 0


@pytest.mark.parametrize(
    ("options", "until"),
    [
        ({"rescore": "stale"}, 2),
        ({"rescore": "proxy"}, 2),
        ({"rescore": "stale", "single_run": True}, 0),
        ({"rescore": "proxy", "strategy": "random"}, 0),
        ({"rescore": "sampled"}, 0),
        ({"strategy": "infobatch"}, 2),
    ],
    ids=str,
)
def test_a_checkpoint_keeps_scores_as_long_as_a_later_loop_reads_them(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path, options: dict[str, Any], until: int
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 1, "output_dir": str(tmp_path / "run")}
    make_trainer(make_vit(), max_steps=4, eval_strategy="no", **saving, **options).train()
    for step in range(1, 5):
        held = load_file(tmp_path / "run" / f"checkpoint-{step}" / "vecaf_state.safetensors")
        kept = any(name.startswith(("selector.scores.", "selector.losses.")) for name in held)
        assert kept == (step <= until), step


# --- Classes ---


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_a_proxy_without_classes_is_refused_at_construction(
    make_vit: MakeModel, make_trainer: MakeTrainer, problem: str
) -> None:
    model = make_vit()
    model.config.problem_type = problem
    with pytest.raises(ValueError, match='rescore="proxy" needs one class per sample: choose rescore="stale"'):
        make_trainer(model, rescore="proxy")


def test_a_proxy_whose_batches_have_no_classes_is_refused_before_training(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset
) -> None:
    def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        targets = torch.eye(10)[[sample["labels"] for sample in samples]]
        return {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples]), "labels": targets}

    trainer = make_trainer(make_vit(), trainer={"data_collator": collate}, rescore="proxy", label_column="none")
    with pytest.raises(ValueError, match='rescore="proxy" needs one class per sample: choose rescore="stale"'):
        trainer.train()


# --- What training saw ---


def every_third(candidates: Any, budget: int, options: Any, generator: torch.Generator) -> Tensor:
    return candidates.indices[::3][:budget]


class Tuples(nn.Module):
    """A model that returns (loss, logits)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.classifier = nn.Linear(3 * 32 * 32, 8), nn.Linear(8, 10)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        logits = self.classifier(self.body(pixel_values.flatten(1)).tanh())
        return (logits,) if labels is None else (cross_entropy(logits, labels), logits)


class Features(Tuples):
    """A model that returns (logits, features)."""

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        features = self.body(pixel_values.flatten(1)).tanh()
        return self.classifier(features), features


class Tensors(Tuples):
    """A model that returns logits."""

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(pixel_values)[0]


@pytest.mark.parametrize("kind", ["attribute", "tensor", "tuple"])
def test_an_objective_is_given_what_the_model_gives(make_vit: MakeModel, make_trainer: MakeTrainer, kind: str) -> None:
    def losses(outputs: Any, labels: Tensor) -> Tensor:
        logits = {"attribute": lambda: outputs.logits, "tensor": lambda: outputs, "tuple": lambda: outputs[0]}[kind]()
        return cross_entropy(logits, labels, reduction="none")

    model: Any = {"attribute": make_vit, "tensor": Tensors, "tuple": Tuples}[kind]()
    trainer = make_trainer(model, trainer={"sample_loss_func": losses}, eval_strategy="no", rescore="proxy")
    trainer.train()
    assert trainer.state.global_step == 8


def test_an_objective_that_needs_more_than_logits_is_told_before_training(make_trainer: MakeTrainer) -> None:
    def losses(outputs: Any, labels: Tensor) -> Tensor:
        return cross_entropy(outputs[0], labels, reduction="none") + outputs[1].square().mean(dim=1)

    trainer = make_trainer(Features(), trainer={"sample_loss_func": losses}, eval_strategy="no", rescore="proxy")
    with pytest.raises(IndexError):
        trainer.train()
    assert not trainer.selection_history and trainer.meter.work["score"].samples == 0


def test_what_training_computes_is_recorded_not_computed_again(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    def losses(outputs: Any, labels: Tensor) -> Tensor:
        if outputs.logits.requires_grad:
            sizes.append(len(labels))
        return cross_entropy(outputs.logits, labels, reduction="none")

    sizes: list[int] = []
    trainer = make_trainer(make_vit(), trainer={"sample_loss_func": losses}, rescore="stale", eval_strategy="no")
    trainer.train()
    assert (
        trainer.loop.selector.training_losses is not None
        and trainer.loop.selector.training_losses.gathered().isfinite().any()
    )
    assert sum(sizes) == trainer.meter.work["train"].samples == 64


def margins(outputs: Any, labels: Tensor) -> Tensor:
    """Draws from the global generator, as an objective may."""
    return cross_entropy(outputs["logits"], labels, reduction="none") + 1e-6 * torch.rand(len(labels))


def summed(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return cross_entropy(outputs["logits"], labels, reduction="sum", label_smoothing=0.2) / num_items_in_batch


OBJECTIVES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("vit", {}, {}),
    "accumulated": ("vit", {}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}),
    "smoothed": ("vit", {}, {"label_smoothing_factor": 0.1}),
    "compute_loss_func": ("vit", {"compute_loss_func": summed}, {}),
    "sample_loss_func": ("vit", {"sample_loss_func": margins}, {}),
    "tuples": ("tuples", {}, {}),
}


@pytest.fixture(params=OBJECTIVES)
def run(request: pytest.FixtureRequest, make_vit: MakeModel, make_trainer: MakeTrainer) -> Callable[..., VeCAFTrainer]:
    """A trained run under one of the objectives."""
    kind, trainer, objective = OBJECTIVES[request.param]

    def trained(**options: Any) -> VeCAFTrainer:
        dropout = options.pop("dropout", 0.0)
        model = Tuples() if kind == "tuples" else make_vit(hidden_dropout_prob=dropout)
        given = {"strategy": every_third, "eval_strategy": "no", **objective, **options}
        made = make_trainer(model, trainer=dict(trainer), **given)
        made.train()
        return made

    return trained


def test_recorded_losses_are_those_of_the_pass_over_the_pool(run: Callable[..., VeCAFTrainer]) -> None:
    """Of a model that does not learn, and training that changes no image."""
    trainer = run(rescore="stale", learning_rate=0.0)
    assert trainer.loop.selector.training_losses is not None
    recorded = trainer.loop.selector.training_losses.gathered()
    seen = recorded.isfinite().nonzero().squeeze(1)
    assert seen.tolist() == every_third(trainer.scorer.score(torch.arange(POOL)), 20, None, torch.Generator()).tolist()
    torch.testing.assert_close(recorded[seen], trainer.scorer.score(seen).losses, rtol=1e-4, atol=1e-5)


def test_recording_changes_nothing_of_the_training(run: Callable[..., VeCAFTrainer]) -> None:
    plain, recording = run(rescore="full", dropout=0.1), run(rescore="stale", dropout=0.1)
    assert plain.loop.selector.training_losses is None and recording.loop.selector.training_losses is not None
    for name, values in plain.model.state_dict().items():
        assert torch.equal(values, recording.model.state_dict()[name]), name
    logs = [[log["loss"] for log in trainer.state.log_history if "loss" in log] for trainer in (plain, recording)]
    assert logs[0] == logs[1] and len(logs[0]) == 8


@pytest.mark.parametrize(
    ("rescore", "strategy"), [("stale", "random"), ("stale", "rho_loss"), ("sampled", "ods"), ("proxy", "ods")]
)
def test_nothing_is_recorded_where_nobody_reads_it(
    make_vit: MakeModel, make_trainer: MakeTrainer, rescore: str, strategy: str
) -> None:
    trainer = make_trainer(make_vit(), rescore=rescore, strategy=strategy, max_steps=2)
    trainer.train()
    assert trainer.loop.selector.training_losses is None


# --- Resolution ---


def test_reduced_scoring_is_counted_as_what_it_is(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    counted = []
    for size in (None, 16):
        trainer = make_trainer(make_vit(), scoring_image_size=size, strategy="topk_loss", eval_strategy="epoch")
        trainer.train()
        counted.append(trainer.meter)
    full, reduced = counted
    assert reduced.forward_flops.keys() == {FULL_SIZE, "16"}
    assert reduced.forward_flops[FULL_SIZE] == full.forward_flops[FULL_SIZE] > 2 * reduced.forward_flops["16"]
    assert reduced.work["score"].flops == 2 * POOL * reduced.forward_flops["16"]
    for kind in ("train", "evaluate"):
        assert reduced.work[kind].flops == full.work[kind].flops
    assert reduced.work["train"].flops == TRAINING_FACTOR * 64 * full.forward_flops[FULL_SIZE]


def test_scores_of_reduced_images_are_the_models(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset
) -> None:
    model = make_vit()
    found = make_trainer(model, scoring_image_size=16).scorer.score(torch.arange(10))
    images = torch.stack(train[:10]["pixel_values"])
    small = nn.functional.interpolate(images, (16, 16), mode="bilinear", antialias=True)
    with torch.no_grad():
        logits = model.eval()(small, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(found.losses, cross_entropy(logits, found.labels, reduction="none"))


def test_a_model_of_one_size_is_told_before_training(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Tuples(), scoring_image_size=16)
    with pytest.raises(ValueError, match="scoring_image_size is 16, and Tuples takes no images of that size"):
        trainer.train()
    assert trainer.state.global_step == 0


# --- Precision ---


@pytest.mark.parametrize("strategy", ["ods", "badge", "learn_loss", "ta_vaal"])
def test_a_run_that_scores_in_bfloat16(make_vit: MakeModel, make_trainer: MakeTrainer, strategy: str) -> None:
    """Training and evaluation stay in float32, and the scores are close to theirs."""
    kinds: set[tuple[bool, torch.dtype]] = set()
    model = make_vit()
    model.classifier.register_forward_hook(lambda module, given, made: kinds.add((module.training, made.dtype)))
    trainer = make_trainer(model, scoring_bf16=True, strategy=strategy, eval_strategy="epoch", selection_budget=8)
    trainer.train()
    assert kinds == {(True, torch.float32), (False, torch.float32), (False, torch.bfloat16)}
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in model.parameters())
    rounded = trainer.scorer.score(torch.arange(20))
    trainer.scorer.go_by(replaced(trainer.args, scoring_bf16=False))
    exact = trainer.scorer.score(torch.arange(20))
    torch.testing.assert_close(rounded.losses, exact.losses, rtol=0.02, atol=0.02)
    assert not torch.equal(rounded.losses, exact.losses)


def test_what_is_evaluated_is_not_in_bfloat16(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    kinds: set[torch.dtype] = set()
    model = make_vit()
    model.classifier.register_forward_hook(lambda module, given, made: kinds.add(made.dtype))
    trainer = make_trainer(model, scoring_bf16=True, eval_strategy="epoch")
    trainer.conditions(trainer.eval_dataset)
    assert kinds == {torch.float32}
    trainer.scorer.score(torch.arange(4))
    assert torch.bfloat16 in kinds


def test_beside_a_training_in_bfloat16_it_changes_nothing(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    one, other = (make_trainer(make_vit(), bf16=True, scoring_bf16=both) for both in (False, True))
    one.train(), other.train()
    for ours, theirs in zip(one.selection_history, other.selection_history, strict=True):
        assert torch.equal(ours.indices, theirs.indices)
    for name, values in one.model.state_dict().items():
        assert torch.equal(values, other.model.state_dict()[name]), name


def test_a_resumed_run_scores_as_it_did(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    make_trainer(make_vit(), scoring_bf16=True, save_strategy="epoch", max_steps=2).train()
    with pytest.raises(ValueError, match="scoring_bf16"):
        make_trainer(make_vit(), max_steps=2).train(resume_from_checkpoint=True)


# --- Memory ---


def test_a_scoring_batch_that_does_not_fit(
    make_vit: MakeModel, make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    def narrow(module: nn.Module, args: Any, named: dict[str, Any]) -> None:
        if not module.training and len(named["pixel_values"]) > 13:
            raise torch.OutOfMemoryError("CUDA out of memory")

    runs = []
    for most in (None, 13):
        model = make_vit()
        if most is not None:
            model.register_forward_pre_hook(narrow, with_kwargs=True)
        with caplog.at_level(logging.WARNING):
            trainer = make_trainer(model, strategy="topk_loss", scoring_batch_size=40, eval_strategy="no")
            trainer.train()
        runs.append(trainer)
    for mine, yours in zip(runs[0].selection_history, runs[1].selection_history, strict=True):
        assert torch.equal(mine.indices, yours.indices)
    assert (
        runs[0].meter.state_dict()["work"]["score"]["samples"] == runs[1].meter.state_dict()["work"]["score"]["samples"]
    )
    assert caplog.text.count("does not fit in memory") == 1
