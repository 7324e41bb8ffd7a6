"""What scripts also do: arguments by position, epochs ended early, words of a command line, cards of any task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from pixels import collate
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTImageProcessor,
)

from vecaf_hf import VeCAFArguments, VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
RUN: dict[str, Any] = {
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "remove_unused_columns": False,
    "per_device_train_batch_size": 8,
    "save_strategy": "no",
}


def test_all_of_trainers_arguments_by_position(make_vit: MakeModel, train: Dataset, tmp_path: Path) -> None:
    processor, model = ViTImageProcessor(), make_vit()
    args = TrainingArguments(output_dir=str(tmp_path), max_steps=1, **RUN)
    trainer = VeCAFTrainer(None, args, collate, train, train, processor, lambda: model)
    assert trainer.processing_class is processor
    assert trainer.train().global_step == 1


# --- should_epoch_stop ---


class EndsEpochs(TrainerCallback):
    """The first epoch after two steps, the third after one."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append((state.global_step, state.epoch))
        control.should_epoch_stop = state.global_step in (2, 8)


def ended_early(kind: type[Trainer], model: PreTrainedModel, pool: Dataset, folder: Path, **more: Any) -> Any:
    options = {"num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 1, **more}
    arguments = TrainingArguments if kind is Trainer else VeCAFArguments
    callback = EndsEpochs()
    args = arguments(output_dir=str(folder), **{**RUN, **options})
    trainer = kind(model, args, collate, pool, pool.select(range(8)), callbacks=[callback])
    trainer.remove_callback(PrinterCallback)
    return trainer, callback


def test_an_epoch_that_a_callback_ends(make_vit: MakeModel, train: Dataset, tmp_path: Path) -> None:
    pool, seen, evaluated = train.select(range(40)), [], []
    for kind in (Trainer, VeCAFTrainer):
        trainer, callback = ended_early(kind, make_vit(), pool, tmp_path / kind.__name__, save_strategy="no")
        trainer.train()
        seen.append(callback.seen)
        evaluated.append([log["step"] for log in trainer.state.log_history if "eval_loss" in log])
    assert seen[0] == seen[1] and evaluated[0] == evaluated[1] == [2, 7, 8, 13]
    assert [(record.loop, record.step) for record in trainer.loop_records] == [(0, 0), (1, 2), (2, 7), (3, 8)]


@pytest.mark.parametrize("step", [1, 2, 4, 8, 10])
def test_after_an_epoch_that_a_callback_ended_a_run_is_resumed(
    make_vit: MakeModel, train: Dataset, tmp_path: Path, step: int
) -> None:
    runs = []
    for start in (None, str(tmp_path / f"checkpoint-{step}")):
        trainer, _ = ended_early(VeCAFTrainer, make_vit(hidden_dropout_prob=0.1), train.select(range(40)), tmp_path)
        trainer.train(resume_from_checkpoint=start)
        runs.append(trainer)
    whole, resumed = runs
    assert [(log["step"], log["epoch"]) for log in whole.state.log_history] == [
        (log["step"], log["epoch"]) for log in resumed.state.log_history
    ]
    for name, values in whole.model.state_dict().items():
        assert torch.equal(values, resumed.model.state_dict()[name]), name


class EndsEpochsLate(TrainerCallback):
    """After two steps and after eight, where Trainer has logged or evaluated and is about to save."""

    def __init__(self, event: str) -> None:
        setattr(self, event, self.end)

    def end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_epoch_stop = control.should_epoch_stop or state.global_step in (2, 8)


def evaluated_at(trainer: Trainer, _: Any) -> dict[str, float]:
    return {"step": trainer.state.global_step}


@pytest.mark.parametrize(("event", "save"), [("on_log", "steps"), ("on_evaluate", "steps"), ("on_evaluate", "best")])
def test_an_epoch_that_a_callback_ended_before_a_save_is_not_taken_up(
    make_vit: MakeModel, train: Dataset, tmp_path: Path, event: str, save: str
) -> None:
    runs = []
    more: dict[str, Any] = {"save_strategy": save, "eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1}
    more |= {"metric_for_best_model": "eval_step", "greater_is_better": True} if save == "best" else {}
    for start in (None, str(tmp_path / "checkpoint-2")):
        trainer, _ = ended_early(VeCAFTrainer, make_vit(), train.select(range(40)), tmp_path, **more)
        trainer.remove_callback(EndsEpochs)
        trainer.add_callback(EndsEpochsLate(event))
        # Each evaluation is better than the one before.
        trainer.compute_metrics = partial(evaluated_at, trainer)
        trainer.train(resume_from_checkpoint=start)
        runs.append([(record.loop, record.step) for record in trainer.loop_records])
    assert runs[0] == runs[1] == [(0, 0), (1, 2), (2, 7), (3, 8)]


# --- Words ---


@pytest.mark.parametrize(("word", "steps_before"), [("True", 2), ("true", 2), ("False", 0)])
def test_resume_from_checkpoint_as_a_command_line_gives_it(
    make_vit: MakeModel, make_trainer: MakeTrainer, word: str, steps_before: int
) -> None:
    options = {"max_steps": 4, "num_loops": 2, "save_strategy": "steps"}
    make_trainer(make_vit(), **options, save_steps=2).train()
    trainer = make_trainer(make_vit(), **{**options, "max_steps": 4}, save_steps=2)
    folder = Path(str(trainer.args.output_dir))
    (folder / "checkpoint-4").rename(folder / "other")
    begun: list[int] = []

    class Notes(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            begun.append(state.global_step)

    trainer.add_callback(Notes())
    trainer.train(resume_from_checkpoint=word)
    assert begun == [steps_before]


def test_what_scores_nothing_shows_no_scoring(
    make_vit: MakeModel, make_trainer: MakeTrainer, capfd: pytest.CaptureFixture[str]
) -> None:
    make_trainer(make_vit(), strategy="balanced", disable_tqdm=False).train()
    balanced = capfd.readouterr().err
    make_trainer(make_vit(), strategy="ods", disable_tqdm=False).train()
    ods = capfd.readouterr().err
    assert "Scoring" not in balanced
    assert "Scoring" in ods and "image" not in ods


# --- Cards ---


def test_the_card_says_what_the_script_says(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(make_vit())
    trainer.create_model_card(finetuned_from="Our ViT, of last year")
    text = Path(str(trainer.args.output_dir), "README.md").read_text()
    assert "An image classifier, finetuned from Our ViT, of last year, on" in text


def test_the_card_of_a_text_model(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
    )
    pool = [{"input_ids": [1, 2, number % 17], "labels": number % 2} for number in range(20)]
    args = TrainingArguments(output_dir=str(tmp_path), max_steps=2, **RUN)
    trainer = VeCAFTrainer(BertForSequenceClassification(config), args, train_dataset=pool)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.create_model_card()
    text = (tmp_path / "README.md").read_text()
    assert "A text classifier, finetuned from" in text and "pipeline_tag: text-classification" in text
    assert "image" not in text.lower()
