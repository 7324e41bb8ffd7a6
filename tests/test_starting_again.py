"""A model goes back to where it began, buffers too, and its optimizer with it."""

import pytest
import torch
from every_case import every_case
from torch import nn

from vecaf_hf.loop.starting_again import start_again, starting_weights


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    images = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(images).square().mean().backward()
    optimizer.step()


def make(kind: type[torch.optim.Optimizer], **options: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    return model, kind(model.parameters(), lr=0.1, **options)


@every_case("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_a_second_start_is_like_the_first(kind):
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    (model, optimizer), (fresh, freshs) = make(kind, **options), make(kind, **options)
    kept = starting_weights(model)
    for seed in range(3):
        step(model, optimizer, seed)
    assert not torch.equal(model[1].running_mean, fresh[1].running_mean)
    optimizer.param_groups[0]["lr"] = freshs.param_groups[0]["lr"] = 0.05
    start_again(model, optimizer, kept)
    assert optimizer.param_groups[0]["lr"] == 0.05
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(fresh, freshs, seed)
    for name, values in fresh.state_dict().items():
        assert torch.equal(values, model.state_dict()[name]), name


def test_what_is_kept_does_not_follow_the_model_and_can_be_used_twice():
    model, optimizer = make(torch.optim.SGD)
    kept = starting_weights(model)
    before = {name: values.clone() for name, values in kept.items()}
    for _ in range(2):
        step(model, optimizer, 0)
        start_again(model, optimizer, kept)
        step(model, optimizer, 1)
        assert all(torch.equal(values, before[name]) for name, values in kept.items())


def test_weights_of_another_model_are_refused():
    model, optimizer = make(torch.optim.SGD)
    with pytest.raises(RuntimeError, match="Missing key"):
        start_again(model, optimizer, starting_weights(model[0]))
