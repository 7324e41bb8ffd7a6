#!/usr/bin/env bash
# After a training with `bf16=True`, the model object computes in bfloat16 for good, wherever it is called.
#
# Packages:   transformers 5.23.0, accelerate 1.15.0, torch 2.14.1.
# Expected:   Mixed precision is of the training: the weights are float32, and so is what the model makes of a batch
#             when it is called outside of autocast afterwards. If not, `torch.autocast("cpu", enabled=False)` sees to it.
# Happens:    accelerate puts an autocast around the forward pass of the very object that the user holds, and Trainer
#             leaves it there. Weights and logits are said to be float32, and the logits are those of bfloat16. An
#             autocast outside, also a disabled one, loses to the one inside.
# Hurts:      Whoever calls the model after training: embeddings for a search index, thresholds, calibration, a test that
#             the reloaded checkpoint gives the same. The checkpoint does not: it computes in float32.
# Avoid:      `trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)` before it is called, or load
#             the checkpoint.
#
# Observed, one step at learning rate 0, on a CPU:
#   logits after the training:                 float32, those of bfloat16
#   with autocast disabled around the call:    float32, those of bfloat16
#   of the saved and loaded model:             float32, those of before
#   unwrapped without keep_fp32_wrapper:       float32, those of before
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" \
    transformers==5.23.0 accelerate==1.15.0 torch==2.14.1 numpy==2.4.6

cat >run.py <<'PYTHON'
import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

torch.manual_seed(0)
sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=8)
images = [{"pixel_values": torch.randn(3, 8, 8), "labels": number % 2} for number in range(8)]
batch = torch.stack([image["pixel_values"] for image in images])
model = ViTForImageClassification(ViTConfig(num_labels=2, **sizes))


def logits(of):
    with torch.no_grad():
        return of.eval()(pixel_values=batch).logits


def told(of):
    kinds = {"those of before": before, "those of bfloat16": half}
    return str(of.dtype)[6:] + ", " + ", ".join(name for name, values in kinds.items() if torch.equal(of, values))


before = logits(model)
with torch.autocast("cpu", torch.bfloat16):
    half = logits(model).float()
args = TrainingArguments(
    "out", max_steps=1, learning_rate=0.0, use_cpu=True, bf16=True, report_to=[], disable_tqdm=True, save_strategy="no"
)
trainer = Trainer(model, args, train_dataset=images)
trainer.train()
print("FOUND", told(logits(model)))
with torch.autocast("cpu", enabled=False):
    print("FOUND", told(logits(model)))
model.save_pretrained("saved")
print("FOUND", told(logits(ViTForImageClassification.from_pretrained("saved"))))
trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
print("FOUND", told(logits(model)))
PYTHON

mapfile -t found < <(python run.py 2>/dev/null | grep -o "FOUND .*" | cut -c7-)
printf 'after: %s\nautocast disabled: %s\nloaded: %s\nunwrapped: %s\n' "${found[@]}"
[ "${found[0]}" = "float32, those of bfloat16" ]
[ "${found[1]}" = "float32, those of bfloat16" ]
[ "${found[2]}" = "float32, those of before" ]
[ "${found[3]}" = "float32, those of before" ]
