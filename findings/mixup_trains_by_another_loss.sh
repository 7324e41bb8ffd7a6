#!/usr/bin/env bash
# With MixUp or CutMix in its collator, Trainer trains image classifiers by another loss than cross-entropy.
#
# Packages:   transformers 5.23.0, torchvision 0.29.1, accelerate 1.15.0, torch 2.14.1.
# Expected:   torchvision's guide to MixUp and CutMix puts them in the collator. The labels, now shares of classes, "can
#             still be passed as-is to a loss function like" cross-entropy. The reference to the models says that with
#             more than one label "a classification loss is computed (Cross-Entropy)".
# Happens:    A model without `problem_type` settles its loss by the first labels that it sees, and takes labels that
#             are no integers for several labels per image. It trains by binary cross-entropy, averaged over classes:
#             with 100 of them, one class is pulled up against 99 that are pulled down. The config keeps the choice, so
#             that pipelines give sigmoids in place of shares. Nothing warns.
# Hurts:      Whoever adds MixUp to a run that worked: the losses look good (0.69 at first, and falling), and the model
#             of 100 classes hardly learns. A comparison with and without MixUp compares two losses.
# Avoid:      A `compute_loss_func` with torch's cross-entropy, as below. Trainer leaves the accumulation to it: divide
#             it by `gradient_accumulation_steps`. Look at `model.config.problem_type` after the first step.
#
# Observed, 100 classes, 200 steps of Trainer's AdamW; accuracy on the training samples, not mixed:
#   Trainer:               first loss 0.69, multi_label_classification, accuracy 1%, scores add up to 22.13
#   compute_loss_func:     first loss 4.60, None, accuracy 100%, scores add up to 1.00
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" transformers==5.23.0 torchvision==0.29.1 accelerate==1.15.0 \
    torch==2.14.1 numpy==2.4.6

python - 2>&1 <<'PYTHON'
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset, default_collate
from torchvision.transforms import v2
from transformers import (
    AutoModelForImageClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    logging,
    pipeline,
)

logging.set_verbosity_error()
logging.disable_progress_bar()
CLASSES, STEPS = 100, 200
torch.manual_seed(0)
labels = torch.arange(4 * CLASSES) % CLASSES
pixels = torch.randn(CLASSES, 3, 8, 8)[labels] + 0.5 * torch.randn(4 * CLASSES, 3, 8, 8)
mixup = v2.MixUp(num_classes=CLASSES, alpha=0.2)


def mixed(samples):
    images, shares = mixup(*default_collate(samples))
    return {"pixel_values": images, "labels": shares}


def run(what, compute_loss_func=None):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=8,
        num_labels=CLASSES,
    )
    options = TrainingArguments(
        "out", max_steps=STEPS, per_device_train_batch_size=20, learning_rate=1e-4, lr_scheduler_type="constant",
        logging_steps=1, remove_unused_columns=False, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
        seed=0,
    )
    data = TensorDataset(pixels, labels)
    trainer = Trainer(
        ViTForImageClassification(config), options, mixed, data, data, compute_loss_func=compute_loss_func
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    loss = float(trainer.state.log_history[0]["loss"])
    trainer.save_model("model")
    model = AutoModelForImageClassification.from_pretrained("model")
    with torch.no_grad():
        correct = (model(pixels).logits.argmax(1) == labels).float().mean().item()
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    classify = pipeline("image-classification", model, image_processor=processor)
    total = sum(row["score"] for row in classify(Image.new("RGB", (8, 8)), top_k=CLASSES))
    problem = model.config.problem_type
    print(f"{what}: first loss {loss:.2f}, {problem}, accuracy {correct:.0%}, scores add up to {total:.2f}")
    return loss, problem, correct, total


def of_shares(outputs, labels, num_items_in_batch=None):
    return cross_entropy(outputs.logits, labels)


loss, problem, correct, total = run("Trainer")
assert abs(loss - 0.69) < 0.05 and problem == "multi_label_classification" and correct < 0.5 and total > 2
loss, problem, correct, total = run("compute_loss_func", of_shares)
assert abs(loss - 4.6) < 0.3 and problem is None and correct > 0.9 and abs(total - 1) < 0.01
PYTHON
