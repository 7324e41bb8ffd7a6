"""Embeddings on disk, so that a text or an image is encoded once however often training starts."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

logger = logging.getLogger(__name__)

Input = TypeVar("Input")

KEY_BYTES = hashlib.sha256().digest_size
# What decides a local encoder's output: weights, configuration, tokenizer, and code if it brings its own.
ENCODER_SUFFIXES = frozenset({".bin", ".json", ".model", ".py", ".safetensors", ".spm", ".txt"})
READ_BYTES = 2**20
# No shard takes this long to write: an older unfinished one was left by a process that died.
STALE_SECONDS = 3600


class EmbeddingCache:
    """Embeddings by one encoder, each under the SHA-256 of what was embedded.

    They lie in shards that are written once and never changed. Processes may share a folder: a shard appears whole or
    not at all, its name is the SHA-256 of its bytes, and what two processes encoded may lie there twice. A disk that
    cannot be written to costs the cache, not the run.

    Args:
        folder: Of this encoder alone, see `encoder_fingerprint`; made when the first shard is written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._writable = True
        self._keys: dict[str, frozenset[bytes]] = {}  # of the shards read so far, by name
        self._remove_stale()

    def rows(
        self,
        inputs: Iterable[Input],
        key_of: Callable[[Input], bytes],
        embed: Callable[[list[Input]], Tensor],
        at_once: int,
        found: Callable[[int], object] = lambda count: None,
    ) -> Tensor:
        """The embedding of every input, in their order: from the cache, or else by `embed` and into the cache. [n, d].

        What is missing is embedded in the order of the inputs, `at_once` of them together, so that a run that is
        killed and begins again makes the same groups.

        Args:
            inputs: Taken as they are needed: fewer than twice `at_once` are held at a time.
            key_of: The SHA-256 of an input.
            embed: Inputs -> [k, d].
            at_once: Inputs of a shard; what a killed run loses at most.
            found: Told how many more inputs were found in the cache, or are repetitions.
        """
        order: list[bytes] = []
        known: dict[bytes, Tensor] = {}
        waiting: dict[bytes, Input] = {}

        def settle(count: int) -> None:
            shard = list(islice(waiting, count))
            embeddings = embed([waiting.pop(key) for key in shard])
            self.put(shard, embeddings)
            known.update(zip(shard, embeddings, strict=True))

        remaining = iter(inputs)
        while block := [(key_of(item), item) for item in islice(remaining, at_once)]:
            order.extend(key for key, _ in block)
            before = len(waiting)
            known |= self.get({key for key, _ in block} - known.keys() - waiting.keys())
            waiting |= {key: item for key, item in block if key not in known}
            found(len(block) - (len(waiting) - before))
            if len(waiting) >= at_once:
                settle(at_once)
        if waiting:
            settle(len(waiting))
        return torch.stack([known[key] for key in order]) if order else torch.empty(0, 0)

    def get(self, keys: Iterable[bytes]) -> dict[bytes, Tensor]:
        """The embedding [d] of every key that is known; a damaged shard is removed with a warning."""
        wanted, found = set(keys), dict[bytes, Tensor]()
        for path in sorted(self.folder.glob("*.safetensors")):
            if not wanted:
                break
            if path.name not in self._keys or not wanted.isdisjoint(self._keys[path.name]):
                found |= self._hits(path, wanted)
                wanted -= found.keys()
        return found

    def put(self, keys: Sequence[bytes], embeddings: Tensor) -> None:
        """Add embeddings under their keys; or warn, once, that this cannot be done. [n, d]."""
        if not self._writable:
            return
        packed = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, KEY_BYTES)
        shard = save({"keys": packed, "embeddings": embeddings.contiguous()})
        unfinished = self.folder / f"{uuid.uuid4().hex}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(shard)
            os.replace(unfinished, self._path(shard))
        except OSError as error:
            self._writable = False
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            logger.warning(
                "cannot write embeddings to %r (%s): the run goes on and keeps them in memory only",
                str(self.folder),
                error.strerror or error,
            )

    def _hits(self, path: Path, wanted: Collection[bytes]) -> dict[bytes, Tensor]:
        try:
            shard = path.read_bytes()
            if path != self._path(shard):
                raise ValueError("its content is not what was written")
            keys, embeddings = _unpacked(shard)
        except FileNotFoundError:
            return {}  # Another process found it damaged and was faster to remove it.
        except OSError as error:
            logger.warning("cannot read the cached embeddings %r (%s): they are made anew", str(path), error.strerror)
            return {}
        except (SafetensorError, KeyError, ValueError) as error:
            logger.warning("removing the damaged cached embeddings %r (%s): they are made anew", str(path), error)
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return {}
        self._keys[path.name] = frozenset(keys)
        rows = {key: row for row, key in enumerate(keys) if key in wanted}
        return dict(zip(rows, embeddings[list(rows.values())], strict=True))

    def _path(self, shard: bytes) -> Path:
        return self.folder / f"{hashlib.sha256(shard).hexdigest()}.safetensors"

    def _remove_stale(self) -> None:
        with suppress(OSError):
            for path in self.folder.glob("*.tmp"):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink(missing_ok=True)


def _unpacked(shard: bytes) -> tuple[list[bytes], Tensor]:
    """The keys of a shard and its embeddings [n, d]."""
    tensors = load(shard)
    keys, embeddings = tensors["keys"], tensors["embeddings"]
    if keys.dtype != torch.uint8 or keys.dim() != 2 or keys.shape[1] != KEY_BYTES:
        raise ValueError(f"keys are {keys.dtype} {list(keys.shape)}")
    if embeddings.dtype != torch.float32 or embeddings.dim() != 2 or len(embeddings) != len(keys):
        raise ValueError(f"embeddings are {embeddings.dtype} {list(embeddings.shape)} for {len(keys)} keys")
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
