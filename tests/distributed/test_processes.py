"""Two and three processes (gloo, on the CPU) do what one does: sizes that they cannot share evenly, and every way in
which accelerate can share a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from launching import CONFIGS, LEARNING, OTHERS_CHECKPOINT, RESCORED, Read, same

# Of all that is logged, what is a mean over samples or steps and so the same however they are shared.
MEANS = ("loss", "grad_norm", "eval_cross_entropy", "eval_samples", "vecaf/pool_loss", "vecaf/selected_loss")


def means(run: dict[str, Any]) -> list[dict[str, float]]:
    return [{name: log[name] for name in MEANS if name in log} for log in run["logs"]]


def samples(ranks: list[dict[str, Any]]) -> list[list[int]]:
    """Whom all processes together trained on, micro-batch by micro-batch."""
    return [
        sorted(index for part in parts for index in part)
        for parts in zip(*(rank["trained"] for rank in ranks), strict=True)
    ]


def assert_as_one(ranks: list[dict[str, Any]], one: dict[str, Any]) -> None:
    for number, rank in enumerate(ranks):
        assert rank["world"] == len(ranks)
        torch.testing.assert_close(rank["scores"], one["scores"], rtol=1e-5, atol=1e-5)
        same(rank["selections"], one["selections"])
        assert rank["skipped"] == one["skipped"]
        assert rank["figures"] == ranks[0]["figures"]
        same(
            [rank["scores"], rank["aligner"], rank["weights"]],
            [ranks[0][of] for of in ("scores", "aligner", "weights")],
        )
        # Process 0 alone keeps the log of the training loss.
        if number == 0:
            assert means(rank) == [pytest.approx(log, rel=1e-3, abs=1e-4) for log in means(one)]
    assert len(one["selections"]) == 2
    assert samples(ranks) == samples([one])


# --- Sizes that cannot be shared evenly ---


@pytest.mark.parametrize("name", ["plain", "broken", *RESCORED])
def test_two_do_what_one_does(two: Read, alone: Read, name: str) -> None:
    """61 samples to score and evaluate, 20 at once; then without three that cannot be loaded."""
    (one,) = alone(name)
    assert_as_one(two(name), one)
    assert one["skipped"] == ([3, 10, 11] if name == "broken" else [])


def test_embeddings_stay_where_they_were_made(two: Read, three: Read, alone: Read) -> None:
    """Moved by CEA there, or looked at by a probe. Those of mixed age are in all processes."""
    assert [rank["held"] for rank in alone("plain")] == [[61, 61]]
    assert [rank["held"] for rank in two("plain")] == [[31, 31], [30, 30]]
    assert [rank["held"] for rank in two("proxy")] == [[31, 31], [30, 30]]
    assert [rank["held"] for rank in two("half")] == [[31, 31], [30, 30]]
    assert [rank["held"] for rank in two("stale")] == [[61, 61]] * 2
    # Of 7 and of 2 samples, which blocks of 3 and of 1 hold.
    assert [rank["held"] for rank in three("small")] == [[3, 3], [3, 3], [1, 1]]


def test_two_go_on_with_what_a_probe_goes_by(two: Read) -> None:
    """Each with its share of the embeddings, out of the main process's checkpoint."""
    for resumed, whole in zip(two("proxy-resumed"), two("proxy"), strict=True):
        assert resumed["held"] == whole["held"][1:]
        for part in ("weights", "selections"):
            same(resumed[part], whole[part])


def test_two_do_on_a_stream_what_one_does_in_memory(two: Read, alone: Read, folder_of_two: Path) -> None:
    (one,) = alone("plain")
    assert_as_one(two("streamed"), one)
    # Beside the shards of what was scored after the run.
    assert len(list((folder_of_two / "streamed" / "streamed").rglob("kept.arrow"))) == 1


@pytest.mark.parametrize("name", ["plain", "broken", "small", "tiny"])
def test_three_do_what_one_does(three: Read, alone: Read, name: str) -> None:
    """Also a pool of 7, scored 2 at once; and candidate sets of 2, where one of the three has none of its own."""
    (one,) = alone(name)
    assert_as_one(three(name), one)
    scored = {"small": [5, 2], "broken": [index for index in range(61) if index not in (3, 10, 11)]}
    if name in scored:
        assert one["scores"]["indices"].tolist() == scored[name]


def test_a_process_may_load_none_of_its_samples(three: Read, alone: Read) -> None:
    """Of three to score, that of process 1 cannot be loaded."""
    (one,) = alone("gap")
    assert one["scores"]["indices"].tolist() == [0, 6]
    assert_as_one(three("gap"), one)


@pytest.mark.parametrize("processes", ["two", "three"])
def test_an_evaluation_is_that_of_one_process(processes: str, alone: Read, request: pytest.FixtureRequest) -> None:
    (one,) = alone("evaluated")
    assert one["before"]["eval_samples"] == 61
    for rank in request.getfixturevalue(processes)("evaluated"):
        for figure in ("eval_cross_entropy", "eval_samples"):
            assert rank["before"][figure] == pytest.approx(one["before"][figure], abs=1e-5)


def test_an_evaluation_before_the_training_changes_nothing(two: Read) -> None:
    """Trainer's would leave the model without DistributedDataParallel, and every process with a model of its own."""
    for before, plain in zip(two("evaluated"), two("plain"), strict=True):
        for part in ("weights", "selections", "logs", "trained"):
            same(before[part], plain[part])


def test_two_pass_over_the_selection_together(two: Read) -> None:
    both = two("plain")
    for loop, selection in enumerate(both[0]["selections"]):
        batches = range(6 * loop, 6 * loop + 6)
        trained = [index for batch in batches for rank in both for index in rank["trained"][batch]]
        chosen = selection.tolist()
        assert len(trained) == 72
        for first in range(0, 72, len(chosen)):
            turn = trained[first : first + len(chosen)]
            assert len(set(turn)) == len(turn)
            assert set(turn) <= set(chosen)


def test_batchnorm_and_the_alignment_agree(two: Read) -> None:
    """Each process has statistics of its own: all score with those of process 0."""
    one, other = two("batchnorm")
    for rank in (one, other):
        torch.testing.assert_close(rank["rescored"], one["scored_alone"].float(), rtol=1e-5, atol=1e-5)
    assert len(one["selections"]) == 2
    same(one["selections"], other["selections"])
    assert one["figures"] == other["figures"]
    same(one["aligner"], other["aligner"])
    trained = {name for name in one["weights"] if "running" not in name}
    same({name: one["weights"][name] for name in trained}, {name: other["weights"][name] for name in trained})


# --- Strategies that learn ---


@pytest.mark.parametrize("name", LEARNING)
def test_two_learn_the_same(two: Read, name: str) -> None:
    """From different samples. Statistics of BatchNorm too, since all have scored with those of process 0."""
    one, other = two(name)
    assert len(one["selections"]) == 2
    assert one["trained"] != other["trained"]
    same(one["selections"], other["selections"])
    same(one["weights"], other["weights"])
    assert one["learned"]
    same(one["learned"], other["learned"])
    assert one["figures"] == other["figures"]


@pytest.mark.parametrize("name", LEARNING)
def test_two_go_on_learning(two: Read, name: str) -> None:
    """After 2 of 6 steps; the second selection is then made by what a checkpoint of process 0 has of both."""
    for resumed, whole in zip(two(f"{name}-resumed"), two(name), strict=True):
        for part in ("weights", "selections", "learned"):
            same(resumed[part], whole[part])
        assert resumed["trained"] == whole["trained"][4:]
        assert resumed["work"]["auxiliary"] == whole["work"]["auxiliary"]


# --- How accelerate shares a batch ---


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_way_to_share_a_batch_trains_on_the_same(two: Read, alone: Read, name: str) -> None:
    (one,) = alone("plain")
    assert_as_one(two(name), one)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_way_to_share_a_batch_resumes(two: Read, name: str) -> None:
    """After 2 of 6 steps, in the middle of the first loop."""
    for resumed, whole in zip(two(f"{name}-resumed"), two(name), strict=True):
        for part in ("weights", "aligner", "selections"):
            same(resumed[part], whole[part])
        assert resumed["trained"] == whole["trained"][4:]


# --- Another number of processes ---


@pytest.mark.parametrize(("processes", "now"), [("alone", 1), ("three", 3)])
def test_resuming_with_another_number_of_processes_is_refused(
    processes: str, now: int, request: pytest.FixtureRequest
) -> None:
    for error in request.getfixturevalue(processes)(OTHERS_CHECKPOINT, failed=True):
        assert error.startswith("ValueError")
        assert "cannot resume" in error
        assert f"world_size was 2 and is {now} now" in error
