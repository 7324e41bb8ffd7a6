"""The options of a recipe: its defaults, overridden by the YAML file of `--config`, overridden by the command line."""

from __future__ import annotations

import sys
from argparse import SUPPRESS, Action
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import yaml
from datasets import Dataset
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.augmentation.options import CEAOptions
from vecaf_hf.cli.terminal import Parser, UsageError, sentence
from vecaf_hf.cost import CostMeter
from vecaf_hf.selection import STRATEGIES, SelectionOptions
from vecaf_hf.validation import check_at_least, check_choice, check_fraction, whole


@dataclass
class RecipeArguments:
    """Data, model, text encoder and captions of a run that is told by its options alone.

    Raises:
        ValueError: An option is out of its range or none of its choices.
    """

    dataset_name: str = field(
        default="",
        metadata={
            "help": "A dataset's Hub id, or a folder of parquet files or class folders; beside these metadata.csv "
            "(file_name, and captions in a column) may lie."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training split in its shards, Parquet files or tars, as they are needed: "
            "docs/large_pools.md."
        },
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "The dataset's configuration."})
    train_split: str = field(default="train", metadata={"help": "Split that is the pool."})
    validation_split: str | None = field(
        default=None, metadata={"help": "Split to evaluate on after each loop; see validation_fraction."}
    )
    validation_fraction: float = field(
        default=0.02,
        metadata={"help": "Part of the training split held out where there is no validation_split."},
    )
    test_split: str | None = field(
        default="test",
        metadata={"help": "Split to evaluate on once, at the end, never chosen on; `none` for none."},
    )
    test_fraction: float = field(
        default=0.0, metadata={"help": "Part of the training split held out for the test where there is no test_split."}
    )
    split_seed: int = field(
        default=0,
        metadata={
            "help": "Seed of what is held out, of the pool and of shuffled captions: the same for every `seed`, whose "
            "runs share one pool."
        },
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Cut the pool to this many random samples."})
    total_train_batch_size: int | None = field(
        default=None,
        metadata={"help": "Samples per optimizer step over all processes; sets per_device_train_batch_size."},
    )
    model_name_or_path: str = field(
        default="facebook/dino-vitb16",
        metadata={"help": "Pretrained vision model: a Hub id (timm's too), a folder, or pypi:PACKAGE."},
    )
    text_encoder: str | None = field(
        default="openai/clip-vit-large-patch14",
        metadata={"help": "Text encoder of CEA: a Hub id, a folder, or pypi:PACKAGE; `none` trains without CEA."},
    )
    captions: str = field(
        default="a photo of a {label}",
        metadata={
            "help": "Column of captions, a template over class names, or `auto`: by the captioner, or 'a photo of a "
            "{label}' without one."
        },
    )
    captioner: str | None = field(
        default=None,
        metadata={"help": "Model that captions the pool's images with captions auto: a Hub id or a folder."},
    )
    shuffle_captions: bool = field(
        default=False,
        metadata={
            "help": "Deal the captions out anew among the pool's samples, by split_seed: a control, whose captions say "
            "nothing about their images."
        },
    )
    image_size: int = field(default=224, metadata={"help": "Height and width of the model's input, in pixels."})
    crop_scale: float = field(
        default=0.08,
        metadata={"help": "Least part of a training image's area in its random crop; 1 for no crop."},
    )
    horizontal_flip: bool = field(default=True, metadata={"help": "Mirror training images at random."})

    def __post_init__(self) -> None:
        # The command line has no other way to say None.
        for name in ("validation_split", "test_split", "text_encoder", "captioner"):
            if getattr(self, name) == "none":
                setattr(self, name, None)
        for name in ("image_size", "max_train_samples", "total_train_batch_size"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 1)
        check_fraction("crop_scale", self.crop_scale)
        for name in ("validation_fraction", "test_fraction"):
            value = getattr(self, name)
            check_at_least(name, value, 0)
            if value >= 1:
                raise ValueError(f"{name} is {value}; it must be below 1: the rest is the pool")

    def build_pool(
        self, train: Dataset, label: str, image: str, args: VeCAFArguments
    ) -> tuple[Dataset, CostMeter | None]:
        """The pool, made of the training split, and the work of making it if there was any. Here it is the split.

        A recipe with pools of its own derives its options from these, overrides this, and parses them by
        `parse(..., recipe=ITS_OPTIONS)`.

        Args:
            train: Of the dataset, with its images as they are.
            label: Column of labels, a ClassLabel.
            image: Column of images.
            args: Of the run.
        """
        return train, None


# Options that say one thing in two ways: whoever sets the first overrides a recipe's or a file's second.
ALTERNATIVES: dict[str, dict[str, Any]] = {
    "per_device_train_batch_size": {"total_train_batch_size": None},
    "selection_budget": {"selection_fraction": None},
    "selection_fraction": {"selection_budget": None},
    "num_train_epochs": {"max_steps": -1},
}

# Of RecipeArguments, what is about captions.
OF_CAPTIONS = ["text_encoder", "captions", "captioner", "shuffle_captions"]
USAGE = "%(prog)s [--config FILE.yaml] [--OPTION VALUE ...]"
# Of options that take something else too, the names that they take.
NAMES = {"strategy": STRATEGIES}
# What Trainer's own help cannot know.
IN_A_RECIPE = {
    "resume_from_checkpoint": "`true` to go on from the run's last whole checkpoint, and to begin where there is none "
    "yet; or a checkpoint's folder."
}
# What a value looks like in `--help`; others are text.
VALUES: dict[Any, str] = {int: "N", float: "X", string_to_bool: "true|false"}

Arguments = tuple[RecipeArguments, CEAOptions, VeCAFArguments]
T = TypeVar("T")


def parse(
    defaults: Mapping[str, Any],
    command_line: list[str] | None = None,
    recipe: type[RecipeArguments] = RecipeArguments,
    **texts: str,
) -> Arguments:
    """Defaults of the recipe, overridden by the YAML file of `--config`, overridden by the command line.

    Args:
        defaults: Of all options.
        command_line: Its words; those of this process if None.
        recipe: RecipeArguments, or a dataclass derived from it with a recipe's own options.
        **texts: What `--help` says: argparse's `prog`, `usage` and `description`.

    Raises:
        UsageError: File or command line have what is no option (the nearest one is suggested), or a value that an
            option cannot have.
    """
    found, cea, args = _parsed([recipe, CEAOptions, VeCAFArguments], defaults, command_line, **texts)
    return found, cea, args


def parse_with(
    own: type[T], defaults: Mapping[str, Any], command_line: list[str] | None = None, **texts: str
) -> tuple[T, Arguments]:
    """The same for a command with options of its own, `own` a dataclass of them."""
    types = [own, RecipeArguments, CEAOptions, VeCAFArguments]
    found, recipe, cea, args = _parsed(types, defaults, command_line, **texts)
    return found, (recipe, cea, args)


class GroupedParser(Parser, HfArgumentParser):
    """A parser whose `--help` lists options by what they are about.

    Args:
        groups: Title -> names of options, in the order in which they are listed.
        **options: HfArgumentParser's.
    """

    def __init__(self, groups: Mapping[str, Collection[str]], **options: Any) -> None:
        self._titles = {name: title for title, names in groups.items() for name in names}
        self._groups: dict[str, Any] = {}
        super().__init__(**options)

    def add_argument(self, *names: Any, **options: Any) -> Any:
        name = str(names[0]).lstrip("-")
        if options.get("action") == "store_false":
            # The second option of a switch that is on by default, for which `false` does as well.
            return super().add_argument(*names, **{**options, "help": SUPPRESS})
        if name in IN_A_RECIPE:
            options["help"] = IN_A_RECIPE[name]
        if choices := options.get("choices") or NAMES.get(name):
            options["help"] = f"{options['help']} One of {', '.join(map(str, choices))}."
        if "type" in options:
            options.setdefault("metavar", "NAME" if choices else VALUES.get(options["type"], "TEXT"))
        title = self._titles.get(name)
        if title is None:
            return super().add_argument(*names, **options)
        if not self._groups:
            self._groups = {one: self.add_argument_group(one) for one in dict.fromkeys(self._titles.values())}
        return self._groups[title].add_argument(*names, **options)

    def _check_value(self, action: Action, value: Any) -> None:
        if action.choices is not None:
            check_choice(action.dest, value, map(str, action.choices), or_callable=False)


def _groups(types: Any) -> dict[str, Collection[str]]:
    *own, recipe, _, _ = types
    of_recipe, of_trainer, of_selection = (
        one.__dataclass_fields__ for one in (recipe, TrainingArguments, SelectionOptions)
    )
    return {
        "this command": ["config", *(one.name for command in own for one in fields(command))],
        "data and model": [name for name in of_recipe if name not in OF_CAPTIONS],
        "selection": of_selection,
        "loops and scoring": VeCAFArguments.__dataclass_fields__.keys() - of_trainer.keys() - of_selection.keys(),
        "Cross-attentive Embedding Augmentation (CEA) and captions": [*OF_CAPTIONS, *CEAOptions.__dataclass_fields__],
        "training, as in transformers' TrainingArguments": of_trainer,
    }


def _parsed(types: Any, defaults: Mapping[str, Any], command_line: list[str] | None, **texts: str) -> list[Any]:
    # Without abbreviations: what has been given must be known by its name.
    parser = GroupedParser(_groups(types), dataclass_types=types, allow_abbrev=False, **{"usage": USAGE, **texts})
    parser.add_argument("--config", metavar="FILE", help="YAML file of options, overridden by the command line.")
    parser.set_defaults(**defaults)
    try:
        return _filled(parser, command_line)
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise UsageError(sentence(error)) from error


def _filled(parser: GroupedParser, command_line: list[str] | None) -> list[Any]:
    known, unknown = parser.parse_known_args(command_line)
    for word in unknown:
        check_choice("a word of the command line", word.split("=")[0], [f"--{name}" for name in vars(known)])
    if known.config is not None:
        values = read_config(known.config)
        for key in values:
            check_choice(f"a key of {known.config}", key, vars(known))
        parser.set_defaults(**overridden(values), **values)
    words = sys.argv[1:] if command_line is None else command_line
    options = {word[2:].split("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    parser.set_defaults(**overridden(options))
    *found, _ = parser.parse_args_into_dataclasses(command_line, return_remaining_strings=False)
    recipe, cea, args = found[-3:]
    if recipe.text_encoder is None and cea.prompts:
        raise ValueError(
            "domain_prompt is given, and text_encoder is none, so that nothing reads a prompt: name a text encoder, or "
            "leave domain_prompt out"
        )
    if recipe.total_train_batch_size is not None:
        args.per_device_train_batch_size = batch_per_device(recipe.total_train_batch_size, args)
    return found


def read_config(file: str) -> dict[str, Any]:
    """The options in a YAML file."""
    with open(file, encoding="utf-8") as text:
        values = yaml.safe_load(text) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds a {type(values).__name__}; it must have lines of `option: value`")
    return values


def overridden(given: Collection[str]) -> dict[str, Any]:
    """What the given options take back of what has been set before them."""
    taken = [values.items() for name, values in ALTERNATIVES.items() if name in given]
    return {name: value for items in taken for name, value in items if name not in given}


def batch_per_device(total: int, args: VeCAFArguments) -> int:
    """The batch of one process and micro-step that makes steps of `total` samples."""
    shares = args.world_size * args.gradient_accumulation_steps
    if total % shares:
        raise ValueError(
            f"total_train_batch_size is {total}, which {args.world_size} processes with "
            f"{args.gradient_accumulation_steps} accumulation steps cannot share evenly"
        )
    return total // shares
