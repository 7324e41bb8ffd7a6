"""Files that appear whole or not at all, also where several processes write at once."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# No file takes this long to write: an older unfinished one was left by a process that died.
STALE_SECONDS = 3600
# What `write_whole` calls an unfinished file: others in a folder are not its own.
UNFINISHED = re.compile(r"[0-9a-f]{32}\.tmp")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Make a file, and its folder: `write` is given another name in the folder, which is changed when it has ended.

    Raises:
        Exception: Whatever `write` raises, an OSError where the disk does not let it; nothing is left then.
    """
    unfinished = path.parent / f"{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def remove_stale(folder: Path) -> None:
    """Remove what processes that died have left unfinished in a folder."""
    with suppress(OSError):
        for path in folder.glob("*.tmp"):
            if UNFINISHED.fullmatch(path.name) and time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)
