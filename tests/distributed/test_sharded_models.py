"""A model that FSDP2 shares out between two processes trains, scores, selects, is saved and goes on as one that each of
them has whole; started with the shipped configuration."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from launching import ACCELERATE, BEST, WEIGHTED, Read, assert_goes_on, batches_of, reader, same, start, with_arguments
from own_processes import ROOT
from train_two_loops import IMAGES, POOL, scored_alone, to_pixels
from transformers import ViTForImageClassification
from transformers.trainer_utils import HubStrategy

from vecaf_hf.hub.files import checkpoint_in

CONFIG = ROOT / "recipes" / "configs" / "accelerate" / "fsdp2.yaml"
FSDP = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)),
    *("--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"),
]


# Each reads or writes the model in a way of its own.
RUNS = [
    batches_of(6, "plain", *WEIGHTED),
    # Of a batch of one, a process may have nothing to score.
    with_arguments("uneven", "--bad", "3", "10", "11", "--on_bad_sample", "skip", scoring_batch_size=1),
    with_arguments("corrected", correct_class_shares=True, eval_strategy="steps", eval_steps=2, **BEST),
    with_arguments("twice", "--strategy", "jtt", jtt_restart=True),
    batches_of(6, "proxy", "--rescore", "proxy"),
    batches_of(6, "head", "--strategy", "alfa_mix"),
    with_arguments("adapter", "--model", "lora", **BEST),
]
REFUSED = {
    "learner": (["--strategy", "learn_loss", "--selection_budget", "4"], "a strategy without a learner"),
    "whole": (["--resume", "whole"], "fsdp was not set and is True now"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("sharded"), tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(folders: tuple[Path, Path]) -> Read:
    cache = with_arguments("kept", score_cache=str(folders[1] / "scores"))
    return reader(folders[1], 2, start(ACCELERATE, folders[1], *RUNS, cache))


@pytest.fixture(scope="module")
def sharded(folders: tuple[Path, Path], whole: Read) -> Read:
    plain, adapter = (folders[0] / name / "run" / "checkpoint-2" for name in ("plain", "adapter"))
    others = folders[1] / "plain" / "run" / "checkpoint-2"
    runs = [
        *RUNS,
        with_arguments("kept", score_cache=str(folders[0] / "scores")),
        batches_of(6, "plain-resumed", *WEIGHTED, "--resume", str(plain), "--model_seed", "1"),
        with_arguments("adapter-resumed", "--model", "lora", "--resume", str(adapter), **BEST),
    ]
    for name, (options, _) in REFUSED.items():
        given = [str(others) if word == "whole" else word for word in options]
        runs.append(batches_of(6, name, *(WEIGHTED if name == "whole" else []), *given))
    ended = start(FSDP, folders[0], *runs)
    # The last runs must fail.
    assert ended.code != 0
    return reader(folders[0], 2, ended)


@pytest.mark.parametrize("name", ["plain", "uneven", "corrected", "twice", "proxy", "head", "adapter", "kept"])
def test_it_does_what_a_whole_one_does(sharded: Read, whole: Read, name: str) -> None:
    for part, one in zip(sharded(name), whole(name), strict=True):
        assert part["sharded"] and not one["sharded"]
        for equal in ("selections", "trained", "skipped", "work"):
            same(part[equal], one[equal])
        for close in ("weights", "aligner", "rescored", "scored_alone"):
            torch.testing.assert_close(part[close], one[close], rtol=1e-6, atol=1e-9)
    assert len(sharded(name)[0]["selections"]) == 2
    same(*(rank["weights"] for rank in sharded(name)))


@pytest.mark.parametrize(("name", "trained"), [("plain", 4), ("adapter", 2)])
def test_it_goes_on_as_if_nothing_had_happened(sharded: Read, name: str, trained: int) -> None:
    assert_goes_on(sharded, name, trained)


def test_its_checkpoint_is_an_ordinary_one(sharded: Read, folders: tuple[Path, Path]) -> None:
    checkpoint = folders[0] / "plain" / "run" / "checkpoint-6"
    model = ViTForImageClassification.from_pretrained(checkpoint)
    run = sharded("plain")[0]
    same(dict(model.state_dict()), run["weights"])
    images = Dataset.from_parquet(str(IMAGES), cache_dir=str(folders[0] / "datasets"))
    pool = images.shuffle(seed=0).select(range(POOL)).with_transform(to_pixels)
    torch.testing.assert_close(scored_alone(model, pool), run["scored_alone"])


def test_a_push_of_its_checkpoint_has_all_to_go_on_from(sharded: Read, folders: tuple[Path, Path]) -> None:
    sharded("plain")
    checkpoint = folders[0] / "plain" / "run" / "checkpoint-6"
    pushed = {place.rpartition("/")[2] for place in checkpoint_in(checkpoint, HubStrategy.CHECKPOINT)}
    assert {"model.safetensors", "optimizer.bin"} <= pushed == {path.name for path in checkpoint.iterdir()}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_refused_says_why(sharded: Read, name: str) -> None:
    for error in sharded(name, failed=True):
        assert error.startswith("ValueError") and REFUSED[name][1] in error
