"""The record of what training saw, against a dictionary; processes against one of them."""

import random
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from every_case import every_case

from vecaf_hf.scoring.training_losses import UNSEEN, TrainingLosses

N = 12


def make(size: int = N) -> TrainingLosses:
    return TrainingLosses(size, Accelerator(cpu=True))


def micro_batches(seed: int, steps: int = 9) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    """(step, indices, losses), two a step, with repeated samples within a batch and within a step."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (step, torch.randint(N - 2, (4,), generator=generator), torch.rand(4, generator=generator))
        for step in range(steps)
        for _ in range(2)
    ]


def expected(batches: list[tuple[int, torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """The largest loss of each sample's last step."""
    seen: dict[int, tuple[int, float]] = {}
    for step, indices, losses in batches:
        for index, loss in zip(indices.tolist(), losses.tolist(), strict=True):
            seen[index] = max(seen.get(index, (-1, 0.0)), (step, loss))
    return torch.tensor([seen[index][1] if index in seen else torch.nan for index in range(N)])


def same(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@every_case("seed", range(5))
def test_a_samples_last_step_counts_and_in_it_the_largest_loss(seed):
    recorder, batches = make(), micro_batches(seed)
    for step, indices, losses in batches:
        recorder.record(indices, losses, step)
    same(recorder.gathered(), expected(batches))
    assert recorder.gathered()[N - 2 :].isnan().all() and (recorder.steps[N - 2 :] == UNSEEN).all()


def test_nothing_of_the_graph_is_held_and_any_type_is_taken():
    recorder = make()
    losses = torch.rand(3, requires_grad=True).bfloat16()
    recorder.record(torch.tensor([0, 1, 2]), losses, 0)
    assert not recorder.losses.requires_grad and recorder.losses.dtype == torch.float32
    same(recorder.gathered()[:3], losses.detach().float())


def test_a_loss_that_is_not_a_number_is_none():
    recorder = make()
    recorder.record(torch.tensor([1]), torch.tensor([0.5]), 0)
    recorder.record(torch.tensor([1]), torch.tensor([torch.nan]), 1)
    assert recorder.gathered()[1].isnan()


@every_case("seed", range(5))
@every_case("world", [2, 3])
def test_processes_that_share_the_batches_have_the_record_of_one(seed, world):
    shared: dict[str, torch.Tensor] = {}
    batches, draw = micro_batches(seed), random.Random(seed)
    recorders = [make() for _ in range(world)]
    for step, indices, losses in batches:
        for index, loss in zip(indices, losses, strict=True):
            recorders[draw.randrange(world)].record(index[None], loss[None], step)
    for name in ("steps", "losses"):
        shared[name] = torch.stack([getattr(recorder, name) for recorder in recorders])

    def gather(values: torch.Tensor) -> torch.Tensor:
        return shared["losses" if values.is_floating_point() else "steps"]

    for recorder in recorders:
        recorder.accelerator = SimpleNamespace(num_processes=world, gather=gather)
        same(recorder.gathered(), expected(batches))
    for name in ("steps", "losses"):
        shared[name] = torch.stack([getattr(recorder, name) for recorder in recorders])
    # To be gathered again, for a checkpoint, changes nothing.
    same(recorders[0].gathered(), expected(batches))


def test_a_state_goes_on_where_it_was_taken():
    batches = micro_batches(0)
    whole, first, second = make(), make(), make()
    for number, (step, indices, losses) in enumerate(batches):
        whole.record(indices, losses, step)
        if number < 7:
            first.record(indices, losses, step)
    second.load_state_dict(first.state_dict())
    for step, indices, losses in batches[7:]:
        second.record(indices, losses, step)
    same(second.gathered(), whole.gathered())
    assert torch.equal(second.steps, whole.steps)
