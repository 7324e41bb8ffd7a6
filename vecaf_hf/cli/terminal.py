"""A command in a terminal: its help, and how it ends: in a sentence and an exit code, where its user can mend what is
wrong."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from vecaf_hf.printable import printable

# Set in the environment, it adds the traceback to errors that are told in a sentence.
TRACEBACK = "VECAF_HF_TRACEBACK"
ENDS = (
    f"What you can mend is told in a sentence (exit code 2: of options, 1: of anything else); {TRACEBACK}=1 in the "
    "environment adds where it was raised."
)
# Seconds that a process waits for its launcher to end it, because the main one has failed and said why.
PATIENCE = 10


class UsageError(ValueError):
    """What was typed, or stands in a file of options, is no command."""


class Interrupted(Exception):
    """A signal has ended the work in good order; the message says what becomes of it.

    Args:
        message: For the terminal.
        number: The signal's.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


def run_in_terminal(program: str, command: Callable[[], None]) -> int:
    """Run a command; what its user can mend becomes a sentence on stderr, told by one process of several.

    Returns:
        The exit code: 0; 2 for options; 1 for data, files and the Hub; 128 and its number for a signal.

    Raises:
        Exception: Whatever else goes wrong is a bug, and comes through.
    """
    try:
        command()
    except (Interrupted, KeyboardInterrupt) as end:
        number = end.number if isinstance(end, Interrupted) else int(signal.SIGINT)
        if _is_main():
            tell(program, str(end) or "interrupted")
        return 128 + number
    except Exception as error:
        if not _is_main():
            time.sleep(PATIENCE)
        if not is_mendable(error):
            raise
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        tell(program, sentence(error))
        return 2 if isinstance(error, UsageError) else 1
    return 0


def is_mendable(error: Exception) -> bool:
    """Whether it tells of what was typed or of the machine (files, disk, network, a package that is not there), or was
    raised by one of our checks or of the script's: a ValueError from elsewhere is a bug."""
    if isinstance(error, (UsageError, OSError)) or type(error) is ImportError:
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    if not isinstance(error, ValueError) or not frames:
        return False
    ours = (Path(__file__).parents[1], Path(sys.argv[0]).resolve().parent)
    raised_in = Path(frames[-1][0].f_code.co_filename).resolve()
    return any(raised_in.is_relative_to(folder) for folder in ours)


def sentence(error: Exception) -> str:
    """What an error says, on one line."""
    text = str(error)
    if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    return printable(" ".join(text.split())) or type(error).__name__


def tell(program: str, text: str) -> None:
    print(f"{program}: {text}", file=sys.stderr, flush=True)


def _is_main() -> bool:
    # As launchers set it: errors of options come before there is anything else to know it by.
    return os.environ.get("RANK", "0") == "0"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are sentences as all others are, and whose help has each option once, with its default."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": Help, "epilog": ENDS, **options})

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class Help(argparse.HelpFormatter):
    """Options under their first name, each with its default; paragraphs as wide as the terminal, and what is indented
    in them as it is."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        values = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{action.option_strings[0]} {values}"

    def _expand_help(self, action: argparse.Action) -> str:
        text = str(action.help).replace("%%", "%")
        if not action.option_strings or action.nargs == 0 or "default:" in text:
            return text
        return f"{text} (default: {_shown(action.default)})"

    def _split_lines(self, text: str, width: int) -> list[str]:
        # Names are copied from it.
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = textwrap.dedent(text).strip().split("\n\n")
        return "\n\n".join(one if one.startswith(" ") else wrapped(one, width, indent) for one in paragraphs)


def _shown(default: Any) -> str:
    if isinstance(default, list):
        return " ".join(map(str, default)) or "not set"
    if isinstance(default, bool):
        return str(default).lower()
    return "not set" if default in (None, "") else str(getattr(default, "value", default))


def wrapped(text: str, width: int | None = None, indent: str = "", hanging: str | None = None) -> str:
    """A paragraph in lines of this many columns, or as many as the terminal has; the first after `indent`, the others
    after `hanging`."""
    columns = shutil.get_terminal_size().columns if width is None else width
    hanging = indent if hanging is None else hanging
    return textwrap.fill(" ".join(text.split()), columns, initial_indent=indent, subsequent_indent=hanging)
