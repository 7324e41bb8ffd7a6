"""A script of the common kind: options on the command line, a dataset by folder, training and evaluation as asked for.

python image_classification_script.py --model_name_or_path MODEL --train_dir IMAGES --output_dir OUTPUT --do_train ...
"""

from dataclasses import dataclass, field

import torch
from datasets import load_dataset
from torchvision.transforms import CenterCrop, Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, ToTensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)


@dataclass
class ScriptArguments:
    model_name_or_path: str = field(metadata={"help": "Where the model comes from."})
    train_dir: str = field(metadata={"help": "A folder with a folder for each class."})
    train_val_split: float = field(default=0.25, metadata={"help": "Part that is held out."})


def collate_fn(examples):
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "labels": torch.tensor([example["label"] for example in examples]),
    }


def compute_metrics(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main():
    script_args, training_args = HfArgumentParser((ScriptArguments, TrainingArguments)).parse_args_into_dataclasses()
    set_seed(training_args.seed)
    dataset = load_dataset("imagefolder", data_dir=script_args.train_dir, split="train")
    dataset = dataset.train_test_split(script_args.train_val_split, seed=training_args.seed)
    labels = dataset["train"].features["label"].names
    config = AutoConfig.from_pretrained(
        script_args.model_name_or_path,
        num_labels=len(labels),
        label2id={label: str(index) for index, label in enumerate(labels)},
        id2label={str(index): label for index, label in enumerate(labels)},
    )
    model = AutoModelForImageClassification.from_pretrained(
        script_args.model_name_or_path, config=config, ignore_mismatched_sizes=True
    )
    processor = AutoImageProcessor.from_pretrained(script_args.model_name_or_path)
    size = (processor.size["height"], processor.size["width"])
    ending = [ToTensor(), Normalize(mean=processor.image_mean, std=processor.image_std)]
    train_transforms = Compose([RandomResizedCrop(size), RandomHorizontalFlip(), *ending])
    val_transforms = Compose([CenterCrop(size), *ending])

    def preprocess_train(batch):
        batch["pixel_values"] = [train_transforms(image.convert("RGB")) for image in batch["image"]]
        return batch

    def preprocess_val(batch):
        batch["pixel_values"] = [val_transforms(image.convert("RGB")) for image in batch["image"]]
        return batch

    dataset["train"].set_transform(preprocess_train)
    dataset["test"].set_transform(preprocess_val)
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=dataset["train"] if training_args.do_train else None,
        eval_dataset=dataset["test"] if training_args.do_eval else None,
        compute_metrics=compute_metrics,
        processing_class=processor,
        data_collator=collate_fn,
    )
    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        trainer.save_model()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()
    if training_args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    trainer.create_model_card(
        finetuned_from="tiny-vit",
        tasks="image-classification",
        dataset="images",
        tags=["image-classification", "vision"],
    )


if __name__ == "__main__":
    main()
