"""Domain prompts in whole runs: several of them, towards what they may pull, whom affinity selects, resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from every_case import every_case
from resumed_runs import assert_same_run
from torch import Tensor

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer
from vecaf_hf.augmentation.running import RunningCEA
from vecaf_hf.cli.options import UsageError, parse
from vecaf_hf.inspection.look import look
from vecaf_hf.selection.candidates import Candidates

Make = Callable[..., Any]

PROMPTS = ["It's a snowy day.", "It's a foggy day."]
SAVED = {"save_strategy": "steps", "save_steps": 2}
# Every eighth image is said to be of the domain.
EVERY = 8


@pytest.fixture
def captions(train: Dataset) -> list[str]:
    """Five captions and words of the domain."""
    domain = ", deep in white snow on a cold winter day"
    return [f"a picture of thing {index % 5}" + domain * (index % EVERY == 0) for index in range(len(train))]


@pytest.fixture
def make_run(make_trainer: Make, make_vit: Make, text_encoder: TextEncoder, captions: list[str]) -> Make:
    def make(cea: dict[str, Any], seed: int = 0, **options: Any) -> VeCAFTrainer:
        return make_trainer(make_vit(seed), [CEACallback(text_encoder, captions, **cea)], **options)

    return make


# --- Several prompts ---


@pytest.mark.parametrize(
    ("toward", "strategy"),
    [
        ("caption", "ods"),
        ("difference", "balanced"),
        ("random", "ods"),
        ("learned_difference", "ods"),
        ("learned_difference", "balanced"),
    ],
)
def test_a_run_with_several_prompts_goes_on_to_the_same_end(
    make_run: Make, tmp_path: Path, toward: str, strategy: str
) -> None:
    options = {"strategy": strategy, **SAVED}
    cea = {"domain_prompt": PROMPTS, "toward": toward, "step_size": 0.3, "domain_affinity": 0.2}
    whole = make_run(cea, **options)
    whole.train()
    assert all(record.info["cea_relative_shift"] > 0 for record in whole.loop_records)
    # In the first loop, and in the second one.
    for step in (2, 6):
        resumed = make_run(cea, seed=1, output_dir=str(tmp_path / f"from-{step}"), **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
        assert_same_run(whole, resumed)
        state = resumed.cea.running.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in whole.cea.running.state_dict().items())
        ends = [trainer.meter.work["auxiliary"] for trainer in (whole, resumed)]
        assert (ends[0].samples, ends[0].flops) == (ends[1].samples, ends[1].flops)
        assert (ends[0].samples > 0) is (toward == "learned_difference")


def test_another_loop_has_other_domains(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    begin = RunningCEA.begin_loop

    def watched(self: RunningCEA, selected: Candidates, refit: bool) -> dict[str, float]:
        figures = begin(self, selected, refit)
        domains = torch.full((120,), -1)
        domains[selected.indices] = self.held.domains
        seen.append(domains)
        return figures

    monkeypatch.setattr(RunningCEA, "begin_loop", watched)
    make_run({"domain_prompt": PROMPTS}, strategy="full").train()
    first, second = seen
    assert torch.equal(first, 1 - second)
    assert int(first.sum()) == 60


def test_a_resumed_run_must_have_the_same_prompts(make_run: Make) -> None:
    make_run({"domain_prompt": PROMPTS}, **SAVED).train()
    with pytest.raises(ValueError, match=r"cea.domain_prompt was \[.*snowy.*foggy.*\] and is \[.*snowy day.\"\] now"):
        make_run({"domain_prompt": PROMPTS[0]}, **SAVED).train(resume_from_checkpoint=True)


# --- Affinity ---


@pytest.mark.parametrize("allocation", ["class", "global"])
@pytest.mark.parametrize("affinity_by", ["caption", "image"])
def test_affinity_changes_what_ods_selects(make_run: Make, watch: Make, allocation: str, affinity_by: str) -> None:
    """In which direction, tests/selection/test_relevance.py says: an untrained model's embeddings are all alike."""
    candidates: list[Candidates] = []
    watch("ods", candidates.append)
    chosen = []
    for affinity in ({}, {"domain_affinity": 0.001, "affinity_by": affinity_by}):
        cea = {"domain_prompt": PROMPTS, "act_on": ["training"], **affinity}
        trainer = make_run(cea, num_loops=1, allocation=allocation)
        trainer.train()
        chosen.append(set(trainer.selection.indices.tolist()))
    assert candidates[0].relevance is None
    assert candidates[1].relevance is not None and float(candidates[1].relevance.std()) > 0.1
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize("strategy", ["random", "balanced"])
def test_what_scores_nothing_is_drawn_by_its_captions(make_run: Make, strategy: str) -> None:
    scored = []
    for affinity in (None, 0.05):
        trainer = make_run({"domain_prompt": PROMPTS[0], "domain_affinity": affinity}, strategy=strategy)
        trainer.train()
        of_domain = [float((one.indices % EVERY == 0).float().mean()) for one in trainer.selection_history]
        scored.append(trainer.meter.work["score"].samples)
        assert min(of_domain) > 0.4 if affinity else max(of_domain) < 0.4
        assert len(of_domain) == 2
    assert scored[0] == scored[1]
    assert not torch.equal(*(selection.indices for selection in trainer.selection_history))


def test_a_look_before_the_run_shows_its_first_selection(make_run: Make) -> None:
    cea = {"domain_prompt": PROMPTS, "domain_affinity": 0.05}
    trainer = make_run(cea, strategy="balanced")
    looked = look(trainer, None).selection.indices
    trainer.train()
    assert torch.equal(looked, trainer.selection_history[0].indices)


# --- Of a recipe ---


WORDS = ["--use_cpu", "true", "--report_to", "none"]


@every_case(
    ("given", "expected"),
    [
        (["--domain_prompt", *PROMPTS], PROMPTS),
        (["--domain_prompt", *PROMPTS, "--toward", "random"], PROMPTS),
        (["--domain-prompt", PROMPTS[0]], PROMPTS[:1]),
        ([f"--domain_prompt={PROMPTS[0]}"], PROMPTS[:1]),
        ([], None),
    ],
)
def test_prompts_on_a_command_line(given: list[str], expected: list[str] | None) -> None:
    assert parse({}, [*WORDS, *given])[1].domain_prompt == expected


@pytest.mark.parametrize("given", [PROMPTS, PROMPTS[0]])
def test_prompts_in_a_file(tmp_path: Path, given: str | list[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"domain_prompt": given, "toward": "learned_difference"}))
    cea = parse({}, [*WORDS, "--config", str(config)])[1]
    assert cea.domain_prompt == (PROMPTS if isinstance(given, list) else PROMPTS[:1])
    assert cea.toward == "learned_difference"
    over = parse({}, [*WORDS, "--config", str(config), "--domain_prompt", "It is night."])[1]
    assert over.domain_prompt == ["It is night."]


def test_a_sentence_without_quotes_is_no_list_of_prompts() -> None:
    with pytest.raises(UsageError, match=r"domain_prompt has 4 prompts, and .* is a single word: put each sentence in"):
        parse({}, [*WORDS, "--domain_prompt", "It's", "a", "snowy", "day."])
