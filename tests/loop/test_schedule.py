"""Loops divide the run's batches, and the run is as long as Trainer says."""

from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import Trainer, TrainingArguments

from vecaf_hf.loop import LoopSchedule, updates_over_pool


def schedule(total: int = 10, loops: int = 3) -> LoopSchedule:
    return LoopSchedule(
        total_updates=total,
        updates_per_loop=-(-total // loops),
        samples_per_update=8,
        batch_size=4,
        gradient_accumulation_steps=2,
        world_size=1,
        pool_size=100,
        budget=10,
        seed=0,
    )


def test_the_last_loop_may_be_shorter():
    assert [schedule(10, 3).loop_of(step) for step in range(10)] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert schedule(10, 3).num_loops == 3
    assert schedule(10, 3).samples_per_loop == 4 * 8


@given(st.integers(1, 500), st.data())
@settings(deadline=None, max_examples=100)
def test_every_step_is_in_one_loop_and_all_but_the_last_are_equally_long(total, data):
    loops = data.draw(st.integers(1, total))
    made = schedule(total, loops)
    of_step = [made.loop_of(step) for step in range(total)]
    lengths = [of_step.count(loop) for loop in range(made.num_loops)]
    assert sum(lengths) == total and made.num_loops <= loops
    assert set(lengths[:-1]) <= {made.updates_per_loop} and 0 < lengths[-1] <= made.updates_per_loop
    assert of_step == sorted(of_step)
    assert total % loops or made.num_loops == loops


@pytest.mark.parametrize("name", list(asdict(schedule())))
def test_a_size_that_changed_since_the_checkpoint_is_named_with_both_values(name):
    saved, now = schedule(), replace(schedule(), **{name: 77})
    now.check_same(asdict(now))
    with pytest.raises(ValueError, match=f"cannot resume: {name} was {getattr(saved, name)} when .* and is 77 now"):
        now.check_same(asdict(saved))


def test_a_size_that_the_checkpoint_lacks_is_named():
    with pytest.raises(ValueError, match="seed was None"):
        schedule().check_same({name: value for name, value in asdict(schedule()).items() if name != "seed"})


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("epochs", [1, 2.5, 0.3])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_as_many_updates_as_trainer_makes(tmp_path, drop_last, epochs, accumulation):
    for batch_size in (1, 4, 7):
        args = TrainingArguments(
            output_dir=str(tmp_path),
            use_cpu=True,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=epochs,
            dataloader_drop_last=drop_last,
            report_to=[],
        )
        for pool_size in (1, 4, 7, 25, 28):
            if drop_last and pool_size < batch_size:
                continue  # Trainer refuses a loader without batches.
            trainer = Trainer(nn.Linear(1, 1), args, train_dataset=torch.zeros(pool_size, 1))
            *_, max_steps = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
            assert updates_over_pool(args, pool_size, batch_size, batch_world=1) == max_steps, (pool_size, batch_size)


def test_processes_take_a_batch_each_of_a_step(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, num_train_epochs=1)
    assert updates_over_pool(args, pool_size=33, batch_size=4, batch_world=2) == 5
    assert updates_over_pool(args, pool_size=33, batch_size=4, batch_world=1) == 9
    args.dataloader_drop_last = True
    assert updates_over_pool(args, pool_size=33, batch_size=4, batch_world=2) == 4
