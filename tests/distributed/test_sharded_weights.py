"""Weights that two processes have parts of are read and written whole, and forward passes need no partner."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState
from own_processes import in_two_processes
from torch import nn
from torch.distributed.fsdp import fully_shard

from vecaf_hf.scoring.sharded import (
    are_finite,
    give_back,
    is_sharded,
    load_whole_state,
    whole_copy,
    whole_state,
    whole_weights,
)

ACCELERATOR: Any = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=SimpleNamespace(reshard_after_forward=True)))


def network() -> nn.Sequential:
    """With a head of 3 rows, which two processes cannot share evenly, and a bias that only the first has any of."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 1), nn.Linear(1, 3))


def shared_out() -> nn.Sequential:
    model = network()
    fully_shard(model[0])
    return fully_shard(model)


def forward_passes() -> None:
    rank = PartialState().process_index
    model, plain, inputs = shared_out(), network(), torch.ones(2, 4)
    for _ in range(2):
        with whole_weights(model, ACCELERATOR), torch.no_grad():
            # One in the first process, two in the second; and the head alone.
            for _ in range(1 + rank):
                torch.testing.assert_close(model(inputs), plain(inputs))
            torch.testing.assert_close(model[2](torch.ones(1, 1)), plain[2](torch.ones(1, 1)))
        assert all(hasattr(parameter, "full_tensor") for parameter in model.parameters())
        # It trains as before.
        model(inputs).sum().backward()
    plain(inputs).sum().backward()
    torch.testing.assert_close(model[0].weight.grad.full_tensor(), 2 * plain[0].weight.grad)


def values() -> None:
    rank = PartialState().process_index
    model, plain = shared_out(), network()
    assert is_sharded(model) and not is_sharded(plain)
    with torch.no_grad():
        # Leaves the outermost modules' parameters whole, and what is written there would be lost.
        model(torch.ones(2, 4))
    head = whole_copy(model, model[2])
    assert type(head) is nn.Linear and whole_copy(plain, plain[2]) is plain[2]
    torch.testing.assert_close(head.weight, plain[2].weight)
    with torch.no_grad():
        head.bias.add_(1)
    give_back(model, model[2], head)
    start = {name: tensor.clone() for name, tensor in whole_state(model).items()}
    torch.testing.assert_close(start["2.bias"], plain[2].bias + 1)
    load_whole_state(model, plain.state_dict())
    torch.testing.assert_close(whole_state(model), dict(plain.state_dict()))
    assert all(are_finite(model, list(model.parameters())))
    if rank == 1:
        with torch.no_grad():
            model[0].bias.to_local().fill_(torch.nan)
    # Both know of it.
    assert are_finite(model, list(model.parameters())) == [True, False, True, True, True, True]


def work(name: str) -> None:
    PartialState(cpu=True)
    globals()[name]()
    torch.distributed.destroy_process_group()


def test_forward_passes_need_no_partner() -> None:
    in_two_processes(work, "forward_passes")


def test_values_are_read_and_written_whole() -> None:
    in_two_processes(work, "values")
