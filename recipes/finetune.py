"""What all recipes share: a run by its options, and the summary at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from options import parse
from targets import evaluate_under_conditions

from vecaf_hf.cli.building import build_trainer
from vecaf_hf.cli.interruption import interruptible
from vecaf_hf.cli.resume_command import resume_command
from vecaf_hf.cli.terminal import run_in_terminal
from vecaf_hf.reporting import summarise
from vecaf_hf.reporting.card import PLOTS

TASK = "image-classification"


def main(defaults: Mapping[str, Any], description: str = "") -> None:
    """End the process with the run's exit code."""
    sys.exit(run_in_terminal(Path(sys.argv[0]).name, partial(finetune, defaults, description)))


def finetune(defaults: Mapping[str, Any], description: str = "") -> None:
    """Parse, train, evaluate once on the test split, save, and say what happened."""
    recipe, cea, args = parse(defaults, description=description)
    trainer, test = build_trainer(recipe, cea, args)
    resume: str | bool | None = args.resume_from_checkpoint
    with interruptible(trainer, f"to go on: {resume_command()}"):
        # The command line has words only.
        trainer.train(resume_from_checkpoint=True if str(resume).lower() == "true" else resume)
    metrics: dict[str, float] = {}
    if test is not None:
        metrics = trainer.evaluate(test, metric_key_prefix="test")
        metrics |= evaluate_under_conditions(trainer, test, recipe, cea.image_column)
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        trainer.save_metrics("test", metrics)
        # With the run's pictures.
        trainer.create_model_card(tasks=TASK)
        print(summarise(trainer.report, metrics, sorted((Path(str(args.output_dir)) / PLOTS).glob("*.png"))))
    if args.push_to_hub:
        trainer.push_to_hub(tasks=TASK)
