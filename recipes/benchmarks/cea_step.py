"""What CEA's hook adds to a training step, as a ratio to stock Trainer's step on the same batch of the same model.

    python recipes/benchmarks/cea_step.py [--batches 40]

EfficientNet-Lite0 at 224 px on Fashion-MNIST. Each batch goes through both trainers in alternating order; the median
of the paired ratios is printed with its quartiles, and so is the ratio of stock Trainer to itself: the noise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import Trainer

sys.path.insert(0, str(Path(__file__).parents[1]))
from ratios import summary

from vecaf_hf.cli.building import build_trainer
from vecaf_hf.cli.options import parse
from vecaf_hf.data.indexed import POOL_INDEX

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


def seconds_of_step(trainer: Trainer, batch: dict[str, Any]) -> float:
    model: Any = trainer.model
    model.zero_grad()
    start = time.perf_counter()
    trainer.training_step(model, dict(batch))
    return time.perf_counter() - start


def main(batches: int, image_size: int, batch_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = f"--config {QUICKSTART} --output_dir {folder} --image_size {image_size} --strategy random"
        options += f" --per_device_train_batch_size {batch_size} --max_steps {2 * batches} --num_loops 1"
        recipe, cea, args = parse({}, options.split())
        with_cea, _ = build_trainer(recipe, cea, args)
        stock = Trainer(with_cea.model, args, data_collator=with_cea.data_collator, eval_dataset=with_cea.eval_dataset)
        for trainer in (with_cea, stock):
            trainer.current_gradient_accumulation_steps = 1  # as train() sets it
        loader = with_cea.begin_run()
        events = with_cea.callback_handler
        events.optimizer = None
        events.on_epoch_begin(args, with_cea.state, with_cea.control)
        ratios, noise = [], []
        for number, batch in enumerate(tqdm(loader, total=batches, disable=None)):
            if number > batches:
                break
            plain = {name: values for name, values in batch.items() if name != POOL_INDEX}
            if number % 2:
                ours, theirs = seconds_of_step(with_cea, batch), seconds_of_step(stock, plain)
            else:
                theirs, ours = seconds_of_step(stock, plain), seconds_of_step(with_cea, batch)
            again = seconds_of_step(stock, plain)
            if number > 0:  # the first step warms up
                ratios.append(ours / theirs)
                noise.append(again / theirs)
    print(summary("with CEA / stock", ratios))
    print(summary("stock / stock", noise))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    given = parser.parse_args()
    main(given.batches, given.image_size, given.batch_size)
