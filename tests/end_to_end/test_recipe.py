"""The recipes as they are shipped: the quickstart made tiny, in a real subprocess; options and their order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoModelForImageClassification

from vecaf_hf import CEACallback
from vecaf_hf.cli import local_models, options
from vecaf_hf.cli.building import build_trainer, captions_of, load_splits

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
QUICKSTART = "recipes/configs/quickstart.yaml"
TIMEOUT = 400


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes can be imported, as when one of them is the script."""
    monkeypatch.syspath_prepend(str(RECIPES))


def parse(defaults: dict[str, Any], *command_line: str) -> Any:
    return options.parse(defaults, ["--use_cpu", "true", "--report_to", "none", *command_line])


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder and what was printed."""
    folder = tmp_path_factory.mktemp("quickstart")
    tiny = {
        "output_dir": str(folder / "run"),
        "max_steps": 4,
        "num_loops": 2,
        "max_train_samples": 60,
        "selection_fraction": 0.25,
        "image_size": 32,
        "per_device_train_batch_size": 8,
        "logging_steps": 1,
        "use_cpu": True,
    }
    options = [text for name, value in tiny.items() for text in (f"--{name}", str(value))]
    launcher = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
    ]
    environment = os.environ | {
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [*launcher, "recipes/imagenet.py", "--config", QUICKSTART, *options],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return folder / "run", done.stdout


def test_quickstart_prints_what_a_newcomer_wants_to_see(quickstart: tuple[Path, str]) -> None:
    folder, printed = quickstart
    summary = printed[printed.index("Selection by loop") :]
    assert re.search(r"^ *0 +0-2 +15 +15 ", summary, re.M)
    assert re.search(r"^ *1 +2-4 +15 +\d+ ", summary, re.M)
    counts = re.findall(r"^ *(?:trouser|ankle boot) +(\d+) +(\d+)$", summary, re.M)
    assert len(counts) == 2
    for kind in ("score", "select", "encode_text", "train", "evaluate"):
        assert re.search(rf"^ *{kind} +[\d,]+ ", summary, re.M), kind
    # Four batches of eight, and two passes over the pool of sixty.
    assert re.search(r"^ *train +32 ", summary, re.M)
    assert re.search(r"^ *score +120 ", summary, re.M)
    assert re.search(r"test_accuracy +0\.\d+", summary)
    assert str(folder) in summary


def test_what_inspect_shows_of_the_quickstart_is_what_its_run_selects(recipes: None) -> None:
    """The recipe's own defaults, the paper's, do not reach it; the command has the package's."""
    from imagenet import IMAGENET

    *_, run = parse(IMAGENET, "--config", str(ROOT / QUICKSTART))
    *_, shown = parse({}, "--config", str(ROOT / QUICKSTART))
    assert run.to_dict() == shown.to_dict()


def test_quickstart_leaves_its_files(quickstart: tuple[Path, str]) -> None:
    folder, printed = quickstart
    plots = [Path(path) for path in re.findall(r"^ *plot +(\S+)$", printed, re.M)]
    assert plots
    assert all(plot.stat().st_size > 1000 for plot in plots)
    assert (folder / "trainer_state.json").is_file()
    model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert model.config.id2label[1] == "trouser"
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 10)


# --- Options ---


def test_the_command_line_overrides_the_file_and_the_file_the_recipe(recipes: None) -> None:
    from imagenet import IMAGENET

    config = str(ROOT / QUICKSTART)
    values = yaml.safe_load(Path(config).read_text())
    plain = parse(IMAGENET)
    assert (plain[0].dataset_name, plain[0].image_size, plain[2].max_steps) == ("ILSVRC/imagenet-1k", 224, 12_500)
    recipe, _, args = parse(IMAGENET, "--config", config)
    assert recipe.dataset_name == values["dataset_name"]
    assert args.max_steps == values["max_steps"] != 12_500
    recipe, cea, args = parse(
        IMAGENET, "--max_steps", "7", "--config", config, "--step_size", "0.3", "--strategy", "random"
    )
    assert (args.max_steps, args.strategy, cea.step_size) == (7, "random", 0.3)
    assert recipe.image_size == values["image_size"]


def test_the_batch_of_the_command_line_wins_over_the_total_of_the_file(recipes: None, tmp_path: Path) -> None:
    from imagenet import IMAGENET

    config = tmp_path / "batches.yaml"
    config.write_text("total_train_batch_size: 64\n")
    batch = "per_device_train_batch_size"
    assert parse(IMAGENET, "--config", str(config))[2].per_device_train_batch_size == 64
    assert parse(IMAGENET, "--config", str(config), f"--{batch}", "8")[2].per_device_train_batch_size == 8
    assert parse(IMAGENET, f"--{batch}=8")[2].per_device_train_batch_size == 8
    config.write_text(f"{batch}: 16\n")
    assert parse(IMAGENET, "--config", str(config))[2].per_device_train_batch_size == 16
    both = ["--config", str(config), "--total_train_batch_size", "32", "--gradient_accumulation_steps", "2"]
    assert parse(IMAGENET, *both)[2].per_device_train_batch_size == 16


def test_what_says_the_same_in_another_way_overrides_too(recipes: None, tmp_path: Path) -> None:
    from imagenet import IMAGENET

    _, _, args = parse(IMAGENET, "--selection_budget", "500", "--num_train_epochs", "2")
    assert (args.selection_budget, args.selection_fraction) == (500, None)
    assert (args.max_steps, args.num_train_epochs) == (-1, 2)
    config = tmp_path / "budget.yaml"
    config.write_text("selection_budget: 500\n")
    assert parse(IMAGENET, "--config", str(config))[2].selection_fraction is None
    _, _, args = parse(IMAGENET, "--config", str(config), "--selection_fraction", "0.5")
    assert (args.selection_budget, args.selection_fraction) == (None, 0.5)
    with pytest.raises(ValueError, match="both given"):
        parse(IMAGENET, "--selection_budget", "500", "--selection_fraction", "0.5")


def test_an_unknown_key_suggests_the_nearest(recipes: None, tmp_path: Path) -> None:
    from imagenet import IMAGENET

    config = tmp_path / "wrong.yaml"
    config.write_text("selection_fractoin: 0.1\n")
    with pytest.raises(ValueError, match=r"selection_fractoin.*did you mean 'selection_fraction'"):
        parse(IMAGENET, "--config", str(config))


def test_an_unknown_option_ends_the_recipe(recipes: None, capsys: pytest.CaptureFixture[str]) -> None:
    from imagenet import IMAGENET

    with pytest.raises((SystemExit, ValueError)):
        parse(IMAGENET, "--no_such_option", "1")


def test_a_number_in_the_file_that_yaml_reads_as_text_is_still_a_number(recipes: None, tmp_path: Path) -> None:
    from imagenet import IMAGENET

    config = tmp_path / "numbers.yaml"
    # YAML 1.1 reads a number without a dot before its exponent as text.
    config.write_text("learning_rate: 1e-3\nselection_fraction: 5e-2\nmax_steps: 30\n")
    _, _, args = parse(IMAGENET, "--config", str(config))
    assert (args.learning_rate, args.selection_fraction, args.max_steps) == (1e-3, 5e-2, 30)


@pytest.mark.parametrize(
    ("module", "name", "dataset", "fraction", "steps"),
    [
        ("imagenet", "IMAGENET", "ILSVRC/imagenet-1k", 0.01, 12_500),
        ("cifar10", "CIFAR10", "uoft-cs/cifar10", 0.01, 750),
        ("caltech101", "CALTECH101", "flwrlabs/caltech101", 0.05, 1_500),
    ],
)
def test_the_papers_settings(recipes: None, module: str, name: str, dataset: str, fraction: float, steps: int) -> None:
    """Section 4.1 of the paper."""
    recipe, _, args = parse(getattr(__import__(module), name))
    assert recipe.dataset_name == dataset
    assert recipe.model_name_or_path == "facebook/dino-vitb16"
    assert recipe.text_encoder == "openai/clip-vit-large-patch14"
    assert recipe.image_size == 224
    assert (args.strategy, args.num_loops, args.selection_fraction, args.max_steps) == ("ods", 3, fraction, steps)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (256, 1)
    assert (str(args.optim.value), args.optim_args) == ("sgd", "momentum=0.9")
    assert (args.learning_rate, args.weight_decay) == (5e-4, 1e-4)
    assert str(args.lr_scheduler_type.value) == "cosine"
    assert args.warmup_steps == 0


@pytest.mark.parametrize(
    ("module", "name", "shipped"),
    [
        ("imagenet", "IMAGENET", {"train": 400, "validation": 40}),
        ("cifar10", "CIFAR10", {"train": 400, "test": 40}),
        ("caltech101", "CALTECH101", {"train": 400}),
    ],
)
def test_no_sample_is_in_two_splits_and_the_test_is_the_one_named(
    recipes: None, tmp_path: Path, module: str, name: str, shipped: dict[str, int]
) -> None:
    folder, start = tmp_path / "data", 0
    folder.mkdir()
    for split, size in shipped.items():
        rows = {"number": range(start, start + size), "label": [number % 4 for number in range(size)]}
        features = Features({"number": Value("int64"), "label": ClassLabel(num_classes=4)})
        Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"{split}.parquet"))
        start += size
    recipe, _, _ = parse(getattr(__import__(module), name), "--dataset_name", str(folder))
    splits, label = load_splits(recipe, "label")
    numbers = {split: set(data["number"]) for split, data in splits.items()}
    assert label == "label" and set(numbers) == {"train", "validation", "test"}
    assert len(set.union(*numbers.values())) == sum(map(len, numbers.values())) == start
    if recipe.test_split is not None:
        assert numbers["test"] == set(range(400, 440))


def test_the_seed_settles_the_fresh_head(recipes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where nothing is cached yet, the first run writes the package's weights as a checkpoint.
    monkeypatch.setattr(local_models, "HF_HOME", str(tmp_path / "empty"))

    def head(seed: int) -> torch.Tensor:
        options = ["--config", str(ROOT / QUICKSTART), "--output_dir", str(tmp_path), "--text_encoder", "none"]
        recipe, cea, args = parse({}, *options, "--dataset_name", str(ROOT / "recipes/data/fashion_mnist"))
        args.seed = seed
        trainer, _ = build_trainer(recipe, cea, args)
        return trainer.model.timm_model.classifier.weight.detach().clone()

    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))


def test_resuming_by_the_command_lines_word(recipes: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import finetune

    asked: list[Any] = []

    class Asked(Exception):
        pass

    class Trainer:
        def train(self, resume_from_checkpoint: Any) -> None:
            asked.append(resume_from_checkpoint)
            raise Asked

    monkeypatch.setattr(finetune, "interruptible", lambda *_: nullcontext())
    monkeypatch.setattr(finetune, "build_trainer", lambda *arguments: (Trainer(), None))
    for word, expected in (("true", True), ("True", True), (str(tmp_path), str(tmp_path))):
        options = ["--output_dir", str(tmp_path), "--resume_from_checkpoint", word, "--use_cpu", "true"]
        monkeypatch.setattr(sys, "argv", ["imagenet.py", *options])
        with pytest.raises(Asked):
            finetune.main({})
        assert asked[-1] == expected


# --- Captions ---


def captions(*options: str) -> tuple[Dataset, Any]:
    """A pool of eight in four classes, and what CEA gets as captions."""
    features = Features({"label": ClassLabel(names=list("wxyz")), "text": Value("string")})
    rows = {"label": [number % 4 for number in range(8)], "text": [*(f"number {number}" for number in range(7)), None]}
    pool = Dataset.from_dict(rows, features=features)
    return pool, captions_of(parse({}, *options)[0], pool, "label")


def test_captions_are_shuffled_by_the_split_seed(recipes: None) -> None:
    shuffle = ("--captions", "text", "--shuffle_captions", "true")
    pool, plain = captions("--captions", "text")
    _, shuffled = captions(*shuffle)
    assert plain == "text"
    assert shuffled != list(pool["text"]) and Counter(shuffled) == Counter(pool["text"])
    # The runs of a grid share it, whatever their seed.
    assert captions(*shuffle, "--seed", "7")[1] == shuffled != captions(*shuffle, "--split_seed", "1")[1]


def test_a_template_is_filled_in_before_captions_are_shuffled(recipes: None) -> None:
    _, shuffled = captions("--captions", "a {label}", "--shuffle_captions", "true")
    assert Counter(shuffled) == {f"a {name}": 2 for name in "wxyz"}
    assert shuffled != [f"a {'wxyz'[number % 4]}" for number in range(8)]


def test_shuffled_captions_reach_cea(recipes: None, tmp_path: Path) -> None:
    options = ["--config", str(ROOT / QUICKSTART), "--output_dir", str(tmp_path), "--max_train_samples", "100"]
    options += ["--dataset_name", str(ROOT / "recipes/data/fashion_mnist"), "--captions", "caption"]
    trainer, _ = build_trainer(*parse({}, *options, "--shuffle_captions", "true"))
    (cea,) = (one for one in trainer.callback_handler.callbacks if isinstance(one, CEACallback))
    plain = trainer.train_dataset.with_format(None)["caption"]
    assert cea.captions != list(plain) and Counter(cea.captions) == Counter(plain)
