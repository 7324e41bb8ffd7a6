"""A checkpoint gives back what was put in, or says why not."""

import json
import re

import pytest
import torch
from datasets import Dataset
from every_case import every_case
from safetensors.torch import load_file

from vecaf_hf.loop import LoopRecord, RunState, Stream
from vecaf_hf.loop.state import JSON_FILE, PARTS, TENSORS_FILE, VERSION, pool_fingerprint
from vecaf_hf.selection import Selection

IDENTITY = {
    "num_loops": 3,
    "world_size": 1,
    "budget": 3,
    "pool": "0123abcd",
    "strategy": "ods",
    "cea.act_on": ["a", "b"],
}


def record(loop: int) -> LoopRecord:
    counts = {0: 2, 11: 1}
    return LoopRecord(loop, 4 * loop, 3, 1, counts, None if loop == 1 else 0.1 + 0.2, 1 / 3, {"objective": -0.7})


def make_state() -> RunState:
    """Three loops; the second goes on with the first one's samples, listed in another order, under new weights."""
    generator = torch.Generator().manual_seed(0)
    first = Stream(torch.tensor([70, 3, 41]), 0)
    second = first.after(32, torch.tensor([3, 41, 70]), 1)
    third = second.after(32, torch.tensor([5, 3, 99]), 2)
    weights = [torch.rand(3, generator=generator) for _ in range(2)]
    return RunState(
        identity=IDENTITY,
        run="0123",
        step=10,
        stopped=True,
        streams=[first, second, third],
        selections=[
            Selection(torch.tensor([70, 3, 41]), weights[0], {"objective": -0.5}),
            Selection(torch.tensor([3, 41, 70]), weights[1]),
            Selection(torch.tensor([5, 3, 99])),
        ],
        records=[record(loop) for loop in range(3)],
        cost={
            "work": {"score": {"samples": 3, "flops": 1.5e12, "seconds": 0.25}},
            "forward_flops": {"full": 7.0, "96": 2.0},
        },
        skipped={"scoring": {7: "OSError: truncated", 12: "no file"}, "training": {}},
        losses=[0.1 + 0.2, 0.3],
        logged_step=9,
        selector={"scores.indices": torch.arange(5), "scores.embeddings": torch.randn(5, 3, generator=generator)},
        learner={"seen": torch.arange(4)},
        start={"weight": torch.tensor([0.1])},
        augmentation={"weight": torch.randn(4, 3, generator=generator).T, "indices": torch.arange(3)},
    )


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "checkpoint-4"
    make_state().save(folder)
    return folder


def test_round_trip(saved):
    state, loaded = make_state(), RunState.load(saved, IDENTITY)
    for stream, expected in zip(loaded.streams, state.streams, strict=True):
        assert torch.equal(stream.indices, expected.indices) and stream.indices.dtype == torch.long
        assert (stream.start, stream.offset) == (expected.start, expected.offset)
    for selection, expected in zip(loaded.selections, state.selections, strict=True):
        assert torch.equal(selection.indices, expected.indices)
        assert (selection.weights is None) == (expected.weights is None)
        assert selection.weights is None or torch.equal(selection.weights, expected.weights)
        assert selection.info == expected.info
    assert loaded.records == state.records
    for name in ("run", "step", "stopped", "cost", "skipped", "losses", "logged_step"):
        assert getattr(loaded, name) == getattr(state, name), name
    for part in PARTS:
        tensors, expected = getattr(loaded, part), getattr(state, part)
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)


@every_case("seed", range(20))
def test_weights_come_back_to_the_last_bit_however_often_they_are_saved(tmp_path, seed):
    weights = torch.rand(50, generator=torch.Generator().manual_seed(seed))
    stream = Stream(torch.arange(50), 0)
    state = RunState(IDENTITY, "a", 1, False, [stream], [Selection(torch.arange(50), weights)], [record(0)])
    expected = state.selections[0].weights
    for _ in range(3):
        state.save(tmp_path)
        state = RunState.load(tmp_path, IDENTITY)
        assert torch.equal(state.selections[0].weights, expected)


def test_an_empty_state_round_trips(tmp_path):
    RunState(IDENTITY).save(tmp_path)
    loaded = RunState.load(tmp_path, IDENTITY)
    assert loaded.streams == loaded.selections == loaded.records == []


def test_a_stream_that_goes_on_is_saved_once_and_nothing_is_pickled(saved):
    tensors = load_file(saved / TENSORS_FILE)
    assert {name for name in tensors if name.startswith("indices")} == {"indices.0", "indices.2"}
    assert {name for name in tensors if name.startswith("weights")} == {"weights.0", "weights.1"}
    assert sorted(path.name for path in saved.iterdir()) == [JSON_FILE, TENSORS_FILE]
    assert json.loads((saved / JSON_FILE).read_text())["version"] == VERSION


def test_large_selections_of_many_loops_take_little_room(tmp_path):
    """As `infobatch` makes them: three quarters of the pool, of two weights."""
    size, loops = 20_000, 5
    streams, selections = [], []
    for loop in range(loops):
        generator = torch.Generator().manual_seed(loop)
        indices = (torch.rand(size, generator=generator) < 0.75).nonzero()[:, 0]
        weights = 1 + torch.randint(2, (len(indices),), generator=generator)
        selections.append(Selection(indices, weights))
        streams.append(Stream(indices, loop))
    state = RunState(IDENTITY, "a", 1, False, streams, selections, [record(loop) for loop in range(loops)])
    state.save(tmp_path)
    # A bit for each sample of the pool and a byte for each selected one, in place of 8.
    assert (tmp_path / TENSORS_FILE).stat().st_size < loops * size * (1 / 8 + 0.77) + 2000
    loaded = RunState.load(tmp_path, IDENTITY)
    for found, expected in zip(loaded.selections, selections, strict=True):
        assert torch.equal(found.indices, expected.indices) and torch.equal(found.weights, expected.weights)


def test_another_version_of_the_format(saved):
    values = json.loads((saved / JSON_FILE).read_text())
    (saved / JSON_FILE).write_text(json.dumps(values | {"version": 99}))
    with pytest.raises(ValueError, match=f"format is 99, this version reads {VERSION}"):
        RunState.load(saved, IDENTITY)


@pytest.mark.parametrize("name", IDENTITY)
def test_whatever_differs_is_named_with_both_values(saved, name):
    with pytest.raises(ValueError, match=rf"{name} was {re.escape(str(IDENTITY[name]))} and is 77 now"):
        RunState.load(saved, IDENTITY | {name: 77})


def test_all_that_differs_is_named_at_once_and_what_one_of_both_lacks_too(saved):
    now = IDENTITY | {"budget": 9, "scoring_fraction": 0.5}
    del now["strategy"]
    says = "budget was 3 and is 9 now; scoring_fraction was not set and is 0.5 now; strategy was ods and is not set now"
    with pytest.raises(ValueError, match=says):
        RunState.load(saved, now)


# --- The pool's fingerprint ---


def pool(classes=7, **columns):
    values = [index % classes for index in range(100)]
    return Dataset.from_dict({"label": values, "text": [f"t{index}" for index in range(100)], **columns})


def test_fingerprints_tell_pools_apart():
    labels = torch.arange(100) % 7
    swapped = labels.clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    rows = list(range(100))
    found = [
        pool_fingerprint(rows, None),
        pool_fingerprint([*rows, 100], None),
        pool_fingerprint(rows, labels),
        pool_fingerprint(rows, swapped),
        pool_fingerprint(pool(), labels),
        pool_fingerprint(pool(text=["other"] * 100), labels),
        pool_fingerprint(pool().select(range(99, -1, -1)), labels),
    ]
    assert len(set(found)) == len(found)
    assert pool_fingerprint(rows, labels.int()) == pool_fingerprint(rows, labels)
    # The same on every machine: constants.
    assert pool_fingerprint([0, 1], torch.tensor([0, 1])) == "c1d772afaa241014"


def test_a_transform_or_another_place_of_the_files_makes_no_other_pool():
    def files(root, first=0):
        return [{"path": f"{root}/{first + index}.png", "bytes": None} for index in range(100)]

    here, there = pool(image=files("/a")), pool(image=files("/b"))
    loud = here.with_transform(lambda batch: 1 / 0)
    assert pool_fingerprint(here, None) == pool_fingerprint(there, None) == pool_fingerprint(loud, None)
    assert pool_fingerprint(pool(image=files("/a", first=1)), None) != pool_fingerprint(here, None)


def test_columns_named_path_and_lists_of_images():
    numbers = pool(path=list(range(100)))
    assert pool_fingerprint(numbers, None) != pool_fingerprint(pool(path=list(range(1, 101))), None)
    pages = [[[{"path": f"{root}/{index}.png", "bytes": None}] * 2 for index in range(100)] for root in ("/a", "/b")]
    assert pool_fingerprint(pool(pages=pages[0]), None) == pool_fingerprint(pool(pages=pages[1]), None)
