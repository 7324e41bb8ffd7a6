"""A loop is an epoch: its begin, its end, and its own seed."""

from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from vecaf_hf.loop import LoopBoundaryCallback
from vecaf_hf.seeding import seed_of

UPDATES_PER_LOOP = 4


@pytest.fixture
def calls():
    return []


@pytest.fixture
def callback(calls):
    return LoopBoundaryCallback(
        begin=lambda: calls.append("begin"),
        end=lambda: calls.append("end"),
        is_first_step=lambda step: step % UPDATES_PER_LOOP == 0,
        reseed=lambda seed: calls.append(seed),
    )


def at(step: int, max_steps: int = 10, stop: bool = False, seed: int = 5):
    """What Trainer hands to a callback at this global step."""
    state = TrainerState(global_step=step, max_steps=max_steps)
    return SimpleNamespace(seed=seed), state, TrainerControl(should_training_stop=stop)


@pytest.mark.parametrize("step", [0, 4, 6])
def test_an_epoch_begins_a_loop_also_when_it_is_resumed(callback, calls, step):
    callback.on_epoch_begin(*at(step), model=None)
    assert calls == ["begin"]


def test_only_a_loops_first_step_reseeds_by_its_own_seed(callback, calls):
    for step in range(10):
        callback.on_step_begin(*at(step))
    assert calls == [seed_of(5, 0), seed_of(5, 4), seed_of(5, 8)]
    assert len(set(calls)) == 3
    callback.on_step_begin(*at(4, seed=6))
    assert calls[-1] == seed_of(6, 4) != seed_of(5, 4)


@pytest.mark.parametrize(
    ("step", "stop"), [(4, False), (8, False), (10, False), (3, True)], ids=["loop", "loop", "run", "stopped"]
)
def test_a_loop_ends_at_its_length_or_with_the_run(callback, calls, step, stop):
    callback.on_epoch_end(*at(step, stop=stop))
    assert calls == ["end"]


@pytest.mark.parametrize("step", [1, 3, 5, 9])
def test_a_loop_that_another_callback_ended_early(callback, calls, step):
    with pytest.raises(RuntimeError, match=f"ended the loop early, at step {step} .*Use should_training_stop"):
        callback.on_epoch_end(*at(step))
    assert calls == ["end"]


@pytest.mark.parametrize("step", [4, 8, 10])
def test_a_loops_last_checkpoint_comes_after_its_evaluation(callback, step):
    args, state, control = at(step)
    control.should_save = True
    callback.on_step_end(args, state, control)
    assert not control.should_save
    callback.on_epoch_end(args, state, control)
    assert control.should_save


def test_other_checkpoints_are_written_where_they_are_due(callback):
    args, state, control = at(3)
    control.should_save = True
    callback.on_step_end(args, state, control)
    assert control.should_save
    args, state, control = at(4)
    callback.on_step_end(args, state, control)
    callback.on_epoch_end(args, state, control)
    assert not control.should_save
