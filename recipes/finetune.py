"""What all recipes share: a run by its options, and the summary at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vecaf_hf.recipe import build_trainer, parse
from vecaf_hf.reporting import summarise, write_plots

TASK = "image-classification"


def main(defaults: Mapping[str, Any]) -> None:
    """Parse, train, evaluate once on the test split, save, and say what happened."""
    recipe, cea, args = parse(defaults)
    trainer, test = build_trainer(recipe, cea, args)
    resume: str | bool | None = args.resume_from_checkpoint
    # The command line has words only.
    trainer.train(resume_from_checkpoint=True if str(resume).lower() == "true" else resume)
    metrics = trainer.evaluate(test, metric_key_prefix="test") if test is not None else {}
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        trainer.save_metrics("test", metrics)
        trainer.create_model_card(tasks=TASK)
        plots = write_plots(trainer, Path(str(args.output_dir)) / "plots")
        print(summarise(trainer, metrics, plots))
    if args.push_to_hub:
        trainer.push_to_hub(tasks=TASK)
