"""Two processes that share a selection make the one that a single process makes, and none waits for one that fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
from own_processes import in_two_processes
from share_selection import STRATEGIES, main


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """By each of both."""
    folder = tmp_path_factory.mktemp("shared")
    in_two_processes(main, folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_two_select_what_one_does(told: list[dict[str, Any]], name: str) -> None:
    """To the last bit: figures too. A third of the samples are there twice."""
    for rank in told:
        assert rank["world"] == 2
        shared, alone = rank[name]
        assert shared == alone == told[0][name][1]


def test_a_process_may_have_nothing_to_tell(told: list[dict[str, Any]]) -> None:
    assert [rank["empty"] for rank in told] == [[0, 1, 2]] * 2


def test_one_that_fails_ends_both(told: list[dict[str, Any]]) -> None:
    assert "process 1 failed" in told[0]["fails"]
    assert "always fails" in told[1]["fails"]


def test_two_that_do_different_things_are_told(told: list[dict[str, Any]]) -> None:
    for rank in told:
        assert "different things" in rank["comes_apart"]
