"""Captions of few samples, several for one image, and missing as pandas has them: it trains with what there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer
from vecaf_hf.text.captions import caption_table, drawn, find_captions
from vecaf_hf.text.domains import Domains

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
FIVE = ("a shoe", "footwear", "a boot", "something to wear", "a thing")


@pytest.mark.parametrize("strategy", ["random", "ods"])
def test_a_loop_without_captions_trains_as_it_is(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder, strategy: str
) -> None:
    captions = [None] * 119 + ["a shoe"]
    sampled = {"rescore": "sampled", "scoring_fraction": 0.1} if strategy == "ods" else {}
    options: dict[str, Any] = {"strategy": strategy, "selection_budget": 4, "max_steps": 6, "num_loops": 6, **sampled}
    with_cea = make_trainer(make_vit(), [CEACallback(text_encoder, captions)], **options)
    with_cea.train()
    without = [119 not in selection.indices for selection in with_cea.selection_history]
    assert any(without)
    if all(without):
        plain = make_trainer(make_vit(), **options)
        plain.train()
        for name, values in plain.model.state_dict().items():
            assert torch.equal(values, with_cea.model.state_dict()[name]), name


def test_each_loop_draws_one_of_several_captions_and_all_are_encoded(text_encoder: TextEncoder) -> None:
    captions = find_captions([list(FIVE), "a coat", None], Dataset.from_dict({"a": [0, 1, 2]}), None, [])
    table = caption_table(captions, None, text_encoder, loops=40, seed=3)
    assert len(table.plain) == 6
    rows = torch.stack([table.texts(False, loop)[1] for loop in range(40)])
    assert rows[:, 0].unique().tolist() == [0, 1, 2, 3, 4]
    assert rows[:, 1].unique().tolist() == [5] and rows[:, 2].unique().tolist() == [-1]
    assert drawn(captions, 40, 3) == drawn(captions, 40, 3) != drawn(captions, 40, 4)
    domains = Domains.deal(["It snows.", "It rains."], 3, 40, 3)
    prompted = caption_table(captions, domains, text_encoder, loops=40, seed=3)
    texts, of_loop = prompted.texts(True, 7)
    chosen = (FIVE[int(rows[7, 0])], domains.prompts[int(domains.in_loop(7)[0])])
    expected = text_encoder.encode([f"{chosen[0]}. {chosen[1]}"])[0]
    assert torch.nn.functional.cosine_similarity(texts[of_loop[0]], expected, dim=0) > 0.9999


def test_a_run_with_several_captions_resumes_to_the_same(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, text_encoder: TextEncoder, tmp_path: Path
) -> None:
    captions = [list(FIVE) for _ in range(len(train))]

    def run(name: str, resume: str | bool = False) -> dict[str, torch.Tensor]:
        saving = {"save_strategy": "steps", "save_steps": 3, "output_dir": str(tmp_path / name), "num_loops": 4}
        trainer = make_trainer(make_vit(), [CEACallback(text_encoder, captions)], strategy="random", **saving)
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    whole = run("whole")
    resumed = run("resumed", str(tmp_path / "whole" / "checkpoint-3"))
    assert all(torch.equal(values, resumed[name]) for name, values in whole.items())


def test_what_pandas_has_for_a_missing_caption_is_none() -> None:
    pool = Dataset.from_dict({"a": list(range(5))})
    column = pandas.Series(["a cat", float("nan"), None, np.nan, "  "])
    assert find_captions(column, pool, None, []) == ["a cat", None, None, None, None]
    assert find_captions([["a", " "], [None, float("nan")], [], np.array(["b", "c"]), "d"], pool, None, []) == [
        "a",
        None,
        None,
        ("b", "c"),
        "d",
    ]
    with pytest.raises(ValueError, match=r"caption of sample 1 is a float, not text: 0\.5"):
        find_captions(["a", 0.5, "c", "d", "e"], pool, None, [])
