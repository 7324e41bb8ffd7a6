"""Samples like a condition weigh more in the selection by as much as they are worse than their classes, then less."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_conditions_of_a_run import hidden_of, images, run

from vecaf_hf import VeCAFArguments
from vecaf_hf.conditions.selecting_for import LEAST, MOST, SelectingFor
from vecaf_hf.selection.candidates import Candidates


def candidates(losses_of_condition: float) -> Candidates:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(200, 8, generator=generator)
    embeddings[:20, 3] += 6
    losses = torch.ones(200)
    losses[:20] = losses_of_condition
    return Candidates(torch.arange(200), embeddings, losses, torch.arange(200) % 2)


CAPTIONS = ["A dress, in SNOW." if index < 20 else "a dress with snowflakes" for index in range(200)]


def test_by_words_as_much_as_they_are_worse_and_less_once_they_are_better() -> None:
    wanted = SelectingFor(["in snow"], CAPTIONS, 200)
    for loss, expected in ((3.0, 3.0 / 1.2), (1.0, 1.0), (0.5, 0.5 / 0.95), (1e-6, LEAST), (1e6, MOST)):
        weighed = wanted(candidates(loss)).given("relevance")
        assert torch.allclose(weighed[:20], torch.tensor(expected).double()) and (weighed[20:] == 1).all()
        assert wanted.figures == {"select_for_0": pytest.approx(expected)}


def test_by_members_those_that_look_like_them_too() -> None:
    weighed = SelectingFor([list(range(12))], None, 200)(candidates(3.0)).given("relevance")
    assert (weighed[:12] > 1).all() and (weighed[12:20] > 1).sum() >= 3 and (weighed[20:] > 1).sum() <= 4


def test_a_run_selects_more_of_it(tmp_path: Path) -> None:
    dataset = images(0)
    hidden = torch.tensor(sorted(hidden_of(dataset)))
    counts = {}
    for name, wanted in {"none": None, "words": ["snow"], "members": [tuple(hidden[:30].tolist())]}.items():
        trainer = run(tmp_path / name, dataset, select_for=wanted, loss_weighting="uniform", class_balance=0.0)
        trainer.train()
        counts[name] = sum(int(torch.isin(one.indices, hidden).sum()) for one in trainer.selection_history)
    assert counts["words"] > counts["none"] and counts["members"] > counts["none"]
    assert trainer.loop_records[0].info["select_for_0"] > 2


def test_what_no_caption_says_or_nothing_heeds_is_refused(tmp_path: Path) -> None:
    trainer = run(tmp_path / "run", images(0), select_for=["fog"])
    with pytest.raises(ValueError, match=r"'fog', and no caption .*trainer\.conditions\(\)\[0\]\.members"):
        trainer.train()
    with pytest.raises(ValueError, match="strategy 'balanced' does not go by losses"):
        VeCAFArguments(output_dir=str(tmp_path), strategy="balanced", select_for=["snow"], use_cpu=True)
    with pytest.raises(ValueError, match="must be a list"):
        VeCAFArguments(output_dir=str(tmp_path), strategy="ods", select_for="snow", use_cpu=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not of the pool's 200"):
        SelectingFor([[200]], None, 200)


def test_a_condition_itself_is_taken_and_what_is_none_is_refused_in_a_sentence(tmp_path: Path) -> None:
    def asked(wanted: Any) -> Any:
        return VeCAFArguments(output_dir=str(tmp_path), strategy="ods", select_for=wanted, use_cpu=True).select_for

    assert asked([SimpleNamespace(members=(3, 5)), torch.tensor([1, 2]), "fog"]) == [[3, 5], [1, 2], "fog"]
    for wrong in ([3, 5], [], [[]], 3, [None]):
        with pytest.raises(ValueError, match=r"select_for is .*must be a list of words"):
            asked(wrong)
