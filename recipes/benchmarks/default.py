"""What a run with the defaults takes, as a ratio to plain Trainer's with the same script and as many batches.

    python recipes/benchmarks/default.py [--rounds 5]

EfficientNet-Lite0 on the quickstart's Fashion-MNIST images, decoded and augmented, from the trainer's construction to
the end of the training. Each round takes both in alternating order, and plain Trainer a second time: the noise. Beside
the seconds stand those of the processor, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import Trainer, TrainingArguments, enable_full_determinism

sys.path.insert(0, str(Path(__file__).parents[1]))
from ratios import summary

from vecaf_hf import VeCAFTrainer
from vecaf_hf.cli.building import build_trainer
from vecaf_hf.cli.options import parse

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


def seconds(train: Callable[[type[Trainer]], None], kind: type[Trainer]) -> tuple[float, float]:
    """Of the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    train(kind)
    return time.perf_counter() - clock, time.process_time() - processor


def main(rounds: int, steps: int, image_size: int, batch_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = f"--config {QUICKSTART} --output_dir {folder}/made --image_size {image_size} --text_encoder none"
        made, _ = build_trainer(*parse({}, options.split()))
        given: dict[str, Any] = {
            "data_collator": made.data_collator,
            "train_dataset": made.train_dataset,
            "processing_class": made.processing_class,
        }

        def train(kind: type[Trainer]) -> None:
            args = TrainingArguments(
                f"{folder}/run",
                max_steps=steps,
                per_device_train_batch_size=batch_size,
                remove_unused_columns=made.args.remove_unused_columns,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=made.args.use_cpu,
            )
            kind(copy.deepcopy(made.model), args, **given).train()

        enable_full_determinism(0)
        logging.disable(logging.WARNING)
        ratios: dict[str, list[float]] = {name: [] for name in ("seconds", "processor", "noise", "noise, processor")}
        for number in tqdm(range(rounds + 1), disable=None):
            order: list[type[Trainer]] = [VeCAFTrainer, Trainer] if number % 2 else [Trainer, VeCAFTrainer]
            times = {kind: seconds(train, kind) for kind in order}
            again = seconds(train, Trainer)
            if number == 0:  # the first round warms up
                continue
            plain = times[Trainer]
            both = [ours / theirs for ours, theirs in zip(times[VeCAFTrainer] + again, plain + plain, strict=True)]
            for name, ratio in zip(ratios, both, strict=True):
                ratios[name].append(ratio)
    for name, found in ratios.items():
        print(summary(name, found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=32)
    asked = parser.parse_args()
    main(asked.rounds, asked.steps, asked.image_size, asked.batch_size)
