"""Batches that do not fit are done in halves: every sample once, in order."""

import logging

import pytest
import torch
from every_case import every_case

from vecaf_hf.data.indexed import POOL_INDEX
from vecaf_hf.scoring.memory import FittingBatches


class Memory:
    """Work that holds so many samples at once."""

    def __init__(self, most: int) -> None:
        self.most, self.tried, self.done = most, [], []

    def __call__(self, batch):
        size = len(batch[POOL_INDEX])
        assert batch["pixel_values"][:, 0].tolist() == batch[POOL_INDEX].tolist() == batch["names"]
        assert batch["flag"] is True and batch["scale"].dim() == 0 and batch["table"].shape == (2, 2)
        self.tried.append(size)
        if size > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.done += batch[POOL_INDEX].tolist()
        return size


def batch_of(start: int, size: int) -> dict:
    indices = torch.arange(start, start + size)
    pixels = indices[:, None].expand(-1, 3)
    rest = {"flag": True, "scale": torch.tensor(2.0), "table": torch.zeros(2, 2)}
    return {POOL_INDEX: indices, "pixel_values": pixels, "names": indices.tolist(), **rest}


@every_case("size", [3, 17])
@every_case("most", [1, 3, 5, 100])
def test_every_sample_is_done_once_in_order(most, size):
    memory, fitting = Memory(most), FittingBatches()
    for start in (0, size):
        assert sum(fitting.run(memory, batch_of(start, size))) == size
    assert memory.done == list(range(2 * size))


def test_later_batches_are_cut_at_once_and_one_warning_is_logged(caplog):
    memory, fitting = Memory(5), FittingBatches()
    with caplog.at_level(logging.WARNING):
        for start in (0, 16, 32):
            fitting.run(memory, batch_of(start, 16))
    assert memory.tried == [16, 8] + 3 * [4, 4, 4, 4]
    assert fitting.most == 4
    (record,) = caplog.records
    assert "a scoring batch of 16 samples does not fit" in record.getMessage()


def test_less_memory_later_is_halved_again(caplog):
    memory, fitting = Memory(8), FittingBatches()
    fitting.run(memory, batch_of(0, 16))
    memory.most = 3
    fitting.run(memory, batch_of(16, 16))
    assert fitting.most == 2 and memory.done == list(range(32)) and len(caplog.records) == 1


def test_a_single_sample_that_does_not_fit():
    memory = Memory(0)
    with pytest.raises(torch.OutOfMemoryError):
        FittingBatches().run(memory, batch_of(0, 4))
    assert memory.tried == [4, 2, 1]


def test_other_errors_are_not_tried_again():
    def broken(batch):
        calls.append(1)
        raise RuntimeError("mat1 and mat2")

    calls: list[int] = []
    with pytest.raises(RuntimeError, match="mat1"):
        FittingBatches().run(broken, batch_of(0, 4))
    assert len(calls) == 1


@every_case(
    "error",
    [
        torch.OutOfMemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear"),
    ],
    ids=str,
)
def test_memory_may_run_out_anywhere(error):
    def narrow(batch):
        if len(batch[POOL_INDEX]) > 3:
            raise error
        return len(batch[POOL_INDEX])

    assert FittingBatches().run(narrow, batch_of(0, 8)) == [2, 2, 2, 2]
