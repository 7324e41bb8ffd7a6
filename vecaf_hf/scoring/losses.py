"""The finetuning loss of each sample: what Trainer averages, before it is averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import ModelOutput

from vecaf_hf.data.labels import one_per_sample

SampleLoss = Callable[[Any, Tensor], Tensor]

# The kinds of output that a model may have, each made of logits alone.
OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "ModelOutput": lambda logits: ImageClassifierOutput(logits=logits),
    "Mapping": lambda logits: {"logits": logits},
    "Tensor": lambda logits: logits,
    "tuple": lambda logits: (logits,),
}


def kind_of_output(outputs: Any) -> str:
    """Which of OUTPUTS a model's output is."""
    if isinstance(outputs, Tensor):
        return "Tensor"
    if isinstance(outputs, ModelOutput):
        return "ModelOutput"
    return "Mapping" if isinstance(outputs, Mapping) else "tuple"


def logits_of(outputs: Any, with_loss: bool = False) -> Tensor:
    """The logits [N, C] in a model's output: a key, the output itself, or a tuple's first element after the loss.

    Raises:
        ValueError: There are none.
    """
    if isinstance(outputs, Tensor):
        return outputs
    place = int(with_loss)
    if isinstance(outputs, Mapping):
        logits, has = outputs.get("logits"), ", ".join(map(str, outputs))
    else:
        logits, has = outputs[place] if len(outputs) > place else None, f"{len(outputs)} elements"
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"the model returns no logits (its output has {has or 'nothing'}), and samples are scored by them: choose "
            "a strategy that scores none, such as 'balanced' or 'random'"
        )
    return logits


def classification_losses(
    outputs: Any, labels: Tensor, problem_type: str | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """What transformers' image classifiers average, per sample.

    Args:
        outputs: The model's output, with logits [N, C].
        labels: LongTensor [N], or float [N, C] for multi-label and regression.
        problem_type: As in the model's config; None is settled as transformers does: one output is regression,
            whole-number labels are one class each, others are multi-label.
        label_smoothing: As `label_smoothing_factor`; for one class per sample only.

    Returns:
        [N], float32.

    Raises:
        ValueError: There is no one row of logits for each sample, or there are no labels.
    """
    logits = logits_of(outputs).float()
    if logits.dim() != 2 or not isinstance(labels, Tensor):
        of = list(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(
            "the loss of each sample is known for one row of logits per sample, [N, C], and one label; the model's are "
            f"{list(logits.shape)}, for labels {of}: pass the loss as sample_loss_func(outputs, labels) -> Tensor[N], "
            "or choose a strategy that reads no losses, such as 'balanced' or 'random'"
        )
    if problem_type is None:
        problem_type = _problem_type(logits, labels)
    if problem_type == "single_label_classification":
        labels = one_per_sample(labels)
        return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    targets = labels.float().reshape(logits.shape)
    if problem_type == "regression":
        return functional.mse_loss(logits, targets, reduction="none").mean(dim=1)
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


def _problem_type(logits: Tensor, labels: Tensor) -> str:
    if logits.shape[1] == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def one_by_one(compute_loss_func: Callable[..., Tensor]) -> SampleLoss:
    """The loss of each sample under an objective that only returns the loss of a batch.

    The objective, with Trainer's signature (outputs, labels, num_items_in_batch), is called on every sample
    alone: exact for any mean or sum over samples, and cheap beside the forward pass, since only logits are cut.
    """

    def sample_losses(outputs: Any, labels: Tensor) -> Tensor:
        return torch.stack(
            [
                compute_loss_func(_row(outputs, row), labels[row : row + 1], num_items_in_batch=1)
                for row in range(len(labels))
            ]
        )

    return sample_losses


def _row(outputs: Any, row: int) -> Any:
    if isinstance(outputs, Tensor):
        return outputs[row : row + 1]
    if isinstance(outputs, Mapping):
        kept = {
            key: value[row : row + 1] for key, value in outputs.items() if isinstance(value, Tensor) and value.dim()
        }
        return type(outputs)(**kept)
    return type(outputs)(value[row : row + 1] for value in outputs)


def weighted_mean(losses: Tensor, weights: Tensor, labels: Tensor, num_items_in_batch: Any) -> Tensor:
    """sum_i w_i l_i / n, with n as Trainer counts it: the samples of the whole step, over all accumulated
    micro-batches and (with `average_tokens_across_devices`) all processes.

    Trainer counts the elements of the labels; a multi-label target has several per sample. Without a count n is
    this batch's size.
    """
    count = len(labels) if num_items_in_batch is None else num_items_in_batch * len(labels) / labels.numel()
    return (losses * weights).sum() / count


def has_half_precision(values: Tensor) -> bool:
    """Whether it has fewer than 32 bits: what is computed of it is compared more loosely."""
    return torch.finfo(values.dtype).bits < 32
