"""Embeddings on disk, so that a text or an image is encoded once however often training starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vecaf_hf.text.shard_cache import Input, ShardCache

KEY_BYTES = hashlib.sha256().digest_size
# What decides a local model's output: weights, configuration, tokenizer, chat template, and code if it brings its own.
ENCODER_SUFFIXES = frozenset({".bin", ".jinja", ".json", ".model", ".py", ".safetensors", ".spm", ".txt"})
READ_BYTES = 2**20


class EmbeddingCache(ShardCache[Tensor]):
    """Embeddings [d] by one encoder, in safetensors."""

    what = "embeddings"
    suffix = ".safetensors"

    def rows(
        self,
        inputs: Iterable[Input],
        key_of: Callable[[Input], bytes],
        embed: Callable[[list[Input]], Tensor],
        at_once: int,
        found: Callable[[int], object] = lambda count: None,
    ) -> Tensor:
        """The embedding of every input, as `values` finds or makes them; `embed` takes k inputs -> [k, d]. [n, d]."""
        rows = self.values(inputs, key_of, embed, at_once, found)
        return torch.stack(rows) if rows else torch.empty(0, 0)

    def packed(self, keys: Sequence[bytes], values: Collection[Tensor]) -> bytes:
        packed = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, KEY_BYTES)
        return save({"keys": packed, "embeddings": torch.stack([*values])})

    def unpacked(self, shard: bytes, wanted: Collection[bytes]) -> tuple[list[bytes], dict[bytes, Tensor]]:
        try:
            tensors = load(shard)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        packed, embeddings = tensors["keys"], tensors["embeddings"]
        if packed.dtype != torch.uint8 or packed.dim() != 2 or packed.shape[1] != KEY_BYTES:
            raise ValueError(f"keys are {packed.dtype} {list(packed.shape)}")
        if embeddings.dtype != torch.float32 or embeddings.dim() != 2 or len(embeddings) != len(packed):
            raise ValueError(f"embeddings are {embeddings.dtype} {list(embeddings.shape)} for {len(packed)} keys")
        content = packed.numpy().tobytes()
        keys = [content[start : start + KEY_BYTES] for start in range(0, len(content), KEY_BYTES)]
        rows = {key: row for row, key in enumerate(keys) if key in wanted}
        return keys, dict(zip(rows, embeddings[list(rows.values())], strict=True))


def image_key(image: Image.Image) -> bytes:
    """The SHA-256 of what is seen of an image."""
    digest = hashlib.sha256(f"{image.mode} {image.width} x {image.height} ".encode())
    digest.update(image.tobytes())
    return digest.digest()


def encoder_fingerprint(name_or_path: str, commit: str | None, **settings: object) -> str:
    """Changes whenever an encoder's embeddings may.

    Args:
        name_or_path: A Hub id, which counts by name and commit, or a local folder, which counts by content:
            it may move, and it may be trained further in place.
        commit: Of the Hub id.
        **settings: Whatever else changes an embedding; JSON values.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    folder = Path(name_or_path)
    if folder.is_dir():
        for path in _encoder_files(folder):
            digest.update(path.relative_to(folder).as_posix().encode() + _content(path))
    else:
        digest.update(f"{name_or_path}@{commit}".encode())
    return digest.hexdigest()


def _encoder_files(folder: Path) -> Iterator[Path]:
    # One level of subfolders holds the modules of a sentence-transformers checkpoint.
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        if path.suffix in ENCODER_SUFFIXES and path.is_file():
            yield path


def _content(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.digest()
