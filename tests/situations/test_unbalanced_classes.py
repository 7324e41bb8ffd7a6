"""Where classes have unequal shares, a run says what its selections do to them, and its head can be taken back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from every_case import every_case
from pixels import collate
from torch import Tensor, nn
from transformers import PreTrainedModel, PrinterCallback, TrainerControl, TrainerState, TrainingArguments

from vecaf_hf import VeCAFArguments, VeCAFTrainer
from vecaf_hf.loop.class_shares import HeadCorrection, shares_of, trained_shares
from vecaf_hf.selection import Selection


def test_shares_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    weighted = Selection(torch.tensor([0, 3]), weights=torch.tensor([3.0, 1.0]))
    assert shares_of(labels, 3).tolist() == [4 / 7, 2 / 7, 1 / 7]
    # Two steps of 4 at one half each, one of 4 at three quarters to one.
    found = trained_shares([Selection(torch.tensor([1, 3])), weighted], [2, 1], labels, 3, 4)
    assert found.tolist() == pytest.approx([(4 + 3 + 1) / 15, (4 + 1 + 1) / 15, 1 / 15])


def test_what_was_learned_of_balanced_classes_is_taken_to_the_pools() -> None:
    """Of classes whose images are alike, all that a model can know is the shares."""
    head, trained, pool = nn.Linear(2, 3), torch.tensor([0.3, 0.3, 0.4]), torch.tensor([0.7, 0.2, 0.1])
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(trained.log())
    correction = HeadCorrection(head, head, lambda classes, step: (pool, trained))
    correction.on_train_end(TrainingArguments("unused"), TrainerState(), TrainerControl())
    torch.testing.assert_close(head(torch.randn(4, 2)).softmax(1), pool.expand(4, 3))
    correction.undo()
    torch.testing.assert_close(head(torch.randn(4, 2)).softmax(1), trained.expand(4, 3))


@pytest.mark.parametrize(("load_best", "step"), [(False, 8), (True, 4)])
def test_the_best_model_is_corrected_by_what_it_was_trained_on(load_best: bool, step: int) -> None:
    asked, head = [], nn.Linear(2, 3)

    def shares(classes: int, step: int) -> tuple[Tensor, Tensor]:
        asked.append(step)
        return torch.ones(classes), torch.ones(classes)

    args = TrainingArguments("unused")
    args.load_best_model_at_end = load_best
    state = TrainerState(global_step=8, best_global_step=4, best_model_checkpoint="checkpoint-4")
    HeadCorrection(head, head, shares).on_train_end(args, state, TrainerControl())
    assert asked == [step]


def run(model: PreTrainedModel, dataset: Dataset, folder: Path, **options: Any) -> VeCAFTrainer:
    run_options = {"remove_unused_columns": False, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    args = VeCAFArguments(
        output_dir=str(folder),
        **{"selection_budget": 16, "num_loops": 2, "max_steps": 4, "use_cpu": True, **run_options, **options},
    )
    trainer = VeCAFTrainer(model, args, collate, dataset)
    trainer.remove_callback(PrinterCallback)
    return trainer


@pytest.fixture
def unbalanced(train: Dataset) -> Dataset:
    """Of class 0 all, of the others three."""
    rows, seen = [], dict.fromkeys(range(10), 0)
    for row, label in enumerate(train.with_format(None)["label"]):
        seen[label] += 1
        if label == 0 or seen[label] <= 3:
            rows.append(row)
    return train.select(rows)


def bias(trainer: VeCAFTrainer) -> Tensor:
    return trainer.model.classifier.bias.detach().clone()


def test_the_heads_bias_is_corrected_when_the_training_ends(
    make_vit: Callable[..., PreTrainedModel], unbalanced: Dataset, tmp_path: Path
) -> None:
    plain, corrected = (run(make_vit(), unbalanced, tmp_path, correct_class_shares=on) for on in (False, True))
    plain.train()
    corrected.train()
    labels = torch.tensor(unbalanced.with_format(None)["label"])
    records = corrected.loop_records
    counts = [torch.tensor([record.class_counts.get(label, 0) for label in range(10)]) for record in records]
    trained = sum(2 * 8 * count.double() / count.sum() for count in counts) + 1
    pool = labels.bincount().double() + 1
    expected = bias(plain).double() + (pool / pool.sum()).log() - (trained / trained.sum()).log()
    torch.testing.assert_close(bias(corrected).double(), expected, rtol=1e-5, atol=1e-5)
    # Saved in the ordinary way.
    corrected.save_model(str(tmp_path / "saved"))
    again = type(corrected.model).from_pretrained(tmp_path / "saved")
    assert torch.equal(again.classifier.bias, bias(corrected))


@every_case("options", [{"strategy": "random"}, {"class_balance": 0.0}, {"correct_class_shares": True}, {}])
def test_what_equal_shares_serve_is_told_at_the_start(
    make_vit: Callable[..., PreTrainedModel],
    unbalanced: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
) -> None:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "vecaf_hf.loop"):
        run(make_vit(), unbalanced, tmp_path, **options).train()
    assert ("serves balanced accuracy" in caplog.text) == (not options)


def test_a_head_without_a_bias_is_refused_at_construction(
    make_vit: Callable[..., PreTrainedModel], unbalanced: Dataset, tmp_path: Path
) -> None:
    model = make_vit()
    model.classifier = nn.Linear(model.classifier.in_features, 10, bias=False)
    with pytest.raises(ValueError, match="changes the bias of a linear head"):
        run(model, unbalanced, tmp_path, correct_class_shares=True)


@pytest.mark.parametrize("strategy", ["balanced", "random"])
def test_where_nobody_chose_a_loop_selects_what_it_trains_on_and_no_sample_comes_twice(
    make_vit: Callable[..., PreTrainedModel], unbalanced: Dataset, tmp_path: Path, strategy: str
) -> None:
    """So the rarest classes are whole, the largest is cut, and in an epoch the pool is whole, as for Trainer."""
    size, labels = len(unbalanced), torch.tensor(unbalanced.with_format(None)["label"])
    short = run(make_vit(), unbalanced, tmp_path, selection_budget=None, strategy=strategy)
    short.train()
    assert [len(selection) for selection in short.selection_history] == [16, 16]
    if strategy == "balanced":
        assert labels[short.selection.indices].bincount(minlength=10).amax() == 2
    epochs = run(
        make_vit(), unbalanced, tmp_path, selection_budget=None, num_loops=None, max_steps=-1, num_train_epochs=2
    )
    epochs.train()
    assert [len(selection) for selection in epochs.selection_history] == [size, size]


def test_a_whole_pool_is_what_can_be_loaded(
    make_vit: Callable[..., PreTrainedModel], unbalanced: Dataset, tmp_path: Path
) -> None:
    clean = unbalanced.format["format_kwargs"]["transform"]
    numbered = unbalanced.add_column("number", list(range(len(unbalanced))))

    def load(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if 3 in batch["number"]:
            raise OSError("gone")
        return clean(batch)

    options = {"selection_budget": None, "num_loops": None, "max_steps": -1, "num_train_epochs": 2}
    trainer = run(make_vit(), numbered.with_transform(load), tmp_path, on_bad_sample="skip", **options)
    trainer.train()
    assert [len(selection) for selection in trainer.selection_history] == [len(unbalanced) - 1] * 2
    assert list(trainer.skipped_samples) == [3]
