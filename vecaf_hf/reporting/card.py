"""VeCAF's section of a model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vecaf_hf.printable import printable
from vecaf_hf.reporting.summary import class_table, cost_table, loop_table

if TYPE_CHECKING:
    from vecaf_hf.trainer import VeCAFTrainer

TITLE = "## How the training data were selected"


def selection_section(trainer: VeCAFTrainer) -> str:
    """What was selected in each loop, and what the run cost, in Markdown."""
    args = trainer.args
    strategy, budget = printable(args.to_dict()["strategy"]), trainer.selection.indices.numel()
    return "\n".join(
        [
            TITLE,
            "",
            f"Finetuned with [vecaf_hf](https://arxiv.org/abs/2401.07853): strategy `{strategy}`, "
            f"{len(trainer.loop_records)} loops, {budget} samples per loop out of {len(trainer.train_dataset)}.",
            "",
            *_block(loop_table(trainer.loop_records, trainer.state.log_history)),
            "Selected samples by class:",
            "",
            *_block(class_table(trainer.loop_records, trainer.class_names)),
            "What the run cost, all passes counted:",
            "",
            *_block(cost_table(trainer.meter.state()["work"])),
        ]
    )


def add_selection_section(path: str, trainer: VeCAFTrainer) -> None:
    """Put the section at the end of a card, in place of an earlier one."""
    # The rest byte for byte: a name in its metadata that YAML must quote need not survive another quoting.
    card, section = Path(path), f"\n\n{selection_section(trainer)}"
    rest = card.read_bytes().split(f"\n{TITLE}\n".encode())[0].rstrip()
    card.write_bytes(rest + section.encode())


def _block(text: str) -> list[str]:
    # Every row of a table ends with a number: backticks in a name cannot end the block.
    return ["```text", text, "```", ""]
