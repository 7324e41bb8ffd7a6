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
from transformers import Trainer

from vecaf_hf.seeding import seeded

# Since transformers 5.19 (`Trainer.loss_is_scaled_for_ga`). Before, it goes by what it takes a loss for.
ASKS_IF_SCALED = hasattr(Trainer, "loss_is_scaled_for_ga")
TOLD = (
    "the loss does not divide by the number of samples that Trainer hands it: it is the mean of a batch. Trainer "
    "itself would multiply its gradient by %d here (gradient_accumulation_steps, processes; transformers issue "
    "47688). VeCAFTrainer keeps the same gradient for any accumulation and number of processes. If your learning rate "
    "was tuned with Trainer at these sizes, set trainer_loss_scale=True to keep Trainer's scale"
)


def heeds_divisor(
    model: nn.Module, loss_by: Callable[[Tensor], Tensor], count: Tensor, accelerator: Accelerator
) -> bool | None:
    """Whether a loss is halved when the number is doubled, or is the same; the same answer in all processes.

    Args:
        model: Looked at in evaluation; left in its mode.
        loss_by: The loss of one batch, for a number to divide by.
        count: That number.
        accelerator: Its processes agree; each must call this.

    Returns:
        None where it is neither, or cannot be told: the loss is zero or not finite, or needs the training mode.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        whole, half = (_loss(loss_by, number) for number in (count, 2 * count))
    finally:
        for module, mode in training.items():
            module.training = mode
    known = whole.isfinite() & half.isfinite() & (whole != 0)
    answers = torch.stack(
        [known & torch.isclose(whole, 2 * half, rtol=1e-2), known & torch.isclose(whole, half, rtol=1e-2)]
    )
    # In whole numbers: not every backend gathers booleans.
    heeds, is_mean = accelerator.gather(answers.to(accelerator.device, torch.uint8)[None]).bool().all(dim=0).tolist()
    return True if heeds else False if is_mean else None


def _loss(loss_by: Callable[[Tensor], Tensor], number: Tensor) -> Tensor:
    """The loss, [], the same whenever it is asked for, should it be random; NaN where it has none."""
    with torch.no_grad(), seeded(0):
        try:
            return loss_by(number).detach().float().mean().cpu()
        except Exception:  # Of any type: a model's that returns a loss in training alone, a user's objective's.
            return torch.tensor(torch.nan)
