"""Captioners of two layers with random weights and real tokenizers of letters, as folders that any loader takes."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from PIL import Image

LETTERS = string.ascii_lowercase
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
VISION = {**SIZES, "image_size": 16, "patch_size": 8}
# BERT's special tokens, and the letters at the beginning of a word and inside one.
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *("##" + letter for letter in LETTERS)]
START, END, IMAGE_TOKEN = 2, 3, len(VOCABULARY)
CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} a{% endif %}"
)


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Images in colour, of several sizes."""
    random = np.random.default_rng(seed)
    return [
        Image.fromarray(random.integers(0, 256, (16 + 2 * number, 20, 3), dtype=np.uint8)) for number in range(count)
    ]


def tokenizer() -> Any:
    return tf.BertTokenizer(vocab={token: number for number, token in enumerate(VOCABULARY)})


def text_sizes(**options: Any) -> dict[str, Any]:
    ids = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": 0}
    return {**SIZES, "vocab_size": len(VOCABULARY), "max_position_embeddings": 40, **ids, **options}


def clip_images() -> Any:
    return tf.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)


def blip_images() -> Any:
    return tf.BlipImageProcessor(size={"height": 16, "width": 16})


def blip() -> list[Any]:
    text = text_sizes(sep_token_id=END, encoder_hidden_size=16)
    config = tf.BlipConfig(text_config=text, vision_config=VISION, projection_dim=12)
    return [tf.BlipForConditionalGeneration(config), tf.BlipProcessor(blip_images(), tokenizer())]


def blip2() -> list[Any]:
    text = {"model_type": "opt", "ffn_dim": 24, "word_embed_proj_dim": 16, **text_sizes(vocab_size=IMAGE_TOKEN + 1)}
    former = {**SIZES, "encoder_hidden_size": 16, "vocab_size": len(VOCABULARY)}
    sizes = {"num_query_tokens": 4, "image_token_index": IMAGE_TOKEN}
    config = tf.Blip2Config(vision_config=VISION, qformer_config=former, text_config=text, **sizes)
    processor = tf.Blip2Processor(blip_images(), tokenizer(), num_query_tokens=4)
    return [tf.Blip2ForConditionalGeneration(config), processor]


def git() -> list[Any]:
    config = tf.GitConfig(vision_config={**VISION, "projection_dim": 16}, **text_sizes())
    return [tf.GitForCausalLM(config), tf.GitProcessor(clip_images(), tokenizer())]


def vision_encoder_decoder() -> list[Any]:
    """Two configurations in one, and no processor that joins tokenizer and image processor."""
    decoder = tf.BertConfig(**text_sizes(is_decoder=True, add_cross_attention=True))
    config = tf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(tf.ViTConfig(**VISION), decoder)
    model = tf.VisionEncoderDecoderModel(config)
    settings = model.generation_config
    settings.decoder_start_token_id, settings.eos_token_id, settings.pad_token_id = START, END, 0
    return [model, tokenizer(), tf.ViTImageProcessor(size={"height": 16, "width": 16})]


def llava() -> list[Any]:
    """Follows instructions, by a chat template."""
    vision = {"model_type": "clip_vision_model", **VISION, "projection_dim": 16}
    text = {"model_type": "llama", "num_key_value_heads": 2, **text_sizes(vocab_size=IMAGE_TOKEN + 1)}
    text["max_position_embeddings"] = 200
    config = tf.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, vision_feature_layer=-1
    )
    words = tokenizer()
    words.add_tokens(["<image>"], special_tokens=True)
    rows = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return [
        tf.LlavaForConditionalGeneration(config),
        tf.LlavaProcessor(clip_images(), words, chat_template=CHAT, **rows),
    ]


KINDS = [blip, blip2, git, vision_encoder_decoder, llava]


def write(kind: Any, folder: Path, seed: int = 0) -> str:
    """Save a captioner whose captions tell images apart, and end."""
    torch.manual_seed(seed)
    model, *parts = kind()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.7)
    for part in (model, *parts):
        part.save_pretrained(folder)
    return str(folder)
