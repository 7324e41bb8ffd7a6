"""Whether the loss of a batch heeds the number of samples that Trainer hands it to divide by.

Trainer (transformers 5.23.0, `training_step` and `compute_loss`; its issue 47688) hands the number of samples of a
whole step to every model that takes keywords, and to every `compute_loss_func`, and takes what comes back for a sum
that was divided by it: it multiplies it by the processes, and does not divide it by the micro-batches. ViT, Swin and
some others do divide by it. Most image classifiers drop it and return the mean of their batch, and so do the multi-
label losses of those others: their gradient is multiplied by `gradient_accumulation_steps` and by the processes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vecaf_hf.seeding import seeded

TOLD = (
    "the loss does not divide by the number of samples that Trainer hands it: it is the mean of a batch. Trainer "
    "itself would multiply its gradient by %d here (gradient_accumulation_steps, processes; transformers issue "
    "47688). VeCAFTrainer does not, whatever they are. If your learning rate was tuned with Trainer at these sizes, "
    "set trainer_loss_scale=True to keep Trainer's scale"
)


def heeds_divisor(
    model: nn.Module, loss_by: Callable[[Tensor], Tensor], count: Tensor, accelerator: Accelerator
) -> bool:
    """Whether a loss is halved when the number is doubled; the same in all processes, each must call it.

    Args:
        model: Looked at in evaluation; left in its mode.
        loss_by: The loss of one batch, for a number to divide by.
        count: That number.
        accelerator: Its processes agree.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        # The same in both, should it be random; not at the training's expense.
        with torch.no_grad(), seeded(0):
            whole = loss_by(count).float()
        with torch.no_grad(), seeded(0):
            half = loss_by(2 * count).float()
    finally:
        for module, mode in training.items():
            module.training = mode
    heeds = torch.isclose(whole, 2 * half, rtol=1e-2) & (whole != 0)
    # In whole numbers: not every backend gathers booleans.
    return bool(accelerator.gather(heeds.reshape(1).to(torch.uint8)).all())
