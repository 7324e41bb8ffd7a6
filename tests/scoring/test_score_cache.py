"""What lies on disk is what was written, or it is not used: real processes write, and are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from vecaf_hf.data.whole_files import STALE_SECONDS, write_whole
from vecaf_hf.scoring.score_cache import ScoreCache, narrowest

KEY = "0" * 64
# Forked, a process begins at once.
processes = multiprocessing.get_context("fork")


def content(rows: int = 50, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 8, generator=generator), torch.randint(3, (rows,), generator=generator)


@pytest.fixture
def cache(tmp_path: Path) -> ScoreCache:
    return ScoreCache(tmp_path / "scores")


def assert_holds(cache: ScoreCache, embeddings: torch.Tensor, labels: torch.Tensor, key: str = KEY) -> None:
    found = cache.read(key)
    assert found is not None
    assert torch.equal(found["embeddings"], embeddings) and found["embeddings"].dtype == torch.float32
    assert torch.equal(found["labels"], labels) and found["labels"].dtype == labels.dtype


def test_what_was_written_is_read(cache: ScoreCache) -> None:
    assert cache.read(KEY) is None
    cache.write(KEY, *content())
    assert_holds(cache, *content())
    assert cache.read("1" * 64) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_takes_half_the_room(cache: ScoreCache, dtype: torch.dtype) -> None:
    embeddings, labels = content(2000)
    cache.write("1" * 64, embeddings, labels)
    cache.write(KEY, embeddings.to(dtype).float(), labels)
    assert narrowest(embeddings.to(dtype).float()).dtype == dtype
    assert_holds(cache, embeddings.to(dtype).float(), labels)
    whole, half = (cache.path(key).stat().st_size for key in ("1" * 64, KEY))
    assert half < 0.7 * whole


def test_every_flipped_bit_is_noticed(cache: ScoreCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.write(KEY, *content(5))
    whole = cache.path(KEY).read_bytes()
    for place in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        cache.path(KEY).write_bytes(flipped)
        caplog.clear()
        found = cache.read(KEY)
        if found is None:
            assert f"cannot read the kept scores '{cache.path(KEY)}'" in caplog.text
        else:
            # Of the header, what says nothing.
            embeddings, labels = content(5)
            assert torch.equal(found["embeddings"], embeddings) and torch.equal(found["labels"], labels)
            assert place < 8 + int.from_bytes(whole[:8], "little")
    cache.write(KEY, *content(5))
    assert_holds(cache, *content(5))


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_noticed_and_replaced(
    cache: ScoreCache, caplog: pytest.LogCaptureFixture, kept: int
) -> None:
    cache.write(KEY, *content())
    cache.path(KEY).write_bytes(cache.path(KEY).read_bytes()[:kept])
    assert cache.read(KEY) is None
    assert "made anew" in caplog.text
    cache.write(KEY, *content())
    assert_holds(cache, *content())


def test_a_file_under_another_name_is_not_used(cache: ScoreCache) -> None:
    cache.write("1" * 64, *content())
    os.rename(cache.path("1" * 64), cache.path(KEY))
    assert cache.read(KEY) is None


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = ScoreCache(tmp_path / "file")
    cache.write(KEY, *content())
    assert "cannot keep scores" in caplog.text and "goes on without" in caplog.text
    assert cache.read(KEY) is None


@pytest.mark.parametrize("name", ["notes.tmp", "0" * 31 + ".tmp", "0" * 33 + ".tmp", "g" * 32 + ".tmp", "0" * 32])
def test_a_users_own_files_are_left_alone(tmp_path: Path, name: str) -> None:
    for path in (tmp_path / name, tmp_path / f"{'0a' * 16}.tmp"):
        path.write_text("old")
        os.utime(path, (0, time.time() - STALE_SECONDS - 60))
    ScoreCache(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


# --- Several processes ---

BIG = 2**18  # rows of 8 numbers: 8 MiB


def write_big(folder: Path, times: int) -> None:
    cache = ScoreCache(folder)
    for _ in range(times):
        cache.write(KEY, *content(BIG))


def die_while_writing(folder: Path) -> None:
    """Half of a file is on disk when this process is killed."""

    def write_half(file: Path) -> None:
        file.write_bytes(bytes(100))
        os.kill(os.getpid(), signal.SIGKILL)

    write_whole(ScoreCache(folder).path(KEY), write_half)


def test_a_writer_that_is_killed_leaves_nothing_that_is_taken_for_whole(
    cache: ScoreCache, caplog: pytest.LogCaptureFixture
) -> None:
    writer = processes.Process(target=die_while_writing, args=(cache.folder,))
    writer.start()
    writer.join(60)
    assert writer.exitcode == -signal.SIGKILL
    assert cache.read(KEY) is None and caplog.text == ""
    (left,) = cache.folder.glob("*.tmp")
    cache.write(KEY, *content())
    assert_holds(cache, *content())
    assert ScoreCache(cache.folder) and left.exists()
    os.utime(left, (0, time.time() - STALE_SECONDS - 60))
    assert ScoreCache(cache.folder) and not left.exists()


def test_two_processes_at_once(cache: ScoreCache, caplog: pytest.LogCaptureFixture) -> None:
    writers = [processes.Process(target=write_big, args=(cache.folder, 8)) for _ in range(2)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        found = cache.read(KEY)
        if found is not None:
            reads += 1
            assert torch.equal(found["embeddings"], content(BIG)[0])
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert reads > 0 and caplog.text == ""
    assert [path.name for path in cache.folder.iterdir()] == [cache.path(KEY).name]
