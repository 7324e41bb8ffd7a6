"""t_i = LM(c_i) of Section 3.2: caption embeddings by a frozen text encoder, each caption encoded once."""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub.constants
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from vecaf_hf.data.rgb import to_rgb
from vecaf_hf.text.checkpoint import TextCheckpoint
from vecaf_hf.text.embedding_cache import EmbeddingCache, encoder_fingerprint, image_key
from vecaf_hf.text.pooling import POOLINGS, pool, projected
from vecaf_hf.validation import check_at_least, check_choice

logger = logging.getLogger(__name__)

# The window of an encoder with relative positions whose tokenizer names no limit (mT5).
DEFAULT_WINDOW = 512
# Tokenizers without a limit say 1e30.
UNLIMITED = 10**9
DTYPE = torch.float32
# Texts, and images, between two writes to the cache: what a killed run loses at most. Images are held in memory.
TEXTS_AT_ONCE = 4096
IMAGES_AT_ONCE = 256


class TextEncoder:
    """A frozen text encoder: any Hub id or local folder that transformers can load.

    One text becomes one vector by the encoder's kind (`pooling="auto"`):

    - dual encoder (CLIP, SigLIP, ALIGN, ...), CLIP's text tower: its projected or pooled output;
    - sentence-transformers checkpoint: the pooling that it names; a Dense or Normalize module is left out;
    - causal language model (GPT-2, Llama, ...): the last token, the only one that has seen the whole text;
    - encoder-decoder (T5, mT5, BART, ...): the encoder alone, mean over the tokens;
    - everything else: mean over the tokens. Not BERT's pooler, which was trained for next-sentence
      prediction and which many checkpoints lack, so that it would be random.

    The configuration is loaded at once, tokenizer and weights only when a text is missing in the cache.

    Args:
        name_or_path: A Hub id or a folder.
        revision: Branch, tag or commit of the Hub id.
        pooling: auto, or one of pooled, mean, last, cls, max.
        max_length: Tokens per text, at most; by default what the encoder takes.
        batch_size: Texts (or images) per forward pass; changes no result.
        cache_dir: Where embeddings are kept; by default `vecaf_hf/embeddings` in the Hugging Face home.
        trust_remote_code: Whether to run modelling code that the checkpoint brings.
        device: Where to run, set until the first text is encoded; by default the accelerator if there is one.
        disable_tqdm: Whether to hide progress bars.

    Attributes:
        forwards: Texts and images that this object ran through the model; those in the cache were not.
        truncated: Texts given to this object that exceed the encoder's window, and so lost their end.

    Raises:
        ValueError: The checkpoint is not found, not accessible or no text encoder, or an option is not one of
            its choices.
    """

    def __init__(
        self,
        name_or_path: str,
        *,
        revision: str | None = None,
        pooling: str = "auto",
        max_length: int | None = None,
        batch_size: int = 64,
        cache_dir: str | os.PathLike[str] | None = None,
        trust_remote_code: bool = False,
        device: torch.device | str | None = None,
        disable_tqdm: bool = True,
    ) -> None:
        check_choice("pooling", pooling, POOLINGS)
        check_at_least("batch_size", batch_size, 1)
        check_at_least("max_length", 1 if max_length is None else max_length, 1)
        self.name_or_path = str(name_or_path)
        self.max_length = max_length
        self.batch_size = batch_size
        self.cache_dir = Path(cache_dir or Path(huggingface_hub.constants.HF_HOME) / "vecaf_hf" / "embeddings")
        self.trust_remote_code = trust_remote_code
        self.device = device
        self.disable_tqdm = disable_tqdm
        self.forwards = 0
        self.truncated = 0
        self._truncated: set[str] = set()
        self._dimension: int | None = None
        self._checkpoint = TextCheckpoint(self.name_or_path, revision, trust_remote_code)
        self.pooling = self._checkpoint.pooling() if pooling == "auto" else pooling

    @property
    def is_dual(self) -> bool:
        """Whether the encoder also embeds images, into the same space."""
        return self._checkpoint.is_dual

    @property
    def dimension(self) -> int:
        """d_t. Before anything is encoded, one word finds it out."""
        if self._dimension is None:
            self.encode(["text"])
        assert self._dimension is not None
        return self._dimension

    def encode(self, texts: Sequence[str]) -> Tensor:
        """One row per text, in their order: float32 on the CPU, [n, d_t].

        Args:
            texts: The same text more than once is encoded once. Of length n.

        Raises:
            ValueError: A text is empty or not a string (the message says at which position), or the tokenizer
                or the weights cannot be loaded.
        """
        for position, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"text {position} is {text!r}: only non-empty strings can be encoded")
            if not _is_unicode(text):
                raise ValueError(f"text {position} is {text!r}: it holds half a character, which nothing can encode")
        if not texts:
            return torch.empty(0, self.dimension)
        with self._progress("texts", len(texts)) as progress:
            embed = partial(self._embed_texts, progress)
            rows = self._text_cache.rows(texts, _text_key, embed, TEXTS_AT_ONCE, progress.update)
        self._note_truncated(texts, rows[:, -1])
        self._dimension = rows.shape[1] - 1
        return rows[:, :-1].contiguous()

    def encode_images(self, images: Iterable[Image.Image], total: int | None = None) -> Tensor:
        """One row per image, in the space of the texts: float32 on the CPU, [n, d_t].

        Args:
            images: Taken one after the other, a few hundred in memory at a time.
            total: How many there are, for the progress bar.

        Raises:
            ValueError: The encoder is no dual encoder.
        """
        if not self.is_dual:
            raise ValueError(
                f"{self.name_or_path!r} has no image tower, so it cannot embed images: choose a dual encoder "
                'such as CLIP or SigLIP, or align its texts with alignment="ridge"'
            )
        with self._progress("images", total) as progress:
            embed, rgb = partial(self._embed_images, progress), (to_rgb(image) for image in images)
            rows = self._image_cache.rows(rgb, image_key, embed, IMAGES_AT_ONCE, progress.update)
        return rows if len(rows) else torch.empty(0, self.dimension)

    def release(self) -> None:
        """Free the weights; what is in the cache stays at hand, and anything else loads them again."""
        self.__dict__.pop("_model", None)

    def _embed_texts(self, progress: tqdm[NoReturn], texts: list[str]) -> Tensor:
        """Texts that no cache holds, longest first so that a batch is padded little. The last column is not of the
        embedding: it has the tokens that the text lost. [n, d_t + 1]."""
        lengths = [len(ids) for ids in self._tokenizer(texts, verbose=False)["input_ids"]]
        order = sorted(range(len(texts)), key=lengths.__getitem__, reverse=True)
        rows = []
        for start in range(0, len(order), self.batch_size):
            batch = [texts[position] for position in order[start : start + self.batch_size]]
            rows.append(self._text_features(batch))
            progress.update(len(batch))
        # Outside inference mode, so that what leaves here is an ordinary tensor.
        embeddings = torch.cat(rows)[torch.tensor(order).argsort()]
        lost = (torch.tensor(lengths) - self._window).clamp(min=0)
        return self._counted(torch.cat([embeddings, lost[:, None]], dim=1), texts)

    def _embed_images(self, progress: tqdm[NoReturn], images: list[Image.Image]) -> Tensor:
        rows = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            rows.append(self._image_features(batch))
            progress.update(len(batch))
        return self._counted(torch.cat(rows), images)

    def _counted(self, rows: Tensor, inputs: Sequence[object]) -> Tensor:
        if not bool(rows.isfinite().all()):
            position = int((~rows.isfinite().all(dim=1)).nonzero()[0, 0])
            raise ValueError(f"{self.name_or_path!r} has no finite embedding for {inputs[position]!r}")
        self.forwards += len(rows)
        return rows

    def _note_truncated(self, texts: Sequence[str], lost: Tensor) -> None:
        new = {text: count for text, count in zip(texts, lost.tolist(), strict=True) if count > 0}
        new = {text: count for text, count in new.items() if text not in self._truncated}
        if new:
            self._truncated |= new.keys()
            self.truncated = len(self._truncated)
            logger.warning(
                "%d texts lose their end, %d tokens at most: they exceed the encoder's window",
                len(new),
                max(new.values()),
            )

    def _progress(self, what: str, total: int | None) -> tqdm[NoReturn]:
        return tqdm(total=total, desc=f"Encoding {what}", disable=self.disable_tqdm, leave=False)

    @torch.inference_mode()
    def _text_features(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(
            texts,
            # SigLIP has only ever seen texts of its full length.
            padding="max_length" if self._checkpoint.is_siglip else True,
            truncation=True,
            max_length=self._window,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self._model.device)
        mask = tokens["attention_mask"]
        if self._checkpoint.is_siglip:
            del tokens["attention_mask"]  # Nor was it trained with a mask: padding is part of its input.
        forward = getattr(self._model, "get_text_features", self._model.forward)
        # A checkpoint's own code may not take all that its tokenizer returns (token types).
        accepted = inspect.signature(forward).parameters
        outputs = forward(**{name: values for name, values in tokens.items() if name in accepted})
        return pool(outputs, mask, self.pooling).float().cpu()

    @torch.inference_mode()
    def _image_features(self, images: list[Image.Image]) -> Tensor:
        pixels = self._image_processor(images=images, return_tensors="pt").to(self._model.device)
        return projected(self._model.get_image_features(**pixels)).float().cpu()

    @property
    def _window(self) -> int:
        """Tokens of a text that the encoder sees."""
        stated = self._tokenizer.model_max_length
        # RoBERTa's positions count two more than it can use; its tokenizer, or the default, stays below them.
        window = self.max_length or (stated if stated < UNLIMITED else DEFAULT_WINDOW)
        positions = getattr(self._checkpoint.text_config, "max_position_embeddings", None) or 0
        return min(window, positions) if positions > 0 else window

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the embeddings may: checkpoint, pooling, window, precision, the code that runs."""
        return encoder_fingerprint(
            self.name_or_path,
            self._checkpoint.revision,
            pooling=self.pooling,
            max_length=self.max_length,
            dtype=str(DTYPE),
            # A checkpoint that brings its own code is another model without it; the module's name has its commit.
            model=f"{self._checkpoint.model_class.__module__}.{self._checkpoint.model_class.__qualname__}",
        )

    @cached_property
    def _text_cache(self) -> EmbeddingCache:
        return EmbeddingCache(self.cache_dir / self.fingerprint / "texts")

    @cached_property
    def _image_cache(self) -> EmbeddingCache:
        return EmbeddingCache(self.cache_dir / self.fingerprint / "images")

    @cached_property
    def _tokenizer(self) -> Any:
        return self._checkpoint.tokenizer()

    @cached_property
    def _image_processor(self) -> Any:
        return self._checkpoint.image_processor()

    @cached_property
    def _model(self) -> Any:
        return self._checkpoint.model(self.pooling, DTYPE).to(self.device or default_device())


def _text_key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _is_unicode(text: str) -> bool:
    """False for a name of a file that is no UTF-8, as Python reads it."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def default_device() -> torch.device | str:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or "cpu"
