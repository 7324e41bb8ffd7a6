#!/usr/bin/env bash
# With `bf16_full_eval`, an evaluation before training makes Trainer train weights of half precision.
#
# Packages:   transformers 5.23.0, accelerate 1.15.0, torch 2.14.1.
# Expected:   The reference to TrainingArguments says of `bf16_full_eval` and `fp16_full_eval`: "Only applies during
#             evaluation." The model is trained and saved in float32, as it was loaded.
# Happens:    Outside `train`, `evaluate` and `predict` call `model.to(bfloat16)` on the one model that there is, and
#             nothing turns it back. `train` then trains weights of bfloat16, without a copy in float32. These have 8
#             bits: at a finetuning learning rate, most steps are smaller than half of the last bit, and rounded away.
#             Inside `train` the option does nothing at all. Nothing warns.
# Hurts:      Whoever evaluates first, to have the accuracy before finetuning: the run that follows hardly learns. After
#             `train`, an evaluation rounds the weights that `save_model` or `push_to_hub` store next (the example
#             scripts push after they evaluate), and `from_pretrained` loads bfloat16 for the next finetuning.
# Avoid:      `bf16=True` alone: its evaluation is in mixed precision too, and leaves the weights as they are. Or
#             evaluate a `copy.deepcopy(model)` with a Trainer of its own.
#
# Observed, four classes, 100 steps at a learning rate of 2e-5; loss on the training samples, 1.39 by chance:
#   train; bf16_full_eval:               float32,  100% of the weights moved, loss 0.62
#   evaluate, train; bf16_full_eval:     bfloat16,  31% of the weights moved, loss 1.15
#   evaluate, train; bf16:               float32,  100% of the weights moved, loss 0.62
#   train, evaluate, save_model:         saved in bfloat16
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" \
    transformers==5.23.0 accelerate==1.15.0 torch==2.14.1 numpy==2.4.6

python - 2>&1 <<'PYTHON'
import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForImageClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    logging,
)

logging.set_verbosity_error()
logging.disable_progress_bar()
CLASSES = 4
torch.manual_seed(0)
means = torch.randn(CLASSES, 3, 8, 8)
labels = torch.arange(64) % CLASSES
pixels = means[labels] + torch.randn(64, 3, 8, 8)


class Noisy(Dataset):
    def __len__(self):
        return len(labels)

    def __getitem__(self, place):
        return {"pixel_values": pixels[place], "labels": labels[place].item()}


def trainer_of(**options):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=8,
        num_labels=CLASSES,
    )
    options = TrainingArguments(
        "out", max_steps=100, learning_rate=2e-5, lr_scheduler_type="constant", per_device_train_batch_size=16, seed=0,
        use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", logging_strategy="no", **options,
    )
    trainer = Trainer(ViTForImageClassification(config), options, train_dataset=Noisy(), eval_dataset=Noisy())
    trainer.remove_callback(PrinterCallback)
    return trainer


def run(what, is_evaluated_first, **options):
    trainer = trainer_of(**options)
    if is_evaluated_first:
        trainer.evaluate()
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    moved = sum((before[name] != weight).sum().item() for name, weight in after.items())
    moved /= sum(weight.numel() for weight in after.values())
    kind = trainer.model.dtype
    with torch.no_grad():
        loss = trainer.model.float().eval()(pixels, labels=labels).loss.item()
    print(f"{what}: {kind}, {moved:.0%} of the weights moved, loss {loss:.2f}")
    return kind, moved, loss


kind, moved, whole = run("train; bf16_full_eval", False, bf16_full_eval=True)
assert kind == torch.float32 and moved > 0.99
kind, moved, halved = run("evaluate, train; bf16_full_eval", True, bf16_full_eval=True)
assert kind == torch.bfloat16 and moved < 0.6 and halved > whole + 0.2
kind, moved, mixed = run("evaluate, train; bf16", True, bf16=True)
assert kind == torch.float32 and moved > 0.99 and mixed < whole + 0.1

trainer = trainer_of(bf16_full_eval=True)
trainer.train()
trainer.evaluate()
trainer.save_model("saved")
saved = AutoModelForImageClassification.from_pretrained("saved").dtype
print(f"train, evaluate, save_model: saved in {saved}")
assert saved == torch.bfloat16
PYTHON
