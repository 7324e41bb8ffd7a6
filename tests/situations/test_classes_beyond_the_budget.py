"""Where a selection has fewer samples than there are classes, or is no multiple of them, each class has its turn."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from pixels import collate
from transformers import PreTrainedModel, PrinterCallback

from vecaf_hf import VeCAFArguments, VeCAFTrainer

LOOPS = 5
BY_CLASS: dict[str, dict[str, Any]] = {
    "balanced": {},
    "trimmed": {},
    "ods": {"allocation": "class", "selection_steps": 2, "rescore": "stale"},
}


@pytest.mark.parametrize("strategy", BY_CLASS)
@pytest.mark.parametrize("budget", [4, 14])
def test_over_the_loops_each_class_is_selected_as_often(
    make_vit: Callable[..., PreTrainedModel],
    train: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    strategy: str,
    budget: int,
) -> None:
    args = VeCAFArguments(
        output_dir=str(tmp_path),
        strategy=strategy,
        selection_budget=budget,
        num_loops=LOOPS,
        max_steps=LOOPS,
        per_device_train_batch_size=4,
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **BY_CLASS[strategy],
    )
    trainer = VeCAFTrainer(make_vit(), args, collate, train)
    trainer.remove_callback(PrinterCallback)
    with caplog.at_level(logging.WARNING, "vecaf_hf.loop"):
        trainer.train()
    counted: Counter[int] = Counter()
    for record in trainer.loop_records:
        assert max(record.class_counts.values()) - (0 if budget < 10 else min(record.class_counts.values())) <= 1
        counted.update(record.class_counts)
    assert counted == dict.fromkeys(range(10), LOOPS * budget // 10)
    assert ("it leaves classes out" in caplog.text) == (budget < 10)
