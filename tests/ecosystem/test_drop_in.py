"""A script written for Trainer needs one changed line."""

from __future__ import annotations

import difflib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    set_seed,
)

from vecaf_hf import VeCAFArguments, VeCAFTrainer
from vecaf_hf.arguments import with_defaults
from vecaf_hf.cli.building import collate

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("user_script.py")
BEFORE = "from transformers import Trainer\n"
AFTER = "from vecaf_hf import VeCAFTrainer as Trainer\n"
COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (210, 50, 40)}
IMAGES = {"train": 16, "validation": 6}  # of each class
SIZE = 16
MakeModel = Callable[..., PreTrainedModel]


def write_images(folder: Path) -> None:
    """Noise around a colour for each class, SIZE x SIZE, in folders of classes."""
    draw = np.random.default_rng(0)
    for split, count in IMAGES.items():
        for name, colour in COLOURS.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(draw.normal(colour, 40, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")


def write_pretrained(folder: Path) -> None:
    """A tiny ViT of a thousand classes, as a checkpoint with its processor."""
    set_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(image_size=SIZE, patch_size=8, num_labels=1000, **sizes)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)


@dataclass
class Run:
    """A script's run: its lines, its output folder and what it printed."""

    lines: list[str]
    output: Path
    printed: str

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.output / "trainer_state.json").read_text())

    @property
    def evaluated(self) -> dict[str, float]:
        return json.loads((self.output / "eval_results.json").read_text())

    def logged(self, key: str) -> list[float]:
        return [log[key] for log in self.state["log_history"] if key in log]


def run_script(folder: Path, name: str, text: str) -> Run:
    script, output = folder / f"{name}.py", folder / name
    script.write_text(text)
    offline = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "pretrained"), str(folder / "images"), str(output)],
        env=os.environ | offline | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Run(text.splitlines(keepends=True), output, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """The script as it was, and with the changed line."""
    folder = tmp_path_factory.mktemp("drop_in")
    write_images(folder / "images")
    write_pretrained(folder / "pretrained")
    text = SCRIPT.read_text()
    assert text.count(BEFORE) == 1
    return run_script(folder, "plain", text), run_script(folder, "ours", text.replace(BEFORE, AFTER))


def test_one_line_is_changed(runs: tuple[Run, Run]) -> None:
    plain, ours = runs
    changes = [line for line in difflib.unified_diff(plain.lines, ours.lines, n=0) if not line.startswith("@@")][2:]
    assert changes == [f"-{BEFORE}", f"+{AFTER}"]


def test_both_train_as_many_steps(runs: tuple[Run, Run]) -> None:
    # 48 images in batches of 8, six times.
    assert [run.state["global_step"] for run in runs] == [36, 36]
    for run in runs:
        losses = run.logged("loss")
        assert losses[-1] < losses[0]


def test_the_changed_script_has_the_whole_pool_in_each_epoch(runs: tuple[Run, Run]) -> None:
    plain, ours = runs
    assert set(ours.logged("vecaf/loop")) == set(range(6))
    assert set(ours.logged("vecaf/selected")) == {48}
    assert plain.logged("vecaf/loop") == []
    assert "args are TrainingArguments" in ours.printed and "strategy='balanced'" in ours.printed


def test_epochs_of_the_script_are_loops(runs: tuple[Run, Run]) -> None:
    evaluations = [len(run.logged("eval_accuracy")) for run in runs]
    # The last one is the script's own.
    assert evaluations == [6 + 1, 6 + 1]
    lines = [[(log["step"], log["epoch"], "loss" in log) for log in run.state["log_history"]] for run in runs]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("which", [0, 1], ids=["plain", "ours"])
def test_the_checkpoint_is_an_ordinary_one(runs: tuple[Run, Run], which: int) -> None:
    run = runs[which]
    model = AutoModelForImageClassification.from_pretrained(run.output).eval()
    processor = AutoImageProcessor.from_pretrained(run.output)
    assert model.config.id2label == dict(enumerate(sorted(COLOURS)))
    right = 0
    for label, name in enumerate(sorted(COLOURS)):
        for path in (run.output.parent / "images" / "validation" / name).iterdir():
            inputs = processor(Image.open(path), return_tensors="pt")
            with torch.inference_mode():
                right += int(model(**inputs).logits.argmax() == label)
    assert right / (3 * IMAGES["validation"]) == pytest.approx(run.evaluated["eval_accuracy"])
    assert run.evaluated["eval_accuracy"] > 0.5


def test_no_pickle_beside_the_changed_scripts_model(runs: tuple[Run, Run]) -> None:
    assert (runs[0].output / "training_args.bin").exists()
    assert not (runs[1].output / "training_args.bin").exists()


# --- The arguments ---


def test_trainers_options_keep_their_values(tmp_path: Path) -> None:
    plain = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        report_to=["tensorboard"],
        accelerator_config={"split_batches": True, "even_batches": True},
        lr_scheduler_type="cosine",
        lr_scheduler_kwargs={"num_cycles": 1},
        eval_strategy="steps",
        logging_steps=3,
        optim="adamw_torch",
        hub_token="of-the-user",
        activation_checkpointing=True,
        debug="underflow_overflow",
    )
    made = with_defaults(plain)
    for field in fields(TrainingArguments):
        assert getattr(made, field.name) == getattr(plain, field.name), field.name
    assert made.accelerator_config.split_batches and made.eval_steps == 3 and made.hub_token == "of-the-user"
    untouched = VeCAFArguments(output_dir=str(tmp_path), use_cpu=True)
    ours = {field.name for field in fields(VeCAFArguments)} - {field.name for field in fields(TrainingArguments)}
    assert all(getattr(made, name) == getattr(untouched, name) for name in ours)


def test_our_own_arguments_stay_the_object_that_was_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    args = VeCAFArguments(output_dir=str(tmp_path), use_cpu=True)
    assert with_defaults(args) is args
    assert with_defaults(None).output_dir == "tmp_trainer"
    assert not caplog.records


def test_the_log_tells_once_what_was_chosen(
    make_vit: MakeModel, train: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with caplog.at_level(logging.WARNING, "vecaf_hf"):
        trainer = VeCAFTrainer(make_vit(), args, train_dataset=train)
    told = [record.getMessage() for record in caplog.records if record.name == "vecaf_hf.arguments"]
    assert len(told) == 1
    for chosen in ("strategy='balanced'", "loops that are epochs, each of the whole pool as for Trainer"):
        assert chosen in told[0]
    assert trainer.plan().schedule.budget == len(train)


def test_a_few_steps_to_try_a_script_out(make_vit: MakeModel, train: Dataset, tmp_path: Path) -> None:
    """And Trainer's arguments by position."""
    args = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=2, remove_unused_columns=False
    )
    trainer = VeCAFTrainer(make_vit(), args, collate, train, train)
    trainer.train()
    assert trainer.state.global_step == 2 and [record.loop for record in trainer.loop_records] == [0]
    assert trainer.data_collator is collate and trainer.eval_dataset is train


def test_a_subclass_with_options_of_its_own_is_told_to_derive_from_ours(tmp_path: Path) -> None:
    @dataclass
    class OwnArguments(TrainingArguments):
        teacher: str = "big"

    with pytest.raises(ValueError, match=r"no teacher: derive OwnArguments from VeCAFArguments") as error:
        with_defaults(OwnArguments(output_dir=str(tmp_path), use_cpu=True))
    assert "OwnArguments" in str(error.value)


def test_what_breaks_the_loops_is_refused_as_in_our_own_arguments(make_vit: MakeModel, tmp_path: Path) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, ignore_data_skip=True)
    with pytest.raises(ValueError, match="ignore_data_skip does not go with VeCAF"):
        VeCAFTrainer(make_vit(), args)
