#!/usr/bin/env bash
# After accelerate's `set_seed`, all processes draw the same augmentations for their images.
#
# Packages:   accelerate 1.15.0, torch 2.14.1.
# Expected:   The reference says that `set_seed` makes a run reproducible. Each of two processes has other images, and so
#             one takes for granted that each image of the joint batch is cropped and flipped by a draw of its own.
# Happens:    All processes begin with the same state of random numbers, in the loader's workers too. The first image of
#             process 0 and the first of process 1 get the same crop, flip, erased box and mixing weight, and so on, for
#             the whole run. Nothing warns. transformers' Trainer adds the process' number to the seeds of its workers,
#             but with `dataloader_num_workers=0` there is none to add it to.
# Hurts:      Training loops on accelerate (the examples of diffusers and transformers without Trainer, and most of their
#             kind): a batch on 8 processes holds an eighth of the augmentations that the same batch has on one, and
#             dropout's masks agree as well.
# Avoid:      `set_seed(seed, device_specific=True)`, which leaves the order of the data as it is.
#
# Observed, 2 processes, 2 workers each, 8 images each: draws that both have in common
#   set_seed(0):                          8 of 8
#   set_seed(0, device_specific=True):    0 of 8
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" accelerate==1.15.0 torch==2.14.1 numpy==2.4.6

cat > loop.py <<'PYTHON'
import sys

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch.utils.data import DataLoader, Dataset


class Cropped(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, place):
        return place, torch.rand(()).item()  # The left edge of a random crop.


accelerator = Accelerator(cpu=True)
set_seed(0, device_specific=sys.argv[1] == "specific")
loader = accelerator.prepare(DataLoader(Cropped(), batch_size=4, shuffle=True, num_workers=2))
rows = [row for places, edges in loader for row in zip(places.tolist(), edges.tolist(), strict=True)]
one, other = gather_object([rows])
assert len(one) == len(other) == 8 and {place for place, _ in one + other} == set(range(16))
common = len({edge for _, edge in one} & {edge for _, edge in other})
accelerator.print(f"{sys.argv[1]}: {common} of 8")
assert common == {"same": 8, "specific": 0}[sys.argv[1]]
PYTHON
for seeds in same specific; do
    torchrun --standalone --nproc-per-node 2 loop.py $seeds 2> log || { cat log; exit 1; }
done
