#!/usr/bin/env bash
# A `break` in an evaluation loop makes accelerate lose the last optimizer step of the epoch.
#
# Packages:   accelerate 1.15.0, torch 2.14.1.
# Expected:   The guide to gradient accumulation says that `accumulate` also steps at the end of the data, with whatever
#             was gathered since the last step. An evaluation in between, on another loader, has no say in that.
# Happens:    accelerate asks the loader that it takes for the active one whether the epoch ends. A prepared loader
#             leaves that list only when it is read to its end. After `break` it stays the active one, and never ends:
#             the step at the end of the epoch does not happen, and the gradients of the last batches are added to those
#             of the next epoch, whose steps all move. Nothing warns.
#             An evaluation that is read to its end does no harm, so it comes with `if step == max_eval_batches: break`.
# Hurts:      Whoever looks at a few evaluation batches during an epoch. Fewer steps are made than the schedule counts
#             on, and runs that look at different numbers of batches differ in training. By the same list,
#             `gather_for_metrics` goes by the wrong loader where it drops the samples that were added to even batches.
# Avoid:      Evaluate on a `Subset` of that size, or call `eval_loader.end()` after the `break`.
#
# Observed, 10 batches, accumulated by 4, an evaluation after the third; steps as epoch:batch:
#   no evaluation:            0:3 0:7 0:9 1:3 1:7 1:9
#   read to its end:          0:3 0:7 0:9 1:3 1:7 1:9
#   break after 3 batches:    0:3 0:7 1:1 1:5 1:9
#   break, then end():        0:3 0:7 0:9 1:3 1:7 1:9
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" accelerate==1.15.0 torch==2.14.1 numpy==2.4.6

python - <<'PYTHON'
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

accelerator = Accelerator(gradient_accumulation_steps=4, cpu=True)


def steps(what, evaluate):
    model = torch.nn.Linear(1, 1)
    data = TensorDataset(torch.arange(10.0)[:, None])
    model, optimizer, training, evaluation = accelerator.prepare(
        model, torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(data), DataLoader(data)
    )
    made = []
    for epoch in range(2):
        for batch, (rows,) in enumerate(training):
            with accelerator.accumulate(model):
                accelerator.backward(model(rows).sum())
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                made.append(f"{epoch}:{batch}")
            if batch == 2:
                evaluate(evaluation)
    print(f"{what}:", *made)
    return made


def part(loader):
    for batch, _ in enumerate(loader):
        if batch == 2:
            break


def part_then_end(loader):
    part(loader)
    loader.end()


whole = steps("no evaluation", lambda loader: None)
assert whole == ["0:3", "0:7", "0:9", "1:3", "1:7", "1:9"]
assert steps("read to its end", list) == whole
assert steps("break, then end()", part_then_end) == whole
assert steps("break after 3 batches", part) == ["0:3", "0:7", "1:1", "1:5", "1:9"]
PYTHON
