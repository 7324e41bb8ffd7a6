"""A checkpoint gives back what was put in, or says why not."""

import json

import pytest
import torch
from safetensors.torch import load_file

from vecaf_hf.loop import LoopRecord, LoopSchedule, RunState, Stream
from vecaf_hf.loop.state import JSON_FILE, TENSORS_FILE, VERSION, pool_fingerprint
from vecaf_hf.selection import Selection

SCHEDULE = LoopSchedule(
    total_updates=12,
    updates_per_loop=4,
    samples_per_update=8,
    batch_size=4,
    gradient_accumulation_steps=2,
    world_size=1,
    pool_size=100,
    budget=3,
    seed=0,
)
POOL = pool_fingerprint(100, torch.arange(100) % 7)


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
        schedule=SCHEDULE,
        pool=POOL,
        streams=[first, second, third],
        selections=[
            Selection(torch.tensor([70, 3, 41]), weights[0], {"objective": -0.5}),
            Selection(torch.tensor([3, 41, 70]), weights[1]),
            Selection(torch.tensor([5, 3, 99])),
        ],
        records=[record(loop) for loop in range(3)],
        cost={"work": {"score": {"samples": 3, "flops": 1.5e12, "seconds": 0.25}}, "forward_flops": 7.0},
        augmentation={"weight": torch.randn(4, 3, generator=generator).T, "indices": torch.arange(3)},
    )


def weight_of(selection: Selection) -> dict[int, float] | None:
    if selection.weights is None:
        return None
    return dict(zip(selection.indices.tolist(), selection.weights.tolist(), strict=True))


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "checkpoint-4"
    make_state().save(folder)
    return folder


def test_round_trip(saved):
    state, loaded = make_state(), RunState.load(saved, SCHEDULE, POOL)
    for stream, expected in zip(loaded.streams, state.streams, strict=True):
        assert torch.equal(stream.indices, expected.indices) and stream.indices.dtype == torch.long
        assert (stream.start, stream.offset) == (expected.start, expected.offset)
    for selection, expected in zip(loaded.selections, state.selections, strict=True):
        assert set(selection.indices.tolist()) == set(expected.indices.tolist())
        assert weight_of(selection) == weight_of(expected)
        assert selection.info == expected.info
    assert loaded.records == state.records
    assert loaded.cost == state.cost
    assert (loaded.schedule, loaded.pool) == (SCHEDULE, POOL)
    assert loaded.augmentation.keys() == state.augmentation.keys()
    for name, tensor in state.augmentation.items():
        assert torch.equal(loaded.augmentation[name], tensor)


@pytest.mark.parametrize("seed", range(20))
def test_weights_come_back_to_the_last_bit_however_often_they_are_saved(tmp_path, seed):
    weights = torch.rand(50, generator=torch.Generator().manual_seed(seed))
    stream = Stream(torch.arange(50), 0)
    state = RunState(SCHEDULE, POOL, [stream], [Selection(torch.arange(50), weights)], [record(0)])
    expected = state.selections[0].weights
    for _ in range(3):
        state.save(tmp_path)
        state = RunState.load(tmp_path, SCHEDULE, POOL)
        assert torch.equal(state.selections[0].weights, expected)


def test_an_empty_state_round_trips(tmp_path):
    RunState(SCHEDULE, POOL).save(tmp_path)
    loaded = RunState.load(tmp_path, SCHEDULE, POOL)
    assert loaded.streams == loaded.selections == loaded.records == []


def test_a_stream_that_goes_on_is_saved_once_and_nothing_is_pickled(saved):
    tensors = load_file(saved / TENSORS_FILE)
    assert {name for name in tensors if name.startswith("indices")} == {"indices.0", "indices.2"}
    assert {name for name in tensors if name.startswith("weights")} == {"weights.0", "weights.1"}
    assert sorted(path.name for path in saved.iterdir()) == [JSON_FILE, TENSORS_FILE]
    assert json.loads((saved / JSON_FILE).read_text())["version"] == VERSION


@pytest.mark.parametrize("missing", [JSON_FILE, TENSORS_FILE])
def test_a_checkpoint_of_another_trainer(saved, missing):
    (saved / missing).unlink()
    with pytest.raises(ValueError, match=f"cannot resume from .*{saved.name}: .*not written by VeCAFTrainer"):
        RunState.load(saved, SCHEDULE, POOL)


def test_another_version_of_the_format(saved):
    values = json.loads((saved / JSON_FILE).read_text())
    (saved / JSON_FILE).write_text(json.dumps(values | {"version": 99}))
    with pytest.raises(ValueError, match=f"format is 99, this version reads {VERSION}"):
        RunState.load(saved, SCHEDULE, POOL)


def test_another_pool_or_other_sizes(saved):
    with pytest.raises(ValueError, match=f"other labels .*fingerprint {POOL} then, another now"):
        RunState.load(saved, SCHEDULE, "another")
    other = LoopSchedule(**{**vars(SCHEDULE), "budget": 9})
    with pytest.raises(ValueError, match=r"budget was 3 .* and is 9 now"):
        RunState.load(saved, other, POOL)


@pytest.mark.parametrize("file", [JSON_FILE, TENSORS_FILE])
def test_a_write_that_was_killed_leaves_no_file_to_take_for_whole(tmp_path, monkeypatch, file):
    from vecaf_hf.loop import state

    replace = state.os.replace

    def killed(source, target):
        if target.name == file:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(state.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        make_state().save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="not to its end; use an earlier checkpoint"):
        RunState.load(tmp_path, SCHEDULE, POOL)
    make_state().save(tmp_path)
    assert len(RunState.load(tmp_path, SCHEDULE, POOL).streams) == 3


def test_fingerprints_tell_pools_apart():
    labels = torch.arange(100) % 7
    swapped = labels.clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    found = [pool_fingerprint(100, None), pool_fingerprint(101, None), POOL, pool_fingerprint(100, swapped)]
    assert len(set(found)) == 4
    assert pool_fingerprint(100, labels.int()) == POOL
    # The same on every machine: a constant.
    assert pool_fingerprint(2, torch.tensor([0, 1])) == "c1d772afaa241014"
