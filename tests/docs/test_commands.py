"""The real parsers understand every command and every option that a page shows; nothing is run."""

from __future__ import annotations

import argparse
import configparser
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from accelerate.commands.launch import launch_command_parser
from every_case import every_case
from markdown_pages import PAGES, ROOT, code_spans, commands, shell_blocks

from vecaf_hf.cli import main as cli
from vecaf_hf.cli.options import parse, parse_with

PARSED = ("accelerate", "python", "vecaf-hf")
# What is looked at elsewhere.
NOT_PARSED = {
    "pdoc": "test_api_page.py runs it",
    "pytest": "pytest's own options; test_links.py looks for its files",
    "pip": "pip's own options; its extras are looked for below",
}
NOT_WHOLE = {"accelerate launch": "the launcher is named, no command is shown"}
# Options in running text that are not a recipe's, or whose value is the reader's.
NOT_OF_RECIPES = {
    "--help": "it ends the process",
    "--config FILE.yaml": "the reader's file",
    "--all TARGET": "of make_fashion_mnist.py, parsed as a command",
    "--scale small": "of paper/run.py, parsed as a command",
    "--space": "of vecaf-hf report, parsed as a command",
}


class Parsed(Exception):
    """A parser has understood its words: go no further."""


def shown() -> list[list[str]]:
    """Every command of every page, in blocks and in running text."""
    in_text = [text for page in PAGES for text in code_spans(page) if re.match(r"[\w-]+ ", text)]
    texts = [text for text in in_text if text.split()[0] in (*PARSED, *NOT_PARSED) and text not in NOT_WHOLE]
    blocks = [block for page in PAGES for block in shell_blocks(page)]
    return [words for text in (*blocks, *texts) for words in commands(text)]


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever follows the parsing of options raises `Parsed` instead; paths are as from the repository's root."""
    before = {*sys.modules}
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    parse_args: Callable[..., Any] = argparse.ArgumentParser.parse_args

    def parsed(*args: Any, **kwargs: Any) -> NoReturn:
        parse_args(*args, **kwargs)
        raise Parsed

    def built(*args: Any) -> NoReturn:
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    # A recipe's parser is another, and gives what a trainer is built from.
    monkeypatch.setattr("finetune.build_trainer", built)
    monkeypatch.setattr("vecaf_hf.cli.building.build_trainer", built)

    def compared(own: Any, defaults: Any, words: list[str], **texts: str) -> NoReturn:
        quickstart = str(ROOT / "recipes" / "configs" / "quickstart.yaml")
        # The first is the reader's file.
        parse_with(own, defaults, [quickstart if word == "mine.yaml" else word for word in words], **texts)
        raise Parsed

    monkeypatch.setattr("vecaf_hf.cli.comparison.parse_with", compared)
    yield
    # What was imported meanwhile keeps `built`, for whatever test comes next in this process.
    for name in {*sys.modules} - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(ROOT / "recipes")):
            del sys.modules[name]


def follow(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a command in this process, as its program would."""
    program, *rest = words
    if program == "vecaf-hf":
        cli.main(rest)
        return
    if program == "accelerate":
        assert rest[0] == "launch"
        launched, unknown = launch_command_parser().parse_known_args(rest[1:])
        assert not unknown
        rest = [launched.training_script, *launched.training_script_args]
    script = ROOT / rest[0]
    monkeypatch.setattr(sys, "argv", rest)
    monkeypatch.syspath_prepend(str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


@every_case("words", [one for one in shown() if one[0] in PARSED], ids=shlex.join)
def test_command_is_understood(words: list[str], stop: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Parsed):
        follow(words, monkeypatch)


def test_no_other_command_is_shown() -> None:
    programs = {words[0] for words in shown()}
    assert programs == {*PARSED, *NOT_PARSED}


def test_extras_are_there() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    asked = [extra for words in shown() if words[0] == "pip" for extra in re.findall(r"\[(\w+)\]", shlex.join(words))]
    assert asked and {*asked} <= {*setup["options.extras_require"]}


@every_case("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_in_text_are_a_recipes(page: Path) -> None:
    for text in code_spans(page):
        if text.startswith("--") and text not in NOT_OF_RECIPES:
            parse({}, ["--use_cpu", "true", *shlex.split(text)])
