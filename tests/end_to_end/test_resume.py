"""A run that was stopped and resumed against one that was not: the same, bit for bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from datasets import Dataset
from resumed_runs import StopAfter, Stopped, assert_same_run
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint
from weighing import weighted_ods

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]


@pytest.fixture
def make_model(make_vit: MakeModel, labelled: dict[str, Any]) -> MakeModel:
    def make(kind: str, seed: int = 0) -> PreTrainedModel:
        if kind == "vit":
            return make_vit(seed, hidden_dropout_prob=0.1)
        set_seed(seed)
        config = tf.TimmWrapperConfig(architecture="efficientnet_lite0", model_args={"drop_rate": 0.1}, **labelled)
        return tf.TimmWrapperForImageClassification(config)

    return make


def shaken(dataset: Dataset) -> Dataset:
    """The images with random noise."""
    clean = dataset.format["format_kwargs"]["transform"]

    def apply(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        loaded = clean(batch)
        return {**loaded, "pixel_values": [pixels + 0.1 * torch.randn(3, 32, 32) for pixels in loaded["pixel_values"]]}

    return dataset.with_transform(apply)


HALVES = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
SAMPLED = {"rescore": "sampled", "scoring_fraction": 0.5}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit", {}),
    "vit-accumulated": ("vit", HALVES),
    "vit-full": ("vit", {"strategy": "full"}),
    "vit-weights": ("vit", {"strategy": weighted_ods, **SAMPLED}),
    "vit-infobatch": ("vit", {"strategy": "infobatch", **HALVES}),
    "vit-jtt": ("vit", {"strategy": "jtt"}),
    "vit-jtt-going-on": ("vit", {"strategy": "jtt", "jtt_restart": False, **HALVES}),
    "efficientnet-jtt": ("efficientnet", {"strategy": "jtt"}),
    "vit-stale": ("vit", {"rescore": "stale", "strategy": "topk_loss", **HALVES}),
    "vit-proxy": ("vit", {"rescore": "proxy"}),
    "vit-workers": ("vit", {"dataloader_num_workers": 1}),
    "efficientnet-accumulated": ("efficientnet", HALVES),
}
# Where the last checkpoint was written: in the middle of a loop, or at its end, there by `save_steps` or by
# `save_strategy="epoch"`, each time after the loop's evaluation.
STOPS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "inside": (3, 2, {"save_strategy": "steps", "save_steps": 1}),
    "end": (4, 3, {"save_strategy": "steps", "save_steps": 1}),
    "boundary": (5, 3, {"save_strategy": "epoch"}),
}


@pytest.mark.parametrize(
    ("case", "stop"),
    [
        *((case, "inside") for case in CASES),
        *((case, "boundary") for case in ("vit-accumulated", "vit-weights", "vit-jtt", "vit-stale")),
        *((case, "end") for case in ("vit", "vit-workers")),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    make_model: MakeModel,
    make_trainer: MakeTrainer,
    train: Dataset,
    text_encoder: TextEncoder,
    tmp_path: Path,
    case: str,
    stop: str,
) -> None:
    kind, options = CASES[case]
    stop_after, last, saving = STOPS[stop]

    def trainer(folder: str, seed: int = 0, *extra: Any) -> VeCAFTrainer:
        cea = CEACallback(text_encoder, "a photo of a {label}")
        return make_trainer(
            make_model(kind, seed),
            [cea, *extra],
            pool=shaken(train.select(range(60))),
            trainer={"scoring_dataset": train.select(range(60))},
            **{
                "max_steps": 6,
                "selection_budget": 15,
                "eval_strategy": "epoch",
                **saving,
                "output_dir": str(tmp_path / folder),
                **options,
            },
        )

    uninterrupted = trainer("whole")
    uninterrupted.train()

    # A checkpoint is written after a step's callbacks: that of the step itself is missing.
    stopped = trainer("stopped", 0, StopAfter(stop_after))
    with pytest.raises(Stopped):
        stopped.train()
    assert get_last_checkpoint(str(tmp_path / "stopped")) == str(tmp_path / "stopped" / f"checkpoint-{last}")

    # Another process would begin with other weights and other global generators.
    resumed = trainer("stopped", 7)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(uninterrupted, resumed)


def test_a_resumed_selection_is_not_made_again(make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(candidates: Any, budget: int, options: Any, generator: torch.Generator) -> torch.Tensor:
        calls.append(1)
        return torch.randperm(len(candidates), generator=generator)[:budget]

    saving = {"save_strategy": "steps", "save_steps": 2, "strategy": counted}
    make_trainer(make_vit(), **saving).train()
    assert len(calls) == 2
    inside = make_trainer(make_vit(1), **saving)
    inside.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert len(calls) == 3
    late = make_trainer(make_vit(1), **saving)
    late.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    assert len(calls) == 3
    assert len(late.selection_history) == 2


# --- The best model ---


@pytest.mark.parametrize("name", ["vit", "dinov2", "beit", "swin", "efficientnet"])
def test_the_best_model_is_restored_whole(
    make_trainer: MakeTrainer,
    make_model: MakeModel,
    train: Dataset,
    labelled: dict[str, Any],
    tmp_path: Path,
    name: str,
) -> None:
    scores = iter([0.9, 0.5])
    widths = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    configs = {
        "dinov2": lambda: tf.Dinov2ForImageClassification(
            tf.Dinov2Config(**widths, image_size=32, patch_size=16, **labelled)
        ),
        "beit": lambda: tf.BeitForImageClassification(
            tf.BeitConfig(**widths, intermediate_size=32, image_size=32, patch_size=16, **labelled)
        ),
        "swin": lambda: tf.SwinForImageClassification(
            tf.SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, **labelled)
        ),
    }
    model = configs[name]() if name in configs else make_model(name)
    trainer = make_trainer(
        model,
        pool=train.select(range(60)),
        trainer={"compute_metrics": lambda prediction: {"score": next(scores)}},
        max_steps=4,
        learning_rate=0.01,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="score",
    )
    trainer.train()
    best = tmp_path / "run" / "checkpoint-2"
    assert trainer.state.best_model_checkpoint == str(best)
    stored, later = (
        type(model).from_pretrained(folder).state_dict() for folder in (best, tmp_path / "run" / "checkpoint-4")
    )
    for key, values in model.state_dict().items():
        assert torch.equal(values, stored[key]), key
    # Most weights went on in the second loop, the encoder's too.
    moved = [key for key, values in model.named_parameters() if not torch.equal(values, later[key])]
    assert len(moved) > 0.5 * len(list(model.parameters()))
    assert any("classifier" not in key and "head" not in key for key in moved)


# --- Refused ---


@pytest.fixture
def checkpoint(make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path) -> Path:
    make_trainer(make_vit(), save_strategy="steps", save_steps=2).train()
    return tmp_path / "run" / "checkpoint-2"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"per_device_train_batch_size": 4}, r"batch_size was 8 and is 4 now"),
        ({"gradient_accumulation_steps": 2}, r"gradient_accumulation_steps was 1 and is 2 now"),
        ({"num_loops": 4}, r"num_loops was 2 and is 4 now"),
        ({"max_steps": 10}, r"total_updates was 8 and is 10 now"),
        ({"selection_budget": 10}, r"budget was 20 and is 10 now"),
        ({"seed": 1}, r"seed was 42 and is 1 now"),
        ({"strategy": "random"}, r"strategy was ods and is random now"),
        (
            {"temperature": 0.1, "allocation": "global"},
            r"temperature was 0.07 and is 0.1 now; allocation was class and",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_other_sizes_are_refused(
    make_vit: MakeModel, make_trainer: MakeTrainer, checkpoint: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        make_trainer(make_vit(), **options).train(resume_from_checkpoint=str(checkpoint))


def test_another_pool_is_refused(
    make_vit: MakeModel, make_trainer: MakeTrainer, checkpoint: Path, train: Dataset
) -> None:
    with pytest.raises(ValueError, match=r"pool_size was 120 and is 100 now"):
        make_trainer(make_vit(), pool=train.select(range(100))).train(resume_from_checkpoint=str(checkpoint))
    other = train.select(range(119, -1, -1))
    with pytest.raises(ValueError, match=r"pool was \w{16} and is \w{16} now"):
        make_trainer(make_vit(), pool=other).train(resume_from_checkpoint=str(checkpoint))


def test_trainers_own_checkpoint_is_refused(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, tmp_path: Path
) -> None:
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "remove_unused_columns": False}
    args = TrainingArguments(
        str(tmp_path / "stock"), max_steps=2, save_steps=2, per_device_train_batch_size=8, logging_steps=100, **quiet
    )
    trainer = make_trainer(make_vit())
    Trainer(make_vit(), args, train_dataset=train, data_collator=trainer.data_collator).train()
    folder = tmp_path / "stock" / "checkpoint-2"
    with pytest.raises(ValueError, match=re.escape(str(folder)) + r".*vecaf_state.json.*not written by VeCAFTrainer"):
        trainer.train(resume_from_checkpoint=str(folder))


def test_a_checkpoint_that_lacks_weights_is_refused(
    make_vit: MakeModel, make_trainer: MakeTrainer, checkpoint: Path
) -> None:
    from safetensors.torch import save_file

    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    dropped = next(name for name in weights if "layer.0" in name)
    save_file({name: values for name, values in weights.items() if name != dropped}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights of ViTForImageClassification"):
        make_trainer(make_vit()).train(resume_from_checkpoint=str(checkpoint))


def test_a_plain_module_resumes_too(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    class Plain(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.Dropout(0.1))
            self.classifier = nn.Linear(8, 10)

        def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
            logits = self.classifier(self.body(pixel_values))
            if labels is None:
                return {"logits": logits}
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    saving = {"save_strategy": "steps", "save_steps": 2}
    whole, resumed = make_trainer(Plain(0), **saving), make_trainer(Plain(1), **saving)
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for name, values in whole.model.state_dict().items():
        assert torch.equal(values, resumed.model.state_dict()[name]), name
