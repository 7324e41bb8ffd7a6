"""A script as somebody wrote it for Trainer, before they had heard of vecaf_hf: finetune a model on a folder of images.

python user_script.py MODEL IMAGES OUTPUT
"""

import sys

import numpy as np
import torch
import transformers
from datasets import load_dataset
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, Resize, ToTensor
from transformers import Trainer

checkpoint, image_folder, output_dir = sys.argv[1:]

data = load_dataset("imagefolder", data_dir=image_folder)
names = data["train"].features["label"].names

processor = transformers.AutoImageProcessor.from_pretrained(checkpoint)
size = (processor.size["height"], processor.size["width"])
finish = [ToTensor(), Normalize(processor.image_mean, processor.image_std)]
augment = Compose([RandomResizedCrop(size, scale=(0.7, 1.0)), RandomHorizontalFlip(), *finish])
resize = Compose([Resize(size), *finish])


def augmented(batch):
    batch["pixel_values"] = [augment(image.convert("RGB")) for image in batch["image"]]
    return batch


def resized(batch):
    batch["pixel_values"] = [resize(image.convert("RGB")) for image in batch["image"]]
    return batch


data["train"].set_transform(augmented)
data["validation"].set_transform(resized)


def collate(samples):
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "labels": torch.tensor([sample["label"] for sample in samples]),
    }


def accuracy(prediction):
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


model = transformers.AutoModelForImageClassification.from_pretrained(
    checkpoint,
    num_labels=len(names),
    id2label=dict(enumerate(names)),
    label2id={name: index for index, name in enumerate(names)},
    ignore_mismatched_sizes=True,
)
arguments = transformers.TrainingArguments(
    output_dir=output_dir,
    num_train_epochs=6,
    per_device_train_batch_size=8,
    learning_rate=3e-3,
    warmup_steps=2,
    weight_decay=0.01,
    eval_strategy="epoch",
    save_strategy="epoch",
    save_total_limit=2,
    load_best_model_at_end=True,
    metric_for_best_model="accuracy",
    logging_steps=5,
    remove_unused_columns=False,
    report_to="none",
    use_cpu=True,
    seed=7,
)
trainer = Trainer(
    model=model,
    args=arguments,
    train_dataset=data["train"],
    eval_dataset=data["validation"],
    data_collator=collate,
    processing_class=processor,
    compute_metrics=accuracy,
)
result = trainer.train()
trainer.save_model()
trainer.save_metrics("train", result.metrics)
trainer.save_metrics("eval", trainer.evaluate())
trainer.save_state()
