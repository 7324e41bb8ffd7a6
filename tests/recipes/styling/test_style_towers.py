"""The frozen networks, against transformers' own way through them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers as tf
from PIL import Image
from safetensors.torch import save_file
from styling import StyleOptions
from styling.network import to_tensor
from styling.towers import ContentNetwork, ImageTower, text_direction
from tiny_towers import IMAGE_SIZE, save_text_tower, save_timm, save_vit
from torch.nn.functional import normalize

from vecaf_hf.cost import CostMeter


@pytest.fixture
def picture() -> Image.Image:
    colours = np.random.default_rng(0).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    return Image.fromarray(colours)


def test_images_are_embedded_as_the_processor_and_the_model_do(clip: str, picture: Image.Image) -> None:
    pixels = tf.CLIPImageProcessor.from_pretrained(clip)(images=[picture], return_tensors="pt")
    with torch.no_grad():
        wanted = normalize(tf.CLIPModel.from_pretrained(clip).get_image_features(**pixels).pooler_output, dim=-1)
    torch.testing.assert_close(ImageTower(clip)(to_tensor(picture)[None]), wanted)


def test_images_of_any_size_have_a_gradient_and_the_tower_has_none(clip: str) -> None:
    tower, images = ImageTower(clip), torch.rand(2, 3, 40, 23, requires_grad=True)
    embeddings = tower(images)
    assert embeddings.norm(dim=1).tolist() == pytest.approx([1, 1])
    embeddings[:, 0].sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_direction_of_the_texts_is_between_means_over_templates(
    clip: str, options: Callable[..., StyleOptions]
) -> None:
    model, tokenizer = tf.CLIPModel.from_pretrained(clip), tf.CLIPTokenizer.from_pretrained(clip)

    def mean(texts: list[str]) -> torch.Tensor:
        with torch.no_grad():
            rows = [model.get_text_features(**tokenizer(text, return_tensors="pt")).pooler_output[0] for text in texts]
        return normalize(torch.stack(rows).mean(dim=0), dim=0)

    meter = CostMeter()
    given = options(prompt="snow", source="a picture", templates=["{}", "art of {}"])
    direction = text_direction(given, meter, "cpu")
    torch.testing.assert_close(direction, mean(["snow", "art of snow"]) - mean(["a picture", "art of a picture"]))
    assert meter.work["encode_text"].samples == 4
    assert meter.work["encode_text"].flops > 0


def test_a_prompt_that_is_the_source(options: Callable[..., StyleOptions]) -> None:
    with pytest.raises(ValueError, match="has the same embedding for the prompt 'a photo' and the source text"):
        text_direction(options(prompt="a photo"), CostMeter(), "cpu")


def test_an_encoder_of_texts_alone(options: Callable[..., StyleOptions], tmp_path: Path) -> None:
    given = options(clip=save_text_tower(tmp_path))
    with pytest.raises(ValueError, match="embeds texts but no images: choose a dual encoder"):
        text_direction(given, CostMeter(), "cpu")


def test_features_of_a_timm_network(content: str) -> None:
    images = torch.rand(2, 3, 32, 32)
    found = ContentNetwork(content, ["layer2", "act1"])(images)
    timm_model = tf.AutoModel.from_pretrained(content).timm_model.eval()
    mean, deviation = (torch.tensor(values)[:, None, None] for values in ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3]))
    with torch.no_grad():
        _, maps = timm_model.forward_intermediates((images - mean) / deviation)
    torch.testing.assert_close(found[0], maps[2])
    torch.testing.assert_close(found[1], maps[0])


def test_a_checkpoint_as_timms_are_on_the_hub(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet").eval()
    config = {"architecture": "test_resnet", "num_classes": 1000, "pretrained_cfg": model.pretrained_cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    images = torch.rand(2, 3, 32, 32)
    found = ContentNetwork(str(tmp_path), ["layer4"])(images)
    mean, deviation = (torch.tensor(model.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(found[0], model.forward_features((images - mean) / deviation))


def test_features_of_the_default_layers_are_vggs_fourth_and_fifth_block() -> None:
    layers = StyleOptions("snow").content_layers
    # On the meta device: half a gigabyte of weights that nobody reads.
    with torch.device("meta"):
        features = timm.create_model("vgg19", num_classes=0).features
    pools = [place for place, layer in enumerate(features) if isinstance(layer, torch.nn.MaxPool2d)]
    for layer, start in zip(layers, pools[2:4], strict=True):
        assert layer == f"features.{start + 4}"
        assert [type(module).__name__ for module in features[start + 1 : start + 5]] == ["Conv2d", "ReLU"] * 2


def test_features_of_a_network_of_transformers_own(tmp_path: Path) -> None:
    folder, images = save_vit(tmp_path), torch.rand(2, 3, 24, 24)
    found = ContentNetwork(folder, ["layers.0", "layers.1"])(images)
    model = tf.ViTModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = model(pixel_values=(images - 0.5) / 0.5, output_hidden_states=True).hidden_states
    torch.testing.assert_close(found[0], states[1])


def test_content_layers_that_are_not_there(content: str) -> None:
    with pytest.raises(ValueError, match=r"content_layers of .* is 'layer9' \(did you mean 'layer"):
        ContentNetwork(content, ["layer9"])


def test_a_content_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot load the image processor of content model"):
        ContentNetwork(str(tmp_path / "nothing"), ["layer2"])


def test_content_weights_in_a_pickle_are_not_read(tmp_path: Path) -> None:
    folder = Path(save_timm(tmp_path))
    torch.save(tf.AutoModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"weights \(safetensors alone\) of content model"):
        ContentNetwork(str(folder), ["layer2"])
