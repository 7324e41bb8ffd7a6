"""Loops divide the run's batches, and the run is as long as Trainer says."""

from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import Trainer, TrainingArguments

from vecaf_hf import VeCAFArguments
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


def test_sizes_are_all_that_fix_the_order_of_samples():
    assert schedule().sizes() == {"num_loops": 3, **asdict(schedule())}


def of_run(tmp_path, pool_size=20, batch_size=4, split=False, **options):
    defaults = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "selection_budget": 4}
    return LoopSchedule.of_run(VeCAFArguments(**defaults | options), pool_size, batch_size, split, seed=3)


def test_the_schedule_of_a_run(tmp_path, caplog):
    made = of_run(tmp_path, max_steps=10, num_loops=3, gradient_accumulation_steps=2)
    assert made == replace(schedule(), pool_size=20, budget=4, seed=3, updates_per_epoch=3)
    assert not caplog.records
    # Five steps over the pool, twice.
    assert of_run(tmp_path, num_train_epochs=2, num_loops=2).total_updates == 10
    of_run(tmp_path, max_steps=8, num_loops=5).check_loops(5)
    assert "8 steps in 5 loops make loops of 2 steps, and so only 4 of them" in caplog.text


def test_progress_is_the_part_that_is_over_when_a_loop_begins(tmp_path):
    made = of_run(tmp_path, max_steps=16, num_loops=8)
    assert [made.progress(loop) for loop in range(8)] == [loop / 8 for loop in range(8)]
    # The last loop is shorter.
    uneven = of_run(tmp_path, max_steps=7, num_loops=3)
    assert [uneven.progress(loop) for loop in range(3)] == [0, 3 / 7, 6 / 7]


def test_a_pool_smaller_than_a_batch(tmp_path):
    assert of_run(tmp_path, pool_size=4, max_steps=3).pool_size == 4
    made = of_run(tmp_path, pool_size=4, batch_size=5, max_steps=3)
    assert made.batch_size == made.samples_per_loop == 4
    with pytest.raises(ValueError, match="4 samples, fewer than one batch of 5, and dataloader_drop_last"):
        of_run(tmp_path, pool_size=4, batch_size=5, max_steps=3, dataloader_drop_last=True)


@pytest.mark.parametrize("split", [False, True])
def test_of_a_pool_smaller_than_a_batch_each_process_has_a_share(tmp_path, monkeypatch, split):
    """Five samples for two processes: three each, the first one again."""
    monkeypatch.setattr(VeCAFArguments, "world_size", 2)
    made = of_run(tmp_path, pool_size=5, batch_size=8, split=split, max_steps=3)
    assert made.samples_per_update == made.samples_per_loop == 6
    assert made.batch_size == (6 if split else 3)


def test_more_loops_than_steps(tmp_path):
    assert of_run(tmp_path, num_train_epochs=1, num_loops=6).num_loops == 5


def test_a_loop_is_an_epoch_unless_the_number_of_loops_is_given(tmp_path):
    made = of_run(tmp_path, num_train_epochs=2.5, gradient_accumulation_steps=2)
    # Five batches of four: the epoch's last update has one.
    assert (made.updates_per_loop, made.samples_per_loop, made.num_loops) == (3, 20, 3)
    assert made.total_updates == 8
    assert of_run(tmp_path, max_steps=2).num_loops == 1


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
