"""The shipped configuration for two nodes, here with a process on each of two "nodes" of this machine: they train what
one node with two processes does; one that dies takes the other down, and both resume."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launching import SCRIPT, TIMEOUT, WEIGHTED, Ended, batches_of, outcomes, same, start, started_in, torchrun
from own_processes import ROOT, environment

CONFIG = ROOT / "recipes" / "configs" / "accelerate" / "two_nodes.yaml"


def node(rank: int, port: int) -> list[str]:
    """Of the shipped file only what is this machine's own is given anew."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)]
    return [
        *launcher,
        *("--num_processes", "2", "--machine_rank", str(rank), "--main_process_ip", "127.0.0.1"),
        *("--main_process_port", str(port), "--mixed_precision", "no"),
    ]


def on_two_nodes(folder: Path, *runs: list[str]) -> Ended:
    """These runs, one after another, on both. A node's code that is not 0 is the code of all."""
    folder.mkdir(exist_ok=True)
    words = [word for options in runs for word in ("+", *options)][1:]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [folder / f"node{rank}.txt" for rank in range(2)]
    nodes = [
        subprocess.Popen(
            [*node(rank, port), str(SCRIPT), str(folder), *words],
            env=environment(folder),
            stdout=file.open("w"),
            stderr=subprocess.STDOUT,
        )
        for rank, file in enumerate(files)
    ]
    try:
        codes = [one.wait(TIMEOUT) for one in nodes]
    finally:
        left_over = started_in(folder)
        for process in left_over:
            process.kill()
    output = "\n".join(file.read_text() for file in files)
    assert not left_over, output[-8000:]
    return Ended(max(map(abs, codes)) if all(codes) or not any(codes) else -1, output, 0.0)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What both processes of each run wrote, and how the one ended whose second node died."""
    folder = tmp_path_factory.mktemp("nodes")
    died = on_two_nodes(folder, batches_of(6, "whole", *WEIGHTED), batches_of(6, "died", *WEIGHTED, "--dies", "step:2"))
    whole = outcomes(folder / "whole", 2, died)
    for error in folder.glob("died/error*.txt"):
        error.unlink()
    again = on_two_nodes(folder, batches_of(6, "died", *WEIGHTED, "--resume", "last", "--model_seed", "1"))
    one_node = start(torchrun(2), folder, batches_of(6, "one-node", *WEIGHTED))
    return {
        "died": died,
        "whole": whole,
        "resumed": outcomes(folder / "died", 2, again),
        "one node": outcomes(folder / "one-node", 2, one_node),
    }


def test_two_nodes_train_what_one_does(ended: dict[str, Any]) -> None:
    for on_two, on_one in zip(ended["whole"], ended["one node"], strict=True):
        assert on_two["world"] == 2
        for part in ("weights", "selections", "scores", "trained"):
            same(on_two[part], on_one[part])


def test_a_node_that_dies_takes_the_other_down(ended: dict[str, Any]) -> None:
    """That none is left over is checked at every start; -1 would be the code of one that went on."""
    assert ended["died"].code > 0
    assert "SIGKILL" in ended["died"].output


def test_both_resume_to_the_run_that_nothing_happened_to(ended: dict[str, Any]) -> None:
    for resumed, whole in zip(ended["resumed"], ended["whole"], strict=True):
        for part in ("weights", "selections"):
            same(resumed[part], whole[part])
        assert resumed["trained"] == whole["trained"][4:]
