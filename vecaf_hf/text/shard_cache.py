"""Results on disk, each under the hash of what it was made of: shards that are written once and never changed."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from vecaf_hf.data.whole_files import remove_stale, write_whole

logger = logging.getLogger(__name__)

Input = TypeVar("Input")
Value = TypeVar("Value")


class ShardCache(Generic[Value]):
    """Values by one model, each under the SHA-256 of its input.

    They lie in shards that are written once and never changed. Processes may share a folder: a shard appears whole or
    not at all, its name is the SHA-256 of its bytes, and what two processes made may lie there twice. A disk that
    cannot be written to costs the cache, not the run.

    Args:
        folder: Of this model alone, see `encoder_fingerprint`; made when the first shard is written.

    Attributes:
        what: What the values are called in messages.
        suffix: Of a shard's name.
    """

    what: ClassVar[str]
    suffix: ClassVar[str]

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._writable = True
        self._keys: dict[str, frozenset[bytes]] = {}  # of the shards read so far, by name
        remove_stale(self.folder)

    def packed(self, keys: Sequence[bytes], values: Collection[Value]) -> bytes:
        """A shard's content."""
        raise NotImplementedError

    def unpacked(self, shard: bytes, wanted: Collection[bytes]) -> tuple[list[bytes], dict[bytes, Value]]:
        """A shard's keys, and the values of those that are wanted.

        Raises:
            ValueError, KeyError: It is none of `packed`'s.
        """
        raise NotImplementedError

    def values(
        self,
        inputs: Iterable[Input],
        key_of: Callable[[Input], bytes],
        make: Callable[[list[Input]], Collection[Value]],
        at_once: int,
        found: Callable[[int], object] = lambda count: None,
    ) -> list[Value]:
        """The value of every input, in their order: from the cache, or else by `make` and into the cache.

        What is missing is made in the order of the inputs, `at_once` of them together, so that a run that is killed and
        begins again makes the same groups.

        Args:
            inputs: Taken as they are needed: fewer than twice `at_once` are held at a time.
            key_of: The SHA-256 of an input.
            make: Inputs -> as many values.
            at_once: Inputs of a shard; what a killed run loses at most.
            found: Told how many more inputs were found in the cache, or are repetitions.
        """
        order: list[bytes] = []
        known: dict[bytes, Value] = {}
        waiting: dict[bytes, Input] = {}

        def settle(count: int) -> None:
            shard = list(islice(waiting, count))
            made = make([waiting.pop(key) for key in shard])
            self.put(shard, made)
            known.update(zip(shard, made, strict=True))

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
        return [known[key] for key in order]

    def get(self, keys: Iterable[bytes]) -> dict[bytes, Value]:
        """The value of every key that is known; a damaged shard is removed with a warning."""
        wanted, found = set(keys), dict[bytes, Value]()
        for path in sorted(self.folder.glob(f"*{self.suffix}")):
            if not wanted:
                break
            if path.name not in self._keys or not wanted.isdisjoint(self._keys[path.name]):
                found |= self._hits(path, wanted)
                wanted -= found.keys()
        return found

    def put(self, keys: Sequence[bytes], values: Collection[Value]) -> None:
        """Add values under their keys; or warn, once, that this cannot be done."""
        if not self._writable:
            return
        shard = self.packed(keys, values)
        try:
            write_whole(self._path(shard), lambda unfinished: unfinished.write_bytes(shard))
        except OSError as error:
            self._writable = False
            logger.warning(
                "cannot write %s to %r (%s): the run goes on and keeps them in memory only",
                self.what,
                str(self.folder),
                error.strerror or error,
            )

    def _hits(self, path: Path, wanted: Collection[bytes]) -> dict[bytes, Value]:
        try:
            shard = path.read_bytes()
            if path != self._path(shard):
                raise ValueError("its content is not what was written")
            keys, found = self.unpacked(shard, wanted)
        except FileNotFoundError:
            return {}  # Another process found it damaged and was faster to remove it.
        except OSError as error:
            logger.warning(
                "cannot read the cached %s %r (%s): they are made anew", self.what, str(path), error.strerror
            )
            return {}
        except (KeyError, ValueError) as error:
            logger.warning("removing the damaged cached %s %r (%s): they are made anew", self.what, str(path), error)
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return {}
        self._keys[path.name] = frozenset(keys)
        return found

    def _path(self, shard: bytes) -> Path:
        return self.folder / f"{hashlib.sha256(shard).hexdigest()}{self.suffix}"
