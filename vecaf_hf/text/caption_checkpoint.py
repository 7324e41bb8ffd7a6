"""A captioner's checkpoint, on the Hub or in a folder: what kind of model it is, and its parts loaded."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from vecaf_hf.text.checkpoint import check_vocabulary, load_part

KIND = "captioner"
# What a model that follows instructions is told unless the user says otherwise.
INSTRUCTION = "Describe this image in one short sentence."
# Models that have seen captions alone: a prompt would end where their caption begins.
UNPROMPTED = ("git", "vision-encoder-decoder")


class CaptionCheckpoint:
    """Any model that transformers loads for images and text to text; the configuration at once, its parts when they are
    asked for. Weights are read from safetensors alone, and code that a checkpoint brings is never run.

    Args:
        name_or_path: A Hub id or a folder.
        revision: Branch, tag or commit of the Hub id.

    Attributes:
        revision: The commit that the configuration came from, should the branch move meanwhile.

    Raises:
        ValueError: The checkpoint is not found, not accessible or no captioner.
    """

    def __init__(self, name_or_path: str, revision: str | None) -> None:
        self.name_or_path, self.revision = name_or_path, revision
        self.config: PreTrainedConfig = self.load(AutoConfig, "configuration")
        self.revision = getattr(self.config, "_commit_hash", None) or revision
        if type(self.config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise ValueError(
                f"{name_or_path!r} is no captioner: a {self.config.model_type} makes no text of images. Choose a BLIP, "
                "BLIP-2, GIT or another model of images and text to text"
            )

    def model(self, dtype: torch.dtype) -> Any:
        """The frozen model on the CPU.

        Raises:
            ValueError: It cannot be loaded, or lacks weights: it was trained for something else.
        """
        options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        model, report = self.load(AutoModelForImageTextToText, "weights (safetensors alone)", **options)
        if report["missing_keys"]:
            raise ValueError(
                f"{self.name_or_path!r} has no weights to write captions with: {sorted(report['missing_keys'])[0]} is "
                "missing"
            )
        return model.eval().requires_grad_(False)

    def load(self, source: Any, part: str, **options: Any) -> Any:
        """`source.from_pretrained`, with errors that say which part is wrong."""
        options |= {"revision": self.revision, "trust_remote_code": False}
        return load_part(source, part, KIND, self.name_or_path, **options)


class CaptionProcessor:
    """Images into what the checkpoint's model takes, and its tokens into text.

    Args:
        checkpoint: Whose processor this is.
        prompt: Text before the caption; of a model with a chat template, the user's words (INSTRUCTION if None).

    Raises:
        ValueError: It cannot be loaded, or the model takes no prompt.
    """

    def __init__(self, checkpoint: CaptionCheckpoint, prompt: str | None) -> None:
        if prompt is not None and checkpoint.config.model_type in UNPROMPTED:
            raise ValueError(
                f"captioner {checkpoint.name_or_path!r} takes no prompt: a {checkpoint.config.model_type} is given "
                "images alone"
            )
        self.name_or_path = checkpoint.name_or_path
        processor = checkpoint.load(AutoProcessor, "processor")
        if hasattr(processor, "tokenizer"):
            self.tokenizer = processor.tokenizer
        else:
            # A vision-encoder-decoder has two parts and no processor that joins them.
            self.tokenizer = checkpoint.load(AutoTokenizer, "tokenizer")
            processor = checkpoint.load(AutoImageProcessor, "image processor")
        check_vocabulary(self.tokenizer, KIND, self.name_or_path)
        # Words follow the last token of the prompt: nothing may stand between them.
        self.tokenizer.padding_side = "left"
        self._processor = processor
        self._chats = getattr(processor, "chat_template", None) is not None
        self.prompt = INSTRUCTION if prompt is None and self._chats else prompt

    def inputs(self, images: list[Image.Image]) -> BatchFeature:
        """What `generate` takes, for a batch of RGB images."""
        if self._chats:
            return self._processor.apply_chat_template(
                [self._chat(image) for image in images],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
                processor_kwargs={"padding": True},
            )
        if self.prompt is None:
            return self._processor(images=images, return_tensors="pt")
        return self._processor(images=images, text=[self.prompt] * len(images), padding=True, return_tensors="pt")

    def texts(self, tokens: Tensor, inputs: BatchFeature) -> list[str]:
        """One line per image from what `generate` returned. [n, L]."""
        prompt = inputs.get("input_ids")
        if prompt is not None and torch.equal(tokens[:, : prompt.shape[1]], prompt):
            tokens = tokens[:, prompt.shape[1] :]
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def _chat(self, image: Image.Image) -> list[dict[str, Any]]:
        content = [{"type": "image", "image": image}, {"type": "text", "text": self.prompt}]
        return [{"role": "user", "content": content}]
