"""What is packed comes back bit for bit, and takes less room where it can."""

import torch
from every_case import every_case

from vecaf_hf.loop.packing import packed_indices, packed_weights, unpacked_indices, unpacked_weights


def held(*tensors: torch.Tensor | None) -> int:
    return sum(one.numel() * one.element_size() for one in tensors if one is not None)


@every_case("part", [0.001, 0.03, 0.1, 0.75, 1.0])
@every_case("order", ["rising", "any"])
def test_indices(part, order):
    generator = torch.Generator().manual_seed(0)
    indices = torch.randperm(10_007, generator=generator)[: max(1, int(part * 10_007))]
    indices = indices.sort().values if order == "rising" else indices
    packed = packed_indices(indices)
    assert torch.equal(unpacked_indices(packed), indices) and unpacked_indices(packed).dtype == torch.long
    mask = part >= 0.1 and order == "rising"
    assert packed.dtype == (torch.uint8 if mask else torch.int32)
    assert held(packed) <= (10_007 // 8 + 1 if mask else 4 * len(indices))


@every_case("indices", [[0], [7], [0, 1, 2], [5, 3], [31], [100_000], [0, 2**31 - 1]])
def test_indices_at_the_bounds(indices):
    assert unpacked_indices(packed_indices(torch.tensor(indices))).tolist() == indices


@every_case("values", [1, 2, 256, 257, 4000])
def test_weights(values):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(values, generator=generator)[torch.arange(4000) % values]
    packed = packed_weights(weights)
    assert torch.equal(unpacked_weights(*packed), weights)
    assert held(*packed) == (4000 + 4 * values if values <= 256 else 4 * 4000)


@every_case("weights", [[1.0], [2.0, 0.0], [0.5, 1.0, 1.5]])
def test_few_weights_stay_as_they_are(weights):
    packed, places = packed_weights(torch.tensor(weights))
    assert packed.tolist() == weights and places is None
