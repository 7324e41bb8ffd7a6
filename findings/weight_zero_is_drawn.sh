#!/usr/bin/env bash
# `WeightedRandomSampler(replacement=False)` draws samples of weight 0 once the others are used up.
#
# Packages:   torch 2.14.1.
# Expected:   The reference calls the weights those of the draw, which need not sum to one. What has weight 0 is never
#             drawn. That of `torch.multinomial` says that without replacement, no more can be drawn than there are
#             weights above 0: an error is what one waits for.
# Happens:    The draw fills up with samples of weight 0, in an order of its own, and says nothing.
#             With replacement they are never drawn, so the same weights are safe there.
# Hurts:      Whoever leaves samples out by weight 0 (a class held out, noisy labels, the validation part, samples that a
#             selection did not take) and draws an epoch as long as the dataset: all that was left out is trained on.
# Avoid:      `num_samples = int((weights > 0).sum())`, or a `SubsetRandomSampler` of those.
#
# Observed, 1000 samples, 400 of them with weight 0:
#   num_samples=600:                      0 of weight 0 are drawn
#   num_samples=1000:                     400 of weight 0 are drawn
#   num_samples=1000, with replacement:   0 of weight 0 are drawn
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" torch==2.14.1 numpy==2.4.6

python - <<'PYTHON'
import torch
from torch.utils.data import WeightedRandomSampler

weights = torch.rand(1000, generator=torch.Generator().manual_seed(0)) + 0.1
weights[:400] = 0


def drawn(number, replacement):
    generator = torch.Generator().manual_seed(1)
    places = list(WeightedRandomSampler(weights, number, replacement=replacement, generator=generator))
    count = sum(place < 400 for place in places)
    print(f"num_samples={number}, replacement={replacement}: {count} of weight 0 are drawn")
    return count


assert drawn(600, False) == 0
assert drawn(1000, False) == 400
assert drawn(1000, True) == 0
PYTHON
