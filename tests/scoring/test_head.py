"""Heads of real architectures, found, watched and checked."""

import pytest
import timm
import torch
import transformers
from every_case import every_case
from torch import nn
from transformers import AutoModelForImageClassification
from transformers.models.timm_wrapper import TimmWrapperConfig

from vecaf_hf.scoring.entering import Head, TwoHeads
from vecaf_hf.scoring.head import alike, find_head, flat, makes

CONFIGS = {
    "ViT": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
    "Dinov2": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
    "Beit": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
    "ViTMSN": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
    "DeiT": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
    "Swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2},
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"},
    "RegNet": {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "groups_width": 4},
    "ConvNext": {"hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2},
    "MobileNetV2": {"depth_multiplier": 0.1},
    "PoolFormer": {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]},
    "FocalNet": {"embed_dim": 8, "depths": [1, 1], "focal_levels": [1, 1], "focal_windows": [1, 1]},
}


def tiny(architecture: str, **changes) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 4} | CONFIGS.get(architecture, {})
    config = getattr(transformers, f"{architecture}Config")(num_labels=3, **sizes, **changes)
    return getattr(transformers, f"{architecture}ForImageClassification")(config).eval()


def timm_wrapper(name: str) -> nn.Module:
    torch.manual_seed(0)
    config = TimmWrapperConfig(architecture=name, num_labels=3)
    return AutoModelForImageClassification.from_config(config).eval()


def pixels(size: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def settled(model: nn.Module, name: str | None = None, size: int = 32) -> Head:
    """The model's head, after a forward pass of which it makes the logits."""
    head = Head(model, name, "a test")
    with torch.inference_mode(), head.watched() as calls:
        logits = model(pixel_values=pixels(size)).logits
        embeddings = head.embeddings(calls, logits, check=True)
    assert embeddings.dim() == 2 and len(embeddings) == 2 and head.is_settled
    assert not any(module._forward_hooks for module in model.modules())
    with torch.inference_mode():
        assert makes(head.module, embeddings, logits)
    return head


@every_case("architecture", CONFIGS)
def test_the_head_is_found_and_its_input_makes_the_logits(architecture):
    model = tiny(architecture)
    assert find_head(model) is model.classifier
    assert settled(model).module is model.classifier


@every_case("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_timms_head_is_its_classifier(name):
    model = timm_wrapper(name)
    head = find_head(model)
    assert isinstance(head, nn.Linear) and head is model.timm_model.get_classifier()
    size = model.timm_model.pretrained_cfg["input_size"][-1]
    assert settled(model, size=size).module is head


def timm_distilled() -> nn.Module:
    sizes = {"img_size": 32, "embed_dim": 8, "num_heads": 2, "depth": 1}
    config = TimmWrapperConfig(architecture="deit_tiny_distilled_patch16_224", model_args=sizes, num_labels=3)
    return AutoModelForImageClassification.from_config(config).eval()


def transformers_distilled() -> nn.Module:
    config = transformers.DeiTConfig(image_size=32, patch_size=4, num_labels=3, **CONFIGS["DeiT"])
    return transformers.DeiTForImageClassificationWithTeacher(config).eval()


@every_case("make", [timm_distilled, transformers_distilled])
def test_what_enters_two_heads_side_by_side_makes_the_mean_of_their_logits(make):
    torch.manual_seed(0)
    model = make()
    head = settled(model)
    assert isinstance(head.module, TwoHeads) and head.module.divisor == 2 and head.module.widths == [8, 8]
    assert not head.takes_one and not head.module.training
    head.module.train()
    assert not model.training and all(part.training for part in head.module.heads)
    other = Head(model, None, "another process")
    other.adopt(head.state())
    embeddings = torch.randn(3, 16)
    assert torch.equal(other.module.eval()(embeddings), head.module(embeddings))


def test_a_head_of_another_name_is_found_by_what_it_makes():
    model = nn.Sequential()
    model.backbone, model.output = nn.Linear(2, 2), nn.Linear(2, 2)
    assert find_head(model) is None and find_head(model, "output") is model.output


def test_a_head_without_parameters_is_none():
    model = nn.Sequential()
    model.head, model.fc = nn.Identity(), nn.Linear(2, 2)
    assert find_head(model) is model.fc
    with pytest.raises(ValueError, match="has no classification head: set num_labels"):
        wrapper = nn.Module()
        wrapper.timm_model = timm.create_model("test_resnet", num_classes=0)
        find_head(wrapper)


def test_a_named_head_anywhere_inside_or_an_error():
    model = tiny("ResNet")
    assert find_head(model, "classifier.1") is model.classifier[1]
    assert settled(model, "classifier.1").module is model.classifier[1]
    with pytest.raises(ValueError, match="head is 'clasifier', and ResNetForImageClassification has no such module"):
        find_head(model, "clasifier")


def test_a_wrapper_around_the_model_is_looked_through():
    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def get_base_model(self):
            return self.inner

    model = tiny("ViT")
    assert find_head(Wrapper(model)) is model.classifier
    assert find_head(Wrapper(model), "classifier") is model.classifier


@every_case("shape", [(3, 5), (3, 5, 1, 1), (3, 5, 1), (1, 1, 1, 1)])
def test_one_embedding_a_sample_is_flattened(shape):
    embedding = torch.randn(shape)
    assert torch.equal(flat(embedding), embedding.reshape(shape[:2]))


@every_case("shape", [(3, 5, 2), (3, 5, 7, 7), (3, 1, 2, 1)])
def test_a_sequence_or_a_map_is_no_embedding(shape):
    with pytest.raises(ValueError, match="not one embedding per sample"):
        flat(torch.randn(shape))


def test_a_convolutional_head_is_checked_on_maps():
    head = nn.Conv2d(4, 2, kernel_size=1)
    embeddings = torch.randn(3, 4)
    assert makes(head, embeddings, head(embeddings[:, :, None, None]).flatten(1))


@every_case(
    "wrong",
    [lambda logits: logits * 1.05 + 0.1, lambda logits: logits.softmax(dim=1), lambda logits: logits[:, :1]],
)
def test_a_module_that_is_not_the_whole_head_is_refused(wrong):
    head, embeddings = nn.Linear(4, 2), 3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert makes(head, embeddings, head(embeddings))
    assert not makes(head, embeddings, wrong(head(embeddings)))


@every_case("factor", [1e-6, 1.0, 1e6])
def test_how_alike_logits_are_is_told_at_their_own_scale(factor):
    logits = factor * torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert alike(logits * (1 + 1e-6), logits) and not alike(logits * 1.01, logits)
    assert alike(logits.bfloat16(), logits) and not alike(logits.bfloat16() * 1.1, logits)
