"""How a command ends: its exit code, and what stands on stderr."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from every_case import every_case

from vecaf_hf.cli import terminal
from vecaf_hf.cli.resume_command import resuming, shortened
from vecaf_hf.cli.terminal import TRACEBACK, Interrupted, UsageError, run_in_terminal
from vecaf_hf.validation import check_positive

ROOT = Path(__file__).parents[1]


def raises(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (lambda: None, 0, ""),
        (raises(UsageError("no option")), 2, "it: no option\n"),
        (lambda: check_positive("temperature", -1), 1, "it: temperature is -1; it must be positive and finite\n"),
        (lambda: Path("/no/such").read_text(), 1, "it: /no/such: No such file or directory\n"),
        (raises(ConnectionError("no\n  answer\x1b[0m")), 1, "it: no answer\\x1b[0m\n"),
        (raises(ImportError("pip install it")), 1, "it: pip install it\n"),
        (raises(Interrupted("stopped", 15)), 143, "it: stopped\n"),
        (raises(KeyboardInterrupt()), 130, "it: interrupted\n"),
    ],
)
def test_what_can_be_mended_is_told(command, code, says, capsys):
    assert run_in_terminal("it", command) == code
    assert capsys.readouterr() == ("", says)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (lambda: json.loads("{"), ValueError),
        (raises(TypeError("a bug")), TypeError),
        (raises(RuntimeError("a bug")), RuntimeError),
        (lambda: __import__("no_such_module"), ModuleNotFoundError),
    ],
)
def test_a_bug_comes_through(command, error, capsys):
    with pytest.raises(error):
        run_in_terminal("it", command)
    assert capsys.readouterr() == ("", "")


def test_the_environment_asks_for_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv(TRACEBACK, "1")
    assert run_in_terminal("it", raises(OSError("a disk"))) == 1
    assert re.search(r"Traceback(.|\n)*OSError: a disk\nit: a disk\n$", capsys.readouterr().err)


def test_another_process_speaks_only_if_the_launcher_lets_it_live(capsys, monkeypatch):
    waits = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(terminal.time, "sleep", waits.append)
    assert run_in_terminal("it", raises(OSError("its disk"))) == 1
    assert waits == [terminal.PATIENCE] and capsys.readouterr().err == "it: its disk\n"
    # What all agree on, the main one says.
    assert run_in_terminal("it", raises(Interrupted("stopped", 15))) == 143
    assert capsys.readouterr().err == ""


def test_two_processes_tell_it_once(tmp_path):
    says = "imagenet.py: cannot load the dataset '/no/such'"
    environment = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = ["recipes/imagenet.py", "--use_cpu", "true", "--report_to", "none", "--dataset_name", "/no/such"]
    done = subprocess.run(
        [*launcher, *words], env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.stderr.count(says) == 1, done.stderr[-4000:]
    assert re.search(r"exitcode *: 1 ", done.stderr)
    assert "finetune.py" not in done.stderr


# --- The command that takes a run up again ---


@every_case(
    ("words", "expected"),
    [
        (["run.py", "--seed", "1"], ["run.py", "--seed", "1"]),
        (["run.py", "--resume_from_checkpoint", "true", "--seed", "1"], ["run.py", "--seed", "1"]),
        (["run.py", "--seed", "1", "--resume-from-checkpoint=a-b"], ["run.py", "--seed", "1"]),
        (["run.py", "--resume_from_checkpoint", "--seed", "1"], ["run.py", "--seed", "1"]),
    ],
)
def test_it_asks_once_to_go_on(words, expected):
    assert resuming(words) == [*expected, "--resume_from_checkpoint", "true"]


def test_programs_on_the_path_go_by_their_names(tmp_path, monkeypatch):
    for name in ("python", "accelerate"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    python, accelerate = str(tmp_path / "python"), str(tmp_path / "accelerate")
    assert shortened([python, accelerate, "launch", "a.py"]) == ["accelerate", "launch", "a.py"]
    assert shortened([python, "a.py", python]) == ["python", "a.py", python]
    assert shortened(["/elsewhere/python", "a.py"]) == ["/elsewhere/python", "a.py"]
    assert shortened([python]) == ["python"]
