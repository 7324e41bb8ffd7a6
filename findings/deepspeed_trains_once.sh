#!/usr/bin/env bash
# With DeepSpeed, a Trainer's second `train()` fails: it trains an engine that the first one has let go.
#
# Packages:   transformers 5.23.0, accelerate 1.15.0, deepspeed 0.19.8, torch 2.14.1.
# Expected:   As without DeepSpeed: `train()` can be called again on the same Trainer, to go on with more steps, or with
#             layers that were frozen at first.
# Happens:    When a training begins, Trainer calls `accelerator.free_memory()`, which forgets the engine; but its
#             `model_wrapped` is still that of the first training, and so nothing is prepared anew. The first backward
#             pass raises "'NoneType' object has no attribute 'backward'". ZeRO-1, 2 and 0 alike.
# Hurts:      Whoever trains in phases (the head first, then all), in a notebook, or in a loop that adds data: after the
#             data was loaded, and in all processes, with words that say nothing of it.
# Avoid:      `trainer.model_wrapped = trainer.model` before the second call; or a new Trainer for each phase.
#
# Observed, one process on a CPU, four steps each time:
#   without DeepSpeed:                          trained twice
#   ZeRO-2:                                     AttributeError: 'NoneType' object has no attribute 'backward'
#   ZeRO-2, model_wrapped set to the model:     trained twice
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" \
    transformers==5.23.0 accelerate==1.15.0 torch==2.14.1 numpy==2.4.6 deepspeed==0.19.8

cat >run.py <<'PYTHON'
import sys

import torch
from torch.utils.data import TensorDataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=8)
images = TensorDataset(torch.randn(32, 3, 8, 8), torch.arange(32) % 2)
auto = dict.fromkeys(["train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"], "auto")
options = {} if sys.argv[1] == "plain" else {"deepspeed": {"zero_optimization": {"stage": 2}, **auto}}
trainer = Trainer(
    ViTForImageClassification(ViTConfig(num_labels=2, **sizes)),
    TrainingArguments("out", max_steps=4, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", **options),
    data_collator=lambda rows: {"pixel_values": torch.stack([r[0] for r in rows]), "labels": torch.stack([r[1] for r in rows])},
    train_dataset=images,
)
trainer.train()
if sys.argv[1] == "reset":
    trainer.model_wrapped = trainer.model
try:
    trainer.train()
    print("FOUND trained twice")
except AttributeError as error:
    print(f"FOUND {type(error).__name__}: {error}")
PYTHON

found() {
    python -m torch.distributed.run --standalone --nproc_per_node 1 run.py "$1" 2>/dev/null | grep -o "FOUND .*" | cut -c7-
}
plain=$(found plain) twice=$(found zero) reset=$(found reset)
printf 'without DeepSpeed: %s\nZeRO-2: %s\nZeRO-2, model_wrapped set to the model: %s\n' "$plain" "$twice" "$reset"
[ "$plain" = "trained twice" ]
[ "$twice" = "AttributeError: 'NoneType' object has no attribute 'backward'" ]
[ "$reset" = "trained twice" ]
