"""The command `vecaf-hf`: a run to look at before it is started, and afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

from vecaf_hf.cli.terminal import ENDS, Parser, UsageError, run_in_terminal, wrapped
from vecaf_hf.validation import check_choice

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
    from vecaf_hf.cli.building import build_trainer
    from vecaf_hf.cli.options import parse_with
    from vecaf_hf.inspection.page import JSON_FILE
    from vecaf_hf.inspection.words import summary_of

    description = (
        f"{inspect.__doc__} Takes the options of all recipes; trains nothing. A run with options of one recipe alone, "
        "such as its pools, is looked at by that recipe's trainer.inspect()."
    )
    own, (recipe, cea, args) = parse_with(
        InspectArguments, {}, list(words), prog=f"{PROGRAM} inspect", description=description
    )
    trainer, _ = build_trainer(recipe, cea, args)
    folder = Path(own.folder or Path(str(args.output_dir)) / "inspection")
    inspection = trainer.inspect(folder, own.samples)
    if trainer.is_world_process_zero():
        print(summary_of(inspection, [folder / "index.html", folder / JSON_FILE]))


def report(words: Sequence[str]) -> None:
    """A run from its folder: selection over the loops, curves, cost by kind, what CEA did."""
    parser = Parser(
        prog=f"{PROGRAM} report",
        description=f"{report.__doc__} Reads what save_state() or the last whole checkpoint left; loads no model.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's output_dir, or one of its checkpoints")
    parser.add_argument(
        "--folder", type=Path, metavar="FOLDER", help="where the page is written (default: `report` in RUN)"
    )
    given = parser.parse_args(words)

    from vecaf_hf.inspection import read_run
    from vecaf_hf.reporting.run_page import summary_of, write_run_page

    run = read_run(given.run)
    print(summary_of(run, write_run_page(run, given.folder or given.run / "report")))


def push(words: Sequence[str]) -> None:
    """A finished run from its folder to the Hub: model, card and pictures; also where a push has failed."""
    parser = Parser(prog=f"{PROGRAM} push", description=push.__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's output_dir, or one of its checkpoints")
    parser.add_argument(
        "--repo_id", metavar="NAME", help="repository (default: the run's hub_model_id, or the folder's name)"
    )
    parser.add_argument("--revision", metavar="NAME", help="branch (default: the run's hub_revision, or main)")
    private = "make the repository private, if it is new (default: as the run's hub_private_repo says)"
    parser.add_argument("--private", action="store_true", default=None, help=private)
    given = parser.parse_args(words)

    from vecaf_hf.hub.push import push_run

    pushed = push_run(given.run, repo_id=given.repo_id, private=given.private, revision=given.revision)
    print(pushed.commit_url)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"inspect": inspect, "report": report, "push": push}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code, as `run_in_terminal` has it."""
    words = sys.argv[1:] if words is None else words
    if words and words[0] == "--version":
        print(", ".join(f"{name} {version(name)}" for name in ("vecaf_hf", "transformers", "torch")))
        return 0
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0 if words else 2
    return run_in_terminal(PROGRAM, partial(_run, *words))


def _run(name: str, *words: str) -> None:
    try:
        check_choice("the command", name, COMMANDS, or_callable=False)
    except ValueError as error:
        raise UsageError(str(error)) from error
    COMMANDS[name](words)


def overview() -> str:
    """The commands, each with what it is for."""
    summaries = [
        wrapped(command.__doc__ or "", indent=f"  {name:<9} ", hanging=" " * 12) for name, command in COMMANDS.items()
    ]
    more = wrapped(f"`{PROGRAM} COMMAND --help` lists a command's options, `{PROGRAM} --version` the versions. {ENDS}")
    return "\n".join([f"usage: {PROGRAM} COMMAND ...", "", "commands:", *summaries, "", more])


if __name__ == "__main__":
    sys.exit(main())
