"""A loop is an epoch: its end, its own seed, and when its checkpoint is written."""

from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState

from vecaf_hf.cost import CostMeter
from vecaf_hf.loop import controller as module
from vecaf_hf.loop.controller import LoopController
from vecaf_hf.seeding import seed_of

UPDATES_PER_LOOP = 4


@pytest.fixture
def logs():
    return []


@pytest.fixture
def controller(logs):
    meter = CostMeter()
    meter.start("train")
    scorer = SimpleNamespace(meter=meter, is_trained=False, accelerator=None, args=SimpleNamespace(num_loops=2))
    pool = SimpleNamespace(refuse_unfit=lambda batch: None)
    selector = SimpleNamespace(pool=pool, scorer=scorer, cea=None)
    schedule = SimpleNamespace(updates_per_loop=UPDATES_PER_LOOP, samples_per_loop=8, seed=0)
    return LoopController(schedule, selector, None, None, logs.append, lambda: None)


def at(step: int, max_steps: int = 10, stop: bool = False, seed: int = 5):
    """What Trainer hands to a callback at this global step."""
    state = TrainerState(global_step=step, max_steps=max_steps)
    return SimpleNamespace(seed=seed), state, TrainerControl(should_training_stop=stop)


def test_only_a_loops_first_step_reseeds_by_its_own_seed(controller, monkeypatch):
    seeds = []
    monkeypatch.setattr(module, "set_seed", seeds.append)
    for step in range(10):
        controller.on_step_begin(*at(step))
    assert seeds == [seed_of(5, 0), seed_of(5, 4), seed_of(5, 8)]
    assert len(set(seeds)) == 3
    controller.on_step_begin(*at(4, seed=6))
    assert seeds[-1] == seed_of(6, 4) != seed_of(5, 4)


@pytest.mark.parametrize(
    ("step", "stop"), [(4, False), (8, False), (10, False), (3, True)], ids=["loop", "loop", "run", "stopped"]
)
def test_a_loop_ends_at_its_length_or_with_the_run(controller, logs, step, stop):
    controller.on_epoch_end(*at(step, stop=stop), model=torch.nn.Identity())
    assert logs == [{"vecaf/tflops": 0}]


@pytest.mark.parametrize("step", [4, 8, 10])
def test_a_loops_last_checkpoint_comes_after_its_evaluation(controller, step):
    args, state, control = at(step)
    control.should_save = True
    controller.on_step_end(args, state, control)
    assert not control.should_save
    controller.on_epoch_end(args, state, control, model=torch.nn.Identity())
    assert control.should_save


def test_a_checkpoint_that_was_put_off_is_written_once(controller):
    asked = []
    for step in (4, 8):
        args, state, control = at(step)
        control.should_save = step == 4
        controller.on_step_end(args, state, control)
        controller.on_epoch_end(args, state, control, model=torch.nn.Identity())
        asked.append(control.should_save)
        controller.meter.start("train")
    assert asked == [True, False]


def test_other_checkpoints_are_written_where_they_are_due(controller):
    args, state, control = at(3)
    control.should_save = True
    controller.on_step_end(args, state, control)
    assert control.should_save
    args, state, control = at(4)
    controller.on_step_end(args, state, control)
    controller.on_epoch_end(args, state, control, model=torch.nn.Identity())
    assert not control.should_save


def test_a_batchs_losses_are_recorded_once(controller):
    seen = []
    recorder = SimpleNamespace(record=lambda indices, losses, step: seen.append((indices, losses, step)))
    controller.selector.training_losses = recorder
    with controller.passing(torch.tensor([3, 1]), step=7) as batch:
        assert controller.batch is batch
        batch.seen(torch.tensor([0.5, 2.0]))
        batch.seen(torch.tensor([9.0, 9.0]))
    assert controller.batch is None
    ((indices, losses, step),) = seen
    assert (indices.tolist(), losses.tolist(), step) == ([3, 1], [0.5, 2.0], 7)
