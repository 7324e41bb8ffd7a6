"""What a style network is trained for and how, by default as the authors publish it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vecaf_hf.validation import check_at_least, check_positive, whole

# Pixels of a side that the network halves to more than one.
SMALLEST = 16


@dataclass(frozen=True)
class StyleOptions:
    """The style and its training.

    Weights, threshold and learning rate are those of the paper's style network, batch, steps and views those of its
    fast variant, where one network serves all images.

    Args:
        prompt: The style, such as "It's a snowy day.".
        source: What the images are without it.
        templates: Sentences in which prompt and source text are put at `{}`, and whose embeddings are averaged. The
            authors take CLIP's 79 for ImageNet, which fit nouns.
        clip: Hub id or folder of CLIP or another dual encoder, which says what looks like the prompt.
        content_model: Hub id (timm's too) or folder of the network whose features the content loss compares.
        content_layers: Names of its modules that give these features, by default the second ReLU of VGG-19's fourth and
            fifth block.
        image_size: Pixels of a side of the random crops that are trained on. Smaller images are enlarged to it, so for
            small images set it to their size, at least 16.
        batch_size: Crops per step.
        steps: Steps of Adam.
        views: Random perspectives of each restyled crop, of the patch loss.
        threshold: Tau: views whose directional loss is not above it count as zero.
        learning_rate: Of Adam.
        direction_weight: Lambda_d, of the directional loss.
        patch_weight: Lambda_p, of the patch loss.
        content_weight: Lambda_c, of the content loss.
        variation_weight: Lambda_tv, of the total variation.
        seed: Fixes the network's start, the crops and the views.

    Raises:
        ValueError: A text is empty or an option out of its range.
    """

    prompt: str
    source: str = "a photo"
    templates: Sequence[str] = ("{}",)
    clip: str = "openai/clip-vit-base-patch32"
    content_model: str = "timm/vgg19.tv_in1k"
    content_layers: Sequence[str] = ("features.22", "features.31")
    image_size: int = 224
    batch_size: int = 4
    steps: int = 200
    views: int = 16
    threshold: float = 0.7
    learning_rate: float = 5e-4
    direction_weight: float = 500.0
    patch_weight: float = 9000.0
    content_weight: float = 150.0
    variation_weight: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("prompt", "source", "clip", "content_model"):
            text = getattr(self, name)
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{name} is {text!r}; it must be a text")
        for name, example in (("templates", "a photo of {}"), ("content_layers", "features.22")):
            _check_texts(name, getattr(self, name), example)
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for template in self.templates:
            if "{}" not in template:
                raise ValueError(f"templates holds {template!r}, which has no {{}} where the text would stand")
        for name, least in (("image_size", SMALLEST), ("batch_size", 1), ("steps", 1), ("views", 1), ("seed", 0)):
            whole(name, getattr(self, name), least)
        check_positive("learning_rate", self.learning_rate)
        for name in ("threshold", "direction_weight", "patch_weight", "content_weight", "variation_weight"):
            check_at_least(name, getattr(self, name), 0)


def _check_texts(name: str, values: object, example: str) -> None:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ValueError(f"{name} is {values!r}; it must be a list of texts, such as [{example!r}]")
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"{name} holds {value!r}; all of it must be texts")
