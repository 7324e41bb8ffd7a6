"""Captions of images by a frozen model, each image captioned once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch
from PIL import Image

from vecaf_hf.data.rgb import to_rgb
from vecaf_hf.text.caption_checkpoint import CaptionCheckpoint, CaptionProcessor
from vecaf_hf.text.embedding_cache import KEY_BYTES, encoder_fingerprint, image_key
from vecaf_hf.text.encoder import default_device
from vecaf_hf.text.shard_cache import ShardCache
from vecaf_hf.validation import check_choice, whole

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Images between two writes to the cache: what a killed run loses at most. They are held in memory.
IMAGES_AT_ONCE = 256


class CaptionCache(ShardCache[str]):
    """Captions by one captioner, in lines of JSON: the key and the text."""

    what = "captions"
    suffix = ".jsonl"

    def packed(self, keys: Sequence[bytes], values: Collection[str]) -> bytes:
        return b"".join(json.dumps([key.hex(), text]).encode() + b"\n" for key, text in zip(keys, values, strict=True))

    def unpacked(self, shard: bytes, wanted: Collection[bytes]) -> tuple[list[bytes], dict[bytes, str]]:
        captions: dict[bytes, str] = {}
        for line in shard.decode().splitlines():
            match json.loads(line):
                case [str(key), str(text)] if len(key) == 2 * KEY_BYTES:
                    captions[bytes.fromhex(key)] = text
                case _:
                    raise ValueError(f"a line is {line:.80}")
        return list(captions), {key: text for key, text in captions.items() if key in wanted}


class Captioner:
    """A frozen captioner: any Hub id or local folder of images and text to text that transformers can load (BLIP,
    BLIP-2, GIT, a vision-encoder-decoder, LLaVA and other models with a chat template).

    Decoding is greedy. With what else is in a batch sums differ in their last bits, so that two words as likely as each
    other may change places: the same images in the same order, uninterrupted or not, make the same batches.

    The configuration is loaded at once, processor and weights only when an image is missing in the cache.

    Args:
        name_or_path: A Hub id or a folder.
        revision: Branch, tag or commit of the Hub id.
        prompt: Text that the caption goes on from, or an instruction where the model has a chat template, which has
            one by default.
        max_new_tokens: Tokens of a caption, at most.
        batch_size: Images per forward pass.
        dtype: float32, float16 or bfloat16: what the model computes in.
        cache_dir: Where captions are kept; by default `vecaf_hf/captions` in the Hugging Face home.
        device: Where to run, set until the first image is captioned; by default the accelerator if there is one.

    Attributes:
        forwards: Images that this object ran through the model; those in the cache were not.

    Raises:
        ValueError: The checkpoint is not found, not accessible or no captioner, or an option is none of its choices.
    """

    def __init__(
        self,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        prompt: str | None = None,
        max_new_tokens: int = 40,
        batch_size: int = 16,
        dtype: str = "float32",
        cache_dir: str | os.PathLike[str] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_choice("dtype", dtype, DTYPES, or_callable=False)
        if prompt is not None and not (isinstance(prompt, str) and prompt.strip()):
            raise ValueError(f"prompt is {prompt!r}; it must be a text, or None for the model's default")
        self.name_or_path = str(name_or_path)
        self.prompt, self.dtype, self.device = prompt, dtype, device
        self.max_new_tokens = whole("max_new_tokens", max_new_tokens, 1)
        self.batch_size = whole("batch_size", batch_size, 1)
        self.cache_dir = Path(cache_dir or Path(huggingface_hub.constants.HF_HOME) / "vecaf_hf" / "captions")
        self.forwards = 0
        self._checkpoint = CaptionCheckpoint(self.name_or_path, revision)

    def caption(
        self, images: Iterable[Image.Image], done: Callable[[int], object] = lambda count: None
    ) -> list[str | None]:
        """One caption per image, in their order; None where the model said nothing.

        Args:
            images: Taken one after the other, a few hundred in memory at a time.
            done: Told how many more images have their caption.

        Raises:
            ValueError: Processor or weights cannot be loaded, or the model needs a prompt.
        """
        rgb = (to_rgb(image) for image in images)
        texts = self._cache.values(rgb, image_key, partial(self._make, done), IMAGES_AT_ONCE, done)
        return [text or None for text in texts]

    def release(self) -> None:
        """Free the weights; what is in the cache stays at hand, and anything else loads them again."""
        self.__dict__.pop("_model", None)

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the captions may: checkpoint, prompt, length, precision."""
        return encoder_fingerprint(
            self.name_or_path,
            self._checkpoint.revision,
            prompt=self.prompt,
            max_new_tokens=self.max_new_tokens,
            dtype=self.dtype,
        )

    def _make(self, done: Callable[[int], object], images: list[Image.Image]) -> list[str]:
        """Captions that no cache holds."""
        texts: list[str] = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            texts += self._captions(batch)
            self.forwards += len(batch)
            done(len(batch))
        return texts

    @torch.inference_mode()
    def _captions(self, images: list[Image.Image]) -> list[str]:
        processor, model = self._processor, self._model
        try:
            inputs = processor.inputs(images).to(model.device, DTYPES[self.dtype])
            # Whatever the checkpoint's own generation config asks for.
            tokens = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens)
        except (TypeError, ValueError) as error:
            advice = "" if processor.prompt else '. If it needs one, give it a prompt: Captioner(..., prompt="...")'
            raise ValueError(f"captioner {self.name_or_path!r} fails on a batch of images: {error}{advice}") from error
        return processor.texts(tokens, inputs)

    @cached_property
    def _cache(self) -> CaptionCache:
        return CaptionCache(self.cache_dir / self.fingerprint)

    @cached_property
    def _processor(self) -> CaptionProcessor:
        return CaptionProcessor(self._checkpoint, self.prompt)

    @cached_property
    def _model(self) -> Any:
        return self._checkpoint.model(DTYPES[self.dtype]).to(self.device or default_device())
