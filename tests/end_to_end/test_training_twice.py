"""Just Train Twice: one pass finds the mistakes, and the second training begins where it should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, ViTForImageClassification

from vecaf_hf import VeCAFTrainer
from vecaf_hf.cost import FULL_SIZE
from vecaf_hf.selection import Candidates

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]

# The second training begins with the third of six loops, after the fourth step.
RUN = {"strategy": "jtt", "num_loops": 6, "max_steps": 12, "learning_rate": 0.01, "selection_budget": 30}
BOUNDARY = 4


class Watching(TrainerCallback):
    """Weights, the optimizer's state and the learning rate before each step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.states: list[int] = []
        self.rates: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.weights.append({name: values.clone() for name, values in kwargs["model"].state_dict().items()})
        self.states.append(len(kwargs["optimizer"].state))
        self.rates.append(kwargs["lr_scheduler"].get_last_lr()[0])


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(values, other[name]) for name, values in one.items())


@pytest.mark.parametrize("restart", [True, False])
def test_the_error_set_is_that_of_the_boundary_found_by_one_pass(
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    train: Dataset,
    watch: Callable[..., None],
    tmp_path: Path,
    restart: bool,
) -> None:
    seen: list[Candidates] = []
    watch("jtt", seen.append)
    saving = {"save_strategy": "steps", "save_steps": BOUNDARY}
    trainer = make_trainer(make_vit(), jtt_restart=restart, **RUN, **saving)
    trainer.train()
    model = ViTForImageClassification.from_pretrained(tmp_path / "run" / f"checkpoint-{BOUNDARY}").eval()
    samples = train[:]
    with torch.inference_mode():
        predicted = model(pixel_values=torch.stack(samples["pixel_values"])).logits.argmax(dim=1)
    wrong = predicted != torch.tensor(samples["labels"])
    assert 0 < int(wrong.sum()) < len(wrong)
    assert len(seen) == 4 and all(torch.equal(candidates.mistaken, wrong) for candidates in seen)
    scored = trainer.meter.work["score"]
    assert scored.samples == len(train)
    assert scored.flops == len(train) * trainer.meter.forward_flops[FULL_SIZE]
    assert [len(selection) for selection in trainer.selection_history] == [120, 120, 30, 30, 30, 30]
    assert len({frozenset(selection.indices.tolist()) for selection in trainer.selection_history[2:]}) == 4
    told = [record.info for record in trainer.loop_records]
    assert told[1] == {} and all(info["mistaken"] == int(wrong.sum()) for info in told[2:])


def test_the_first_training_is_plain_finetuning(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    watched = {}
    for strategy in ("full", "jtt"):
        watched[strategy] = Watching()
        make_trainer(make_vit(), [watched[strategy]], **{**RUN, "strategy": strategy}).train()
    for step in range(BOUNDARY):
        assert same(watched["full"].weights[step], watched["jtt"].weights[step])
    assert not same(watched["full"].weights[BOUNDARY], watched["jtt"].weights[BOUNDARY])


def test_the_second_training_begins_with_the_first_weights_and_nothing_gathered(
    make_vit: MakeModel, make_trainer: MakeTrainer
) -> None:
    watching, reference = Watching(), Watching()
    make_trainer(make_vit(), [watching], **RUN).train()
    assert same(watching.weights[0], watching.weights[BOUNDARY])
    assert not same(watching.weights[0], watching.weights[BOUNDARY - 1])
    assert watching.states[0] == watching.states[BOUNDARY] == 0
    assert all(count > 0 for step, count in enumerate(watching.states) if step not in (0, BOUNDARY))
    # One schedule from the first batch to the last.
    make_trainer(make_vit(), [reference], **{**RUN, "strategy": "full"}).train()
    assert watching.rates == reference.rates and watching.rates[BOUNDARY] < watching.rates[0]


def test_a_second_training_that_goes_on_has_all_of_the_first(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    watching, reference = Watching(), Watching()
    make_trainer(make_vit(), [watching], jtt_restart=False, **RUN).train()
    make_trainer(make_vit(), [reference], **{**RUN, "strategy": "full"}).train()
    assert same(watching.weights[BOUNDARY], reference.weights[BOUNDARY])
    assert watching.states[BOUNDARY] == reference.states[BOUNDARY] > 0
    assert not same(watching.weights[BOUNDARY + 1], reference.weights[BOUNDARY + 1])


@pytest.mark.parametrize("restart", [True, False])
def test_the_first_weights_are_in_checkpoints_until_they_are_needed_and_no_longer(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path, restart: bool
) -> None:
    model = make_vit()
    first = {name: values.clone() for name, values in model.state_dict().items()}
    saving = {"save_strategy": "steps", "save_steps": 2}
    make_trainer(model, jtt_restart=restart, **RUN, **saving).train()
    for step in range(2, 13, 2):
        tensors = load_file(tmp_path / "run" / f"checkpoint-{step}" / "vecaf_state.safetensors")
        prefix = "start."
        kept = {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
        assert same(kept, first if restart and step <= BOUNDARY else {})
        assert ("selector.mistaken" in tensors) == (step > BOUNDARY)


@pytest.mark.parametrize("stop", [2, 4, 6, 8])
@pytest.mark.parametrize("restart", [True, False])
def test_a_resumed_run_is_the_uninterrupted_one_wherever_it_was_stopped(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path, stop: int, restart: bool
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(make_vit(), jtt_restart=restart, **RUN, **saving)
    whole.train()
    resumed = make_trainer(make_vit(1), jtt_restart=restart, **RUN, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{stop}"))
    assert same(whole.model.state_dict(), resumed.model.state_dict())
    for mine, others in zip(whole.selection_history, resumed.selection_history, strict=True):
        assert torch.equal(mine.indices, others.indices) and mine.info == others.info
    assert resumed.meter.work["score"].samples == 120


def test_a_second_run_of_a_trainer_finds_its_own_mistakes(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(make_vit(), **RUN)
    trainer.train()
    watching = Watching()
    trainer.add_callback(watching)
    trainer.train()
    assert [len(selection) for selection in trainer.selection_history] == [120, 120, 30, 30, 30, 30]
    assert same(watching.weights[0], watching.weights[BOUNDARY])
    assert trainer.meter.work["score"].samples == 120


@pytest.mark.parametrize("on_bad_sample", ["skip", "check"])
def test_a_sample_that_cannot_be_loaded_shows_before_the_first_step(
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    train: Dataset,
    broken: Callable[[Dataset, set[int]], Dataset],
    on_bad_sample: str,
) -> None:
    """Though the first training, shorter than an epoch, might not have met it."""
    watching = Watching()
    options = {**RUN, "max_steps": 6, "per_device_train_batch_size": 4, "on_bad_sample": on_bad_sample}
    trainer = make_trainer(make_vit(), [watching], pool=broken(train, {3, 41}), **options)
    if on_bad_sample == "check":
        with pytest.raises(ValueError, match=r"cannot load .*3.*41"):
            trainer.train()
        assert not watching.weights
        return
    trainer.train()
    assert set(trainer.skipped_samples) == {3, 41}
    assert all(not {3, 41} & set(selection.indices.tolist()) for selection in trainer.selection_history[2:])
    assert trainer.loop.selector.mistaken is not None and not trainer.loop.selector.mistaken[[3, 41]].any()


def test_what_has_no_classes_is_refused_before_the_first_step(make_trainer: MakeTrainer, fashion: Dataset) -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.classifier = nn.Flatten(), nn.Linear(3 * 32 * 32, 1)

        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            return {"logits": self.classifier(self.body(pixel_values))}

    def square(outputs: Any, labels: Tensor) -> Tensor:
        return (outputs["logits"][:, 0] - labels).square()

    trainer = make_trainer(Single(), trainer={"sample_loss_func": square}, **RUN)
    with pytest.raises(ValueError, match="'jtt' needs a logit of each of at least two classes, and there is 1"):
        trainer.train()
