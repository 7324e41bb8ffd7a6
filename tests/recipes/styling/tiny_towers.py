"""A tiny CLIP, a text encoder and content networks, built from config and saved as checkpoints."""

from __future__ import annotations

import string
from pathlib import Path

import torch
import transformers as tf
from transformers.models.timm_wrapper import TimmWrapperConfig

WINDOW = 60
IMAGE_SIZE = 16
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = {**SIZES, "vocab_size": 56, "max_position_embeddings": WINDOW, "bos_token_id": 0, "eos_token_id": 1}


def tokenizer() -> tf.CLIPTokenizer:
    letters = string.ascii_lowercase
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters), ".</w>", "'"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return tf.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=WINDOW)


def save_clip(folder: Path) -> str:
    torch.manual_seed(0)
    vision = {**SIZES, "image_size": IMAGE_SIZE, "patch_size": 4}
    config = tf.CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=12)
    # At the usual deviation a tower this small is nearly blind.
    config.vision_config.initializer_factor = config.text_config.initializer_factor = 20.0
    tf.CLIPModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    size = {"shortest_edge": IMAGE_SIZE}
    tf.CLIPImageProcessor(size=size, crop_size=IMAGE_SIZE).save_pretrained(folder)
    return str(folder)


def save_text_tower(folder: Path) -> str:
    tf.CLIPTextModel(tf.CLIPTextConfig(**TEXT)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def save_timm(folder: Path, architecture: str = "test_resnet") -> str:
    torch.manual_seed(0)
    statistics = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "input_size": [3, 32, 32]}
    config = TimmWrapperConfig.from_dict(
        {"architecture": architecture, "num_classes": 4, "pretrained_cfg": statistics, "do_pooling": False}
    )
    tf.AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    return str(folder)


def save_vit(folder: Path) -> str:
    """A network of transformers' own."""
    torch.manual_seed(0)
    tf.ViTModel(tf.ViTConfig(**SIZES, image_size=24, patch_size=8)).save_pretrained(folder)
    tf.ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder)
    return str(folder)
