"""The command that takes up a stopped recipe again."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence

import psutil

OPTION = "--resume_from_checkpoint"


def resume_command() -> str:
    """What was typed to start this process, with the option to go on from the last checkpoint."""
    return shlex.join(resuming(shortened(typed())))


def typed() -> list[str]:
    """The words of this process, or of the launcher above it that was given them."""
    process = psutil.Process()
    words = process.cmdline()
    try:
        for parent in process.parents():
            above = parent.cmdline()
            if above[-len(sys.argv) :] == sys.argv:
                words = above
    except psutil.Error:
        # What is above belongs to somebody else, or has ended.
        pass
    return words


def shortened(words: Sequence[str]) -> list[str]:
    """Programs on the path by their names, without the interpreter that a script on the path brings along."""
    short = [word if shutil.which(name := word.rpartition("/")[2]) != word else name for word in words[:2]]
    if len(short) == 2 and short[1] != words[1]:
        short = short[1:]
    return [*short, *words[2:]]


def resuming(words: Sequence[str]) -> list[str]:
    """The command with `--resume_from_checkpoint true` in place of what it says of that."""
    kept: list[str] = []
    is_value = False
    for word in words:
        name, has_value, _ = word.replace("-", "_").partition("=")
        if name == OPTION.replace("-", "_"):
            is_value = not has_value
        elif not is_value or word.startswith("--"):
            kept.append(word)
            is_value = False
        else:
            is_value = False
    return [*kept, OPTION, "true"]
