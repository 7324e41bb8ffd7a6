"""A run of two loops that hardly changes its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset

from vecaf_hf import VeCAFArguments, VeCAFTrainer


def short_run(folder: Path, model: Any, dataset: Dataset, **options: Any) -> VeCAFTrainer:
    args = VeCAFArguments(
        output_dir=str(folder),
        **{"strategy": "ods", "selection_budget": 32, "num_loops": 2, "max_steps": 4, "rescore": "full", **options},
        learning_rate=1e-6,
        per_device_train_batch_size=8,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    return VeCAFTrainer(model, args, train_dataset=dataset)
