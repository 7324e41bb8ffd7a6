"""Per-sample losses average to what transformers trains."""

import pytest
import torch
from every_case import every_case
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.trainer_pt_utils import LabelSmoother

from vecaf_hf.scoring.losses import classification_losses, logits_of, one_by_one, weighted_mean

N, C = 6, 4


def tiny_vit(num_labels: int = C, problem_type: str | None = None) -> ViTForImageClassification:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=8,
        patch_size=4,
        num_labels=num_labels,
        problem_type=problem_type,
        initializer_range=0.5,
    )
    return ViTForImageClassification(config).eval()


def class_labels() -> torch.Tensor:
    return torch.tensor([0, 3, 1, 1, 2, 0])


def multi_labels() -> torch.Tensor:
    return (torch.rand(N, C, generator=torch.Generator().manual_seed(1)) > 0.5).float()


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


CASES = {
    "single": (C, class_labels(), "single_label_classification"),
    "multi": (C, multi_labels(), "multi_label_classification"),
    "regression": (1, values(N), "regression"),
    "regression of a column": (1, values(N, 1), "regression"),
    "regression of several": (C, values(N, C), "regression"),
}


# Unless told otherwise, transformers takes float targets of several outputs for multi-label.
@every_case(
    ("case", "named"),
    [(case, named) for case in CASES for named in (True, False) if named or case != "regression of several"],
)
def test_the_mean_is_the_models_own_loss(case, named):
    num_labels, labels, problem_type = CASES[case]
    model = tiny_vit(num_labels, problem_type if named else None)
    with torch.inference_mode():
        outputs = model(pixel_values=values(N, 3, 8, 8), labels=labels)
        losses = classification_losses(outputs, labels, problem_type if named else None)
    assert losses.shape == (N,) and losses.dtype == torch.float32
    assert float(losses.mean()) == pytest.approx(float(outputs.loss), rel=1e-6)
    assert model.config.problem_type == problem_type
    # Each row is the loss of that sample alone.
    for row in range(N):
        alone = classification_losses(outputs.logits[row : row + 1], labels[row : row + 1], problem_type)
        torch.testing.assert_close(alone[0], losses[row])


@every_case("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_transformers(smoothing):
    logits, labels = 3 * values(N, C), class_labels()
    losses = classification_losses({"logits": logits}, labels, "single_label_classification", smoothing)
    expected = LabelSmoother(epsilon=smoothing)({"logits": logits}, labels)
    assert float(losses.mean()) == pytest.approx(float(expected), rel=1e-6)


def test_half_precision_logits_give_float32_losses():
    assert classification_losses(values(N, C).half(), class_labels()).dtype == torch.float32


SHAPES = {
    "tensor": lambda logits: logits,
    "dict": lambda logits: {"logits": logits, "note": "text", "count": torch.tensor(3)},
    "tuple": lambda logits: (logits, torch.zeros(N, 2)),
    "output": lambda logits: ImageClassifierOutput(logits=logits, hidden_states=(torch.zeros(N, 2),)),
}


@every_case("shape", SHAPES)
def test_logits_are_found_in_any_output(shape):
    logits = values(N, C)
    assert logits_of(SHAPES[shape](logits)) is logits


def mean_objective(outputs, labels, num_items_in_batch=None):
    """As a transformers user writes it: a mean, or a sum over the items of the step."""
    logits = logits_of(outputs)
    reduction = "mean" if num_items_in_batch is None else "sum"
    loss = functional.cross_entropy(logits, labels, reduction=reduction)
    return loss if num_items_in_batch is None else loss / num_items_in_batch


def plain_mean(outputs, labels, num_items_in_batch=None):
    return functional.cross_entropy(logits_of(outputs), labels)


def plain_sum(outputs, labels, num_items_in_batch=None):
    return functional.cross_entropy(logits_of(outputs), labels, reduction="sum")


@every_case("objective", [mean_objective, plain_mean, plain_sum])
@every_case("shape", SHAPES)
def test_one_by_one_is_the_unreduced_loss(objective, shape):
    logits, labels = values(N, C), class_labels()
    losses = one_by_one(objective)(SHAPES[shape](logits), labels)
    torch.testing.assert_close(losses, functional.cross_entropy(logits, labels, reduction="none"))


def test_one_by_one_cuts_every_tensor_of_a_dict():
    def objective(outputs, labels, num_items_in_batch):
        assert type(outputs) is dict and outputs["weight"].shape == labels.shape == (1,)
        return outputs["weight"][0] * outputs["logits"][0, labels[0]]

    logits, labels, weight = values(N, C), class_labels(), torch.arange(N)
    losses = one_by_one(objective)({"logits": logits, "weight": weight}, labels)
    torch.testing.assert_close(losses, weight * logits[torch.arange(N), labels])


@every_case("labels", [class_labels(), multi_labels()], ids=["single", "multi"])
@every_case("as_tensor", [True, False])
def test_weighted_means_of_micro_batches_add_up_to_that_of_the_step(labels, as_tensor):
    losses, weights = values(N).abs(), torch.arange(1.0, N + 1)
    items = labels.numel()  # as Trainer counts what is in a step
    counted = torch.tensor(items) if as_tensor else items
    parts = [slice(0, 2), slice(2, 5), slice(5, 6)]
    found = sum(weighted_mean(losses[p], weights[p], labels[p], counted) for p in parts)
    expected = sum(float(loss) * float(weight) for loss, weight in zip(losses, weights, strict=True)) / N
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_weighted_mean_without_a_count_is_the_batchs():
    losses, weights = values(N).abs(), torch.arange(1.0, N + 1)
    found = weighted_mean(losses, weights, multi_labels(), None)
    torch.testing.assert_close(found, (losses * weights).mean())
