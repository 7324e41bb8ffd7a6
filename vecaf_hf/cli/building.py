"""From a run's options to its trainer: data, model, transforms, augmentation."""

from __future__ import annotations

import logging
import random
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, load_dataset
from sklearn.metrics import accuracy_score
from torch import Tensor
from torchvision.transforms import v2
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    EvalPrediction,
    PreTrainedModel,
    set_seed,
)
from transformers.trainer_utils import IntervalStrategy

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.augmentation import CEACallback, TextEncoder
from vecaf_hf.augmentation.options import CEAOptions
from vecaf_hf.cli.class_folders import LABEL, files_by_split, load_class_folders
from vecaf_hf.cli.local_models import naming, resolve_model
from vecaf_hf.cli.options import RecipeArguments
from vecaf_hf.cli.splits import hold_out, with_classes
from vecaf_hf.cli.streaming import stream_splits
from vecaf_hf.data.columns import find_label_column, read_labels
from vecaf_hf.data.rgb import Greys, ToRGB, to_rgb
from vecaf_hf.data.sharded import ShardedDataset
from vecaf_hf.printable import listed
from vecaf_hf.selection.candidates import evenly_spaced
from vecaf_hf.text.captions import Caption, find_captions
from vecaf_hf.trainer import VeCAFTrainer
from vecaf_hf.validation import check_choice

logger = logging.getLogger(__name__)

# Images whose values say what is white.
LOOKED_AT = 32


def load_splits(recipe: RecipeArguments, label_column: str | None) -> tuple[DatasetDict, str]:
    """The splits `train` and, where there are such, `validation` and `test`; and the name of the label column."""
    with naming("dataset", recipe.dataset_name):
        by_folder = label_column in (None, LABEL) and recipe.dataset_config_name is None
        data = load_class_folders(recipe.dataset_name) if by_folder else None
        files = files_by_split(recipe.dataset_name)
        data = data or load_dataset(recipe.dataset_name, recipe.dataset_config_name, data_files=files)
    if recipe.test_split is not None and recipe.test_split in (recipe.train_split, recipe.validation_split):
        raise ValueError(
            f"test_split is {recipe.test_split!r}, which the run trains on or watches: name another or none"
        )
    for split in (recipe.train_split, recipe.validation_split, recipe.test_split):
        if split is not None:
            check_choice(f"a split of {recipe.dataset_name}", split, data)
    train = data[recipe.train_split]
    label = find_label_column(train, label_column)
    if label is None:
        raise ValueError(f"which of the columns {listed(train.column_names)} holds the label? Set label_column")
    used = list(
        dict.fromkeys(name for name in (recipe.train_split, recipe.validation_split, recipe.test_split) if name)
    )
    data = with_classes(data, recipe.train_split, used, label)
    train = data[recipe.train_split]
    named = {"validation": recipe.validation_split, "test": recipe.test_split}
    splits = DatasetDict({name: data[split] for name, split in named.items() if split is not None})
    for name, fraction in (("validation", recipe.validation_fraction), ("test", recipe.test_fraction)):
        if name not in splits and fraction > 0:
            train, splits[name] = hold_out(train, fraction, label, recipe.split_seed)
    if recipe.max_train_samples is not None:
        count = min(recipe.max_train_samples, len(train))
        train = train.shuffle(seed=recipe.split_seed).select(range(count))
    splits["train"] = train
    return splits, label


def captions_of(recipe: RecipeArguments, pool: Dataset, label: str) -> str | list[Caption]:
    """The column or template; or each sample's caption, where they are shuffled."""
    if not recipe.shuffle_captions:
        return recipe.captions
    if recipe.captioner is not None:
        raise ValueError(
            "shuffle_captions deals out captions that are there before the run: write them with "
            "vecaf_hf.caption_dataset, and set captions to their column"
        )
    captions = find_captions(recipe.captions, pool, read_labels(pool, label), pool.features[label].names)
    # Not NumPy's generator: that one has drawn the pool by this seed.
    return random.Random(recipe.split_seed).sample(captions, len(captions))


def load_model(name: str, class_names: list[str]) -> PreTrainedModel:
    """The pretrained model with a fresh head for these classes."""
    model = AutoModelForImageClassification.from_pretrained(
        name,
        num_labels=len(class_names),
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
        ignore_mismatched_sizes=True,
    )
    # Lite0's training step at 40 px takes half the time on one CPU thread (0.15 s in place of 0.30 for a batch of 64);
    # sums differ in their last bits.
    return model.to(memory_format=torch.channels_last)


def image_transforms(recipe: RecipeArguments, processor: Any) -> tuple[v2.Transform, v2.Transform]:
    """The transform of training and that of evaluation, with the model's own mean and deviation."""
    statistics = getattr(processor, "data_config", None) or {
        "mean": processor.image_mean,
        "std": processor.image_std,
    }
    size = recipe.image_size
    to_tensor = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(statistics["mean"], statistics["std"]),
    ]
    crop, centre = v2.Resize((size, size)), [v2.Resize((size, size))]
    if recipe.crop_scale < 1:
        crop = v2.RandomResizedCrop(size, scale=(recipe.crop_scale, 1.0))
        # ImageNet's convention: the short side a seventh longer than the crop.
        centre = [v2.Resize(size * 8 // 7), v2.CenterCrop(size)]
    flip = [v2.RandomHorizontalFlip()] if recipe.horizontal_flip else []
    return v2.Compose([crop, *flip, *to_tensor]), v2.Compose([*centre, *to_tensor])


def find_range(dataset: Any, image: str) -> ToRGB:
    """What turns a dataset's images into RGB: deep greys by the range of some of them."""
    stored: Any
    if isinstance(dataset, ShardedDataset):
        # Of the first shard alone.
        stored, rows = dataset.with_transform(None), list(range(min(LOOKED_AT, dataset.shards.sizes[0])))
    else:
        stored = dataset.with_format(None).select_columns([image])
        rows = evenly_spaced(len(dataset), LOOKED_AT).tolist()
    found = []
    for row in rows:
        # One that cannot be read is told of by who trains on it.
        with suppress(Exception):
            found.append(stored[row][image])
    return Greys.of(filter(None, found)) or to_rgb


def with_images(dataset: Any, transform: v2.Transform, image: str, label: str, in_rgb: ToRGB = to_rgb) -> Any:
    """The dataset giving what the model takes."""

    def apply(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pixels = [transform(in_rgb(picture)) for picture in batch[image]]
        return {"pixel_values": pixels, "labels": batch[label]}

    # Each image's crop has a seed of its own, whatever batch it is in.
    apply.one_by_one = True  # type: ignore[attr-defined]
    return dataset.with_transform(apply)


def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "labels": torch.tensor([sample["labels"] for sample in samples]),
    }


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": accuracy_score(prediction.label_ids, np.argmax(prediction.predictions, axis=-1))}


def without_evaluation(args: VeCAFArguments) -> None:
    """A run whose recipe holds nothing out evaluates nothing after its loops.

    Raises:
        ValueError: It is to choose the best checkpoint.
    """
    if args.load_best_model_at_end:
        raise ValueError(
            "load_best_model_at_end chooses by evaluations, and nothing is held out: name a validation_split, or set "
            "validation_fraction above 0"
        )
    if args.eval_strategy != IntervalStrategy.NO or args.eval_on_start:
        logger.warning("nothing is held out (no validation_split, validation_fraction 0): the run evaluates nothing")
        args.eval_strategy, args.eval_on_start, args.do_eval = IntervalStrategy.NO, False, False


def build_trainer(
    recipe: RecipeArguments, cea: CEAOptions, args: VeCAFArguments, **instead: Any
) -> tuple[VeCAFTrainer, Dataset | None]:
    """The trainer, and the test split; `instead` is given to the trainer in place of the recipe's own."""
    # The transforms read columns that the model does not know.
    args.remove_unused_columns = False
    if not recipe.dataset_name:
        raise ValueError(
            "dataset_name is not set: give a dataset's Hub id, or a folder of parquet files or class folders"
        )
    splits: dict[str, Any]
    if recipe.streaming:
        splits, label = stream_splits(recipe, args.label_column, args.output_dir)
    else:
        splits, label = load_splits(recipe, args.label_column)
    if "validation" not in splits:
        without_evaluation(args)
    args.label_column = label
    check_choice("image_column", cea.image_column, splits["train"].column_names)
    name = resolve_model(recipe.model_name_or_path)
    with naming("model", name):
        processor = AutoImageProcessor.from_pretrained(name)
    train_transform, eval_transform = image_transforms(recipe, processor)
    encoder = None if recipe.text_encoder is None else TextEncoder(resolve_model(recipe.text_encoder))
    # Trainer seeds the generators too, but only once it has the model, whose fresh head is drawn before. Nothing may
    # come between seed and model: what is found cached draws nothing, what is not may.
    set_seed(args.seed)
    model = load_model(name, splits["train"].features[label].names)
    # Once the models are found: it may take hours.
    splits["train"], work_before = recipe.build_pool(splits["train"], label, cea.image_column, args)
    callbacks = []
    if encoder is not None:
        captions = captions_of(recipe, splits["train"], label)
        callbacks.append(CEACallback(encoder, captions, recipe.captioner, **vars(cea)))

    in_rgb = find_range(splits["train"], cea.image_column)

    def view(split: str, transform: v2.Transform) -> Dataset:
        return with_images(splits[split], transform, cea.image_column, label, in_rgb)

    trainer = VeCAFTrainer(
        model=model,
        args=args,
        train_dataset=view("train", train_transform),
        scoring_dataset=view("train", eval_transform),
        eval_dataset=view("validation", eval_transform) if "validation" in splits else None,
        processing_class=processor,
        data_collator=collate,
        callbacks=callbacks,
        work_before=work_before,
        **{"compute_metrics": accuracy, **instead},
    )
    return trainer, view("test", eval_transform) if "test" in splits else None
