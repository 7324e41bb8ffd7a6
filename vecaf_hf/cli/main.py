"""The command `vecaf-hf`: a run to look at before it is started, and afterwards; and whether it pays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

from vecaf_hf.cli.terminal import ENDS, Parser, UsageError, run_in_terminal, wrapped
from vecaf_hf.printable import listed, printable
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
    pushed = "also push the page to the Hub, as a static Space of this name, to which the run's card then links"
    parser.add_argument("--space", metavar="NAME", help=pushed)
    given = parser.parse_args(words)

    from vecaf_hf.inspection import read_run
    from vecaf_hf.reporting.run_page import summary_of, write_run_page

    run = read_run(given.run)
    paths = write_run_page(run, given.folder or given.run / "report")
    print(summary_of(run, paths))
    if given.space:
        from vecaf_hf.conditions.stored import FOLDER, MAP_FILE
        from vecaf_hf.hub.files import saved_arguments
        from vecaf_hf.hub.space import link_from_card, push_space

        files, place = {path.name: path for path in paths}, f"{FOLDER}/{MAP_FILE}"
        if (given.run / place).is_file():
            files[place] = given.run / place
        saved = saved_arguments(given.run)
        model, private = saved.get("hub_model_id"), bool(saved.get("hub_private_repo"))
        address = push_space(files, given.space, f"{given.run.name}: the run", model, private=private)
        print(address)
        # As `push` names it.
        repository = model or given.run.absolute().name
        if not link_from_card(given.run, repository, saved.get("hub_revision"), address):
            print(f"{printable(repository)} has no card on the Hub that could link to it: push the run, then try again")


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


def compare(words: Sequence[str]) -> None:
    """Does it pay on my data? Methods side by side on a recipe's options, all costs counted, and one sentence."""
    from filelock import FileLock

    from vecaf_hf.cli.cells import going_on, work_off
    from vecaf_hf.cli.comparison import Comparison
    from vecaf_hf.cli.comparison_page import write_comparison
    from vecaf_hf.reporting.page import links

    description = (
        f"{compare.__doc__} Each run's result is kept: stopped, or started several times on a common folder, it goes "
        "on with what is missing."
    )
    comparison = Comparison.of(words, prog=f"{PROGRAM} compare", description=description)
    comparison.check()
    with going_on():
        failed = work_off(comparison, "Comparing")
    if failed:
        raise ValueError(f"{len(failed)} runs failed, as logged: {listed(cell.name for cell in failed)}")
    # Processes that share the runs come here at once.
    with FileLock(comparison.folder / "report.lock"):
        found, paths = write_comparison(comparison)
    print(f"{found}\n{links(paths)}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "inspect": inspect,
    "compare": compare,
    "report": report,
    "push": push,
}


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
