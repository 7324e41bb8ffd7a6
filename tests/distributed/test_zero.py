"""A model whose gradients and optimizer's state DeepSpeed shares out between two processes (ZeRO-2) trains, scores,
selects, is saved and goes on as under DistributedDataParallel; started with the shipped configuration.

In float32, since DeepSpeed casts batches to its own precision. Its checkpoints hold its own pickled states."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from launching import ACCELERATE, BEST, WEIGHTED, Read, assert_goes_on, batches_of, reader, same, start, with_arguments
from own_processes import ROOT
from transformers import ViTForImageClassification

from vecaf_hf.checkpoint.files import find_damage

pytest.importorskip("deepspeed", reason='the extra "zero" is not installed')

CONFIG = ROOT / "recipes" / "configs" / "accelerate" / "zero2.yaml"
ZERO = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)),
    *("--num_processes", "2", "--main_process_port", "0"),
]
# With the variable, accelerate leaves DeepSpeed off, which finds by itself that there are only CPUs.
VARIABLES = {"DTYPE": "float32", "ACCELERATE_USE_CPU": "false"}


RUNS = [
    batches_of(6, "plain", *WEIGHTED),
    batches_of(6, "uneven", "--bad", "3", "10", "11", "--on_bad_sample", "skip"),
    with_arguments("best", correct_class_shares=True, eval_strategy="steps", eval_steps=2, **BEST),
    batches_of(6, "stale", "--rescore", "stale", "--scoring_fraction", "0.2"),
    with_arguments("adapter", "--model", "lora", **BEST),
]
NAMES = [run[1] for run in RUNS]
REFUSED = {
    "learner": (["--strategy", "learn_loss", "--selection_budget", "4"], "a strategy without a learner"),
    "twice": (["--strategy", "jtt"], "jtt_restart=False"),
    "pushed": (["--more", '{"push_to_hub": true, "hub_strategy": "checkpoint"}'], "hub_strategy='every_save'"),
    "whole": ([*WEIGHTED, "--resume", "whole"], "zero_stage was not set and is 2 now"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("zero"), tmp_path_factory.mktemp("replicated")


@pytest.fixture(scope="module")
def replicated(folders: tuple[Path, Path]) -> Read:
    return reader(folders[1], 2, start(ACCELERATE, folders[1], *RUNS, DTYPE="float32"))


@pytest.fixture(scope="module")
def zero(folders: tuple[Path, Path], replicated: Read) -> Read:
    runs = list(RUNS)
    plain, adapter = (folders[0] / name / "run" / "checkpoint-2" for name in ("plain", "adapter"))
    runs.append(batches_of(6, "plain-resumed", *WEIGHTED, "--resume", str(plain), "--model_seed", "1"))
    runs.append(with_arguments("adapter-resumed", "--model", "lora", "--resume", str(adapter), **BEST))
    others = str(folders[1] / "plain" / "run" / "checkpoint-2")
    runs.append(batches_of(6, "again", "--again"))
    for name, (options, _) in REFUSED.items():
        runs.append(batches_of(6, name, *(others if word == "whole" else word for word in options)))
    ended = start(ZERO, folders[0], *runs, **VARIABLES)
    # The last runs must fail.
    assert ended.code != 0
    return reader(folders[0], 2, ended)


@pytest.mark.parametrize("name", NAMES)
def test_it_does_what_a_replicated_one_does(zero: Read, replicated: Read, name: str) -> None:
    for part, one in zip(zero(name), replicated(name), strict=True):
        for equal in ("selections", "trained", "skipped", "work"):
            same(part[equal], one[equal])
        # Losses and norms of gradients: where they are not divided as they should be, Adam would not tell.
        torch.testing.assert_close(part["logs"], one["logs"], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(part["weights"], one["weights"], rtol=1e-3, atol=1e-4)
    assert len(zero(name)[0]["selections"]) == 2
    same(*(rank["weights"] for rank in zero(name)))


@pytest.mark.parametrize(("name", "trained"), [("plain", 4), ("adapter", 2)])
def test_it_goes_on_as_if_nothing_had_happened(zero: Read, name: str, trained: int) -> None:
    assert_goes_on(zero, name, trained)


def test_it_is_trained_a_second_time(zero: Read) -> None:
    ranks = zero("again")
    same(*(rank["weights"] for rank in ranks))
    for rank in ranks:
        assert len(rank["selections"]) == 2 and len(rank["trained"]) == 2 * 6


def test_its_checkpoint_has_an_ordinary_model(zero: Read, folders: tuple[Path, Path]) -> None:
    run = zero("plain")[0]
    model = ViTForImageClassification.from_pretrained(folders[0] / "plain" / "run" / "checkpoint-6")
    same(dict(model.state_dict()), run["weights"])


@pytest.mark.parametrize(
    "lost", ["latest", "scheduler.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"]
)
def test_a_checkpoint_that_lost_a_state_is_not_whole(zero: Read, folders: tuple[Path, Path], lost: str) -> None:
    zero("plain")
    checkpoint = folders[0] / "plain" / "run" / "checkpoint-4"
    assert find_damage(checkpoint) is None
    (path,) = checkpoint.rglob(lost)
    content = path.read_bytes()
    path.unlink()
    assert find_damage(checkpoint) == f"it has no {path.relative_to(checkpoint)}"
    path.write_bytes(content)


def test_stage_1_in_half_precision_goes_on_too(tmp_path: Path) -> None:
    how = (*WEIGHTED, "--more", '{"bf16": true}')
    resumed = (*how, "--resume", str(tmp_path / "half" / "run" / "checkpoint-2"), "--model_seed", "1")
    launcher = [*ZERO, "--mixed_precision", "bf16", "--zero_stage", "1"]
    ended = start(launcher, tmp_path, batches_of(6, "half", *how), batches_of(6, "half-resumed", *resumed), **VARIABLES)
    read = reader(tmp_path, 2, ended)
    for resumed_rank, whole in zip(read("half-resumed"), read("half"), strict=True):
        for part in ("weights", "selections", "logs"):
            same(resumed_rank[part], whole[part])


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_refused_says_why(zero: Read, name: str) -> None:
    for error in zero(name, failed=True):
        assert error.startswith("ValueError") and REFUSED[name][1] in error
