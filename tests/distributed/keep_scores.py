"""Trains twice with a folder of kept scores, and writes what each process saw: `rank<r>.json` in the folder given."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from train_two_loops import IMAGES, to_pixels
from transformers import ViTConfig, ViTForImageClassification, set_seed

from vecaf_hf import VeCAFArguments, VeCAFTrainer


def collate(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "labels": torch.tensor([sample["labels"] for sample in samples]),
    }


def seen(folder: Path, pool: Dataset) -> dict[str, Any]:
    set_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTForImageClassification(ViTConfig(num_labels=10, image_size=32, patch_size=16, **sizes))
    args = VeCAFArguments(
        output_dir=str(folder / "run"),
        score_cache=str(folder / "scores"),
        strategy="ods",
        num_loops=2,
        max_steps=4,
        per_device_train_batch_size=4,
        selection_budget=15,
        selection_steps=4,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = VeCAFTrainer(model=model, args=args, train_dataset=pool, data_collator=collate)
    trainer.train()
    weights = b"".join(values.detach().numpy().tobytes() for values in model.parameters())
    return {
        "hits": [log[name] for log in trainer.state.log_history if (name := "vecaf/score_cache_hit") in log],
        "scored": trainer.meter.work["score"].samples,
        "selected": [selection.indices.tolist() for selection in trainer.selection_history],
        "weights": hashlib.sha256(weights).hexdigest(),
        "rank": args.process_index,
    }


def main(place: Path) -> None:
    images = Dataset.from_parquet(str(IMAGES), cache_dir=str(place / "datasets")).select(range(61))
    runs = [seen(place, images.with_transform(to_pixels)) for _ in range(2)]
    (place / f"rank{runs[0]['rank']}.json").write_text(json.dumps(runs))
