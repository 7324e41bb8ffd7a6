"""The command `vecaf-hf`: a run to look at before it is started, and afterwards."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vecaf_hf.printable import printable
from vecaf_hf.validation import check_choice

logger = logging.getLogger(__name__)

PROGRAM = "vecaf-hf"


@dataclass
class InspectArguments:
    samples: int | None = field(
        default=None,
        metadata={"help": "Most samples to score; as many as the run's first loop scores if not set."},
    )
    folder: str | None = field(
        default=None, metadata={"help": "Where the page is written; `inspection` in output_dir if not set."}
    )


def inspect(words: Sequence[str]) -> None:
    """A run before it is started: its budget, its first selection, near duplicates, suspicious labels."""
    from vecaf_hf.recipe.building import build_trainer
    from vecaf_hf.recipe.options import parse_with
    from vecaf_hf.reporting.inspection_page import JSON_FILE, summary_of

    usage = f"{PROGRAM} inspect [--config FILE.yaml] [--dataset_name NAME] [--OPTION VALUE ...]"
    description = f"{inspect.__doc__} Takes a recipe's options; trains nothing."
    own, (recipe, cea, args) = parse_with(
        InspectArguments, {}, list(words), prog=f"{PROGRAM} inspect", usage=usage, description=description
    )
    trainer, _ = build_trainer(recipe, cea, args)
    folder = Path(own.folder or Path(str(args.output_dir)) / "inspection")
    inspection = trainer.inspect(folder, own.samples)
    if trainer.is_world_process_zero():
        print(summary_of(inspection, [folder / "index.html", folder / JSON_FILE]))


def report(words: Sequence[str]) -> None:
    """A run from its folder: selection over the loops, curves, cost by kind, what CEA did."""
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} report",
        description=f"{report.__doc__} Reads what save_state() or the last whole checkpoint left; loads no model.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's output_dir, or one of its checkpoints")
    parser.add_argument("--folder", type=Path, help="where the page is written (default: `report` in RUN)")
    given = parser.parse_args(words)

    from vecaf_hf.inspection import read_run
    from vecaf_hf.reporting.run_page import summary_of, write_run_page

    run = read_run(given.run)
    print(summary_of(run, write_run_page(run, given.folder or given.run / "report")))


def push(words: Sequence[str]) -> None:
    """A finished run from its folder to the Hub: the model, its card and pictures; again, where a push has failed."""
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} push", description=push.__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's output_dir, or one of its checkpoints")
    parser.add_argument("--repo_id", help="repository (default: the run's hub_model_id, or the folder's name)")
    parser.add_argument("--revision", help="branch (default: the run's hub_revision, or main)")
    private = "make the repository private, if it is new (default: as the run's hub_private_repo says)"
    parser.add_argument("--private", action="store_true", default=None, help=private)
    given = parser.parse_args(words)

    from vecaf_hf.hub import push_run

    pushed = push_run(given.run, repo_id=given.repo_id, private=given.private, revision=given.revision)
    print(pushed.commit_url)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"inspect": inspect, "report": report, "push": push}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, or 1 after an error that its user can mend."""
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0 if words else 2
    try:
        check_choice("the command", words[0], COMMANDS, or_callable=False)
        COMMANDS[words[0]](words[1:])
    except (ValueError, OSError) as error:
        # Of options, data and files, as their checks have it; the traceback is for --log_level debug.
        logger.debug("where it was raised", exc_info=error)
        text = printable(" ".join(str(error).split())) or type(error).__name__
        print(f"{PROGRAM}: {text}", file=sys.stderr)
        return 1
    return 0


def overview() -> str:
    """The commands, one a line."""
    lines = [f"  {name:<9} {(command.__doc__ or '').strip()}" for name, command in COMMANDS.items()]
    more = f"`{PROGRAM} COMMAND --help` lists a command's options."
    return "\n".join([f"usage: {PROGRAM} COMMAND ...", "", "commands:", *lines, "", more])


if __name__ == "__main__":
    sys.exit(main())
