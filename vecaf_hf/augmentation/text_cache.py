"""Text embeddings on disk, so that a caption is encoded once however often training starts."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)

KEY_BYTES = hashlib.sha256().digest_size
# What decides a local encoder's output: weights, configuration, tokenizer, and code if it brings its own.
ENCODER_SUFFIXES = frozenset({".bin", ".json", ".model", ".py", ".safetensors", ".spm", ".txt"})
READ_BYTES = 2**20


class TextCache:
    """Embeddings of texts by one encoder, in shards that are written once and never changed.

    Processes may share a folder: a shard appears complete or not at all, and a text that two of them encoded
    lies there twice.

    Args:
        folder: Of this encoder alone, see `encoder_fingerprint`; made if it does not exist.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """The embedding [d_t] of every text that is known; a damaged shard is removed with a warning."""
        wanted = {_key(text): text for text in texts}
        found: dict[str, Tensor] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            if not wanted:
                break
            for key, embedding in self._hits(path, wanted).items():
                found[wanted.pop(key)] = embedding
        return found

    def put(self, texts: Sequence[str], embeddings: Tensor) -> None:
        """Add texts with their embeddings. [n, d_t]."""
        keys = torch.frombuffer(bytearray(b"".join(map(_key, texts))), dtype=torch.uint8)
        path = self.folder / f"{uuid.uuid4().hex}.safetensors"
        unfinished = path.with_suffix(".tmp")
        save_file({"keys": keys.view(-1, KEY_BYTES), "embeddings": embeddings.contiguous()}, unfinished)
        os.replace(unfinished, path)

    def _hits(self, path: Path, wanted: Mapping[bytes, str]) -> dict[bytes, Tensor]:
        try:
            keys, embeddings = _read(path)
        except FileNotFoundError:
            return {}  # Another process found it damaged and was faster to remove it.
        except (SafetensorError, ValueError) as error:
            logger.warning("Removing the damaged text cache %s (%s): its texts are encoded anew", path, error)
            path.unlink(missing_ok=True)
            return {}
        rows = {key: row for row, key in enumerate(keys) if key in wanted}
        return dict(zip(rows, embeddings[list(rows.values())], strict=True))


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _read(path: Path) -> tuple[list[bytes], Tensor]:
    """The keys of a shard and its embeddings [n, d_t]."""
    with safe_open(path, framework="pt") as shard:
        keys, embeddings = shard.get_tensor("keys"), shard.get_tensor("embeddings")
    if keys.dtype != torch.uint8 or keys.dim() != 2 or keys.shape[1] != KEY_BYTES:
        raise ValueError(f"keys are {keys.dtype} {list(keys.shape)}")
    if embeddings.dtype != torch.float32 or embeddings.dim() != 2 or len(embeddings) != len(keys):
        raise ValueError(f"embeddings are {embeddings.dtype} {list(embeddings.shape)} for {len(keys)} keys")
    if not bool(embeddings.isfinite().all()):
        raise ValueError("embeddings are not finite")
    packed = keys.numpy().tobytes()
    return [packed[start : start + KEY_BYTES] for start in range(0, len(packed), KEY_BYTES)], embeddings


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
