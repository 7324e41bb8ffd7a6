"""What lies on disk is what was put there, or it is not used: real processes write, are killed, and run out of disk."""

import hashlib
import logging
import multiprocessing
import os
import resource
import signal
import time
from contextlib import suppress

import pytest
import torch
from safetensors.torch import save

from vecaf_hf.data.whole_files import STALE_SECONDS
from vecaf_hf.text.embedding_cache import EmbeddingCache, encoder_fingerprint

SIZE = 5
# Forked, a process begins at once.
processes = multiprocessing.get_context("fork")


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "encoder")


def key(text):
    return hashlib.sha256(text.encode()).digest()


def embedding(text, size=SIZE):
    seed = int.from_bytes(key(text)[:4], "big")
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def embed(texts):
    return torch.stack([embedding(text) for text in texts])


def put(cache, *texts):
    cache.put([key(text) for text in texts], embed(texts))


def shards(cache):
    return sorted(cache.folder.glob("*.safetensors"))


def unfinished(cache):
    return [path for path in cache.folder.iterdir() if path.suffix != ".safetensors"]


# Getting and putting --------------------------------------------------------------------------------------


def test_embeddings_come_back_from_any_shard_and_unknown_ones_do_not(cache):
    put(cache, "a cat", "ein Hündchen")
    put(cache, "a mat")
    found = EmbeddingCache(cache.folder).get([key("a mat"), key("ein Hündchen"), key("a dog")])
    assert found.keys() == {key("a mat"), key("ein Hündchen")}
    assert torch.equal(found[key("a mat")], embedding("a mat"))
    assert torch.equal(found[key("ein Hündchen")], embedding("ein Hündchen"))


def test_the_same_shard_is_written_once_and_other_shards_may_repeat_a_text(cache):
    put(cache, "a cat", "a dog")
    put(EmbeddingCache(cache.folder), "a cat", "a dog")
    assert len(shards(cache)) == 1
    put(cache, "a cat")
    assert len(shards(cache)) == 2
    assert torch.equal(cache.get([key("a cat")])[key("a cat")], embedding("a cat"))


def test_a_shard_that_holds_nothing_wanted_is_read_once(cache, monkeypatch):
    put(cache, "a cat", "a dog")
    cache.get([key("a mat")])
    monkeypatch.setattr("vecaf_hf.text.embedding_cache.load", None)
    assert cache.get([key("a mat")]) == {}
    put(EmbeddingCache(cache.folder), "a bird")  # By another process: this one has not read it.
    with pytest.raises(TypeError, match="not callable"):
        cache.get([key("a mat")])


class Model:
    """Embeds, and remembers the groups that it was given."""

    def __init__(self, dies_at=None):
        self.groups, self.dies_at = [], dies_at

    def __call__(self, texts):
        if len(self.groups) == self.dies_at:
            raise KeyboardInterrupt
        self.groups.append("".join(texts))
        return embed(texts)


def test_rows_are_in_order_and_each_input_is_embedded_once(cache):
    put(cache, "b", "d")
    model, counts = Model(), []
    rows = cache.rows(iter("abcbdefgga"), key, model, at_once=2, found=counts.append)
    assert torch.equal(rows, embed("abcbdefgga"))
    assert model.groups == ["ac", "ef", "g"]
    assert sum(counts) == len("abcbdefgga") - len("acefg")
    again = Model()
    assert torch.equal(EmbeddingCache(cache.folder).rows("ga", key, again, at_once=2), embed("ga"))
    assert again.groups == []


@pytest.mark.parametrize("killed_at", range(4))
def test_what_was_killed_goes_on_in_the_same_groups(tmp_path, killed_at):
    # A model's result may differ in its last bits with what else is in the batch.
    whole, inputs = Model(), "abcdefghijk"
    EmbeddingCache(tmp_path / "whole").rows(inputs, key, whole, at_once=3)
    killed, rest = Model(dies_at=killed_at), Model()
    with pytest.raises(KeyboardInterrupt):
        EmbeddingCache(tmp_path / "killed").rows(inputs, key, killed, at_once=3)
    EmbeddingCache(tmp_path / "killed").rows(inputs, key, rest, at_once=3)
    assert killed.groups + rest.groups == whole.groups


def test_inputs_are_taken_as_they_are_needed(cache):
    alive = []

    def inputs():
        for letter in "abcdefgh":
            alive.append(letter)
            yield letter

    def embed_and_drop(texts):
        assert len(alive) <= 2 * 2
        del alive[: len(texts)]
        return embed(texts)

    assert len(cache.rows(inputs(), key, embed_and_drop, at_once=2)) == 8


# Several processes ----------------------------------------------------------------------------------------


def write_all(folder, texts, barrier):
    cache = EmbeddingCache(folder)
    barrier.wait()
    rows = cache.rows(texts, key, embed, at_once=7)
    assert torch.equal(rows, embed(texts))


@pytest.mark.parametrize("same_order", [True, False])
def test_two_processes_write_one_cache_at_the_same_time(cache, same_order):
    texts = [f"text {number}" for number in range(300)]
    orders = [texts, texts if same_order else texts[::-1]]
    barrier = processes.Barrier(2)
    writers = [processes.Process(target=write_all, args=(cache.folder, order, barrier)) for order in orders]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert unfinished(cache) == []
    found = cache.get(map(key, texts))
    assert all(torch.equal(found[key(text)], embedding(text)) for text in texts)


SHARDS = 5
BIG = 2**24  # numbers: a shard of 64 MiB takes some 50 ms to write


def write_big_shards(folder):
    cache = EmbeddingCache(folder)
    for number in range(SHARDS):
        cache.put([key(f"text {number}")], torch.full((1, BIG), float(number)))


def kill_while_writing(cache):
    """Whether the writer died with a part of a shard on disk."""
    writer = processes.Process(target=write_big_shards, args=(cache.folder,))
    writer.start()
    while writer.is_alive() and not has_part(cache):
        pass
    os.kill(writer.pid, signal.SIGKILL)
    writer.join(10)
    return has_part(cache)


def has_part(cache):
    with suppress(FileNotFoundError):  # It was renamed just now.
        return any(0 < path.stat().st_size < 4 * BIG for path in cache.folder.glob("*"))
    return False


def test_a_writer_that_is_killed_leaves_nothing_that_is_taken_for_whole(cache, caplog):
    assert any(kill_while_writing(cache) for _ in range(20)), "no kill fell into the writing of a shard"
    left = unfinished(cache)
    found = cache.get(key(f"text {number}") for number in range(SHARDS))
    assert caplog.text == ""
    assert len(found) == len(shards(cache))
    for number in range(len(found)):
        assert bool((found[key(f"text {number}")] == number).all())
    # It does not disturb, and it does not lie there for ever.
    cache.put([key("a cat")], torch.ones(1, 2))
    assert set(unfinished(EmbeddingCache(cache.folder))) == set(left)
    for path in left:
        os.utime(path, (0, time.time() - STALE_SECONDS - 60))
    assert unfinished(EmbeddingCache(cache.folder)) == []
    assert len(shards(cache)) == len(found) + 1


# A disk that is full --------------------------------------------------------------------------------------


def run_out_of_disk(folder, log):
    logging.basicConfig(filename=log, force=True)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    cache = EmbeddingCache(folder)
    cache.rows(["early"], key, embed, at_once=4)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    for texts in (["early", *map(str, range(50))], ["other"]):
        assert torch.equal(cache.rows(texts, key, embed, at_once=20), embed(texts))


def test_a_full_disk_costs_the_cache_and_nothing_else(cache, tmp_path):
    log = tmp_path / "log"
    writer = processes.Process(target=run_out_of_disk, args=(cache.folder, log))
    writer.start()
    writer.join(60)
    assert writer.exitcode == 0
    (warning,) = log.read_text().splitlines()
    assert str(cache.folder) in warning and "File too large" in warning
    assert unfinished(cache) == []
    assert torch.equal(cache.get([key("early")])[key("early")], embedding("early"))


def test_a_folder_that_cannot_be_made(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = EmbeddingCache(tmp_path / "file" / "encoder")
    for _ in range(2):
        assert torch.equal(cache.rows("abc", key, embed, at_once=2), embed("abc"))
    (record,) = caplog.records
    assert str(cache.folder) in record.getMessage() and "Not a directory" in record.getMessage()


def test_a_shard_that_cannot_be_read_is_kept_and_not_used(cache, caplog):
    unreadable = cache.folder / "0.safetensors"
    unreadable.mkdir(parents=True)
    put(cache, "a cat")
    assert cache.get([key("a cat")]).keys() == {key("a cat")}
    assert unreadable.is_dir() and unreadable.name in caplog.text


# Damage ---------------------------------------------------------------------------------------------------


def truncated(path):
    path.write_bytes(path.read_bytes()[:-4])


def empty(path):
    path.write_bytes(b"")


def one_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def zeros(path):
    """What a power failure leaves where the name came to the disk before the content."""
    path.write_bytes(bytes(path.stat().st_size))


def renamed(path):
    path.rename(path.with_stem("0" * 64))


def with_content(tensors):
    def damage(path):
        content = save(tensors)
        path.unlink()
        (path.parent / f"{hashlib.sha256(content).hexdigest()}.safetensors").write_bytes(content)

    return damage


KEYS = torch.zeros(1, 32, dtype=torch.uint8)
DAMAGES = {
    "truncated": truncated,
    "empty": empty,
    "one bit": one_bit,
    "zeros": zeros,
    "renamed": renamed,
    "foreign": with_content({"weights": torch.ones(2)}),
    "short keys": with_content({"keys": KEYS[:, :31].contiguous(), "embeddings": torch.ones(1, SIZE)}),
    "one key too few": with_content({"keys": KEYS, "embeddings": torch.ones(2, SIZE)}),
    "half precision": with_content({"keys": KEYS, "embeddings": torch.ones(1, SIZE).half()}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_shard_is_removed_with_a_warning_that_names_it_and_made_anew(cache, damage, caplog):
    put(cache, "a cat")
    damage(shards(cache)[0])
    (bad,) = shards(cache)
    put(cache, "a dog")
    model = Model()
    with caplog.at_level(logging.WARNING):
        rows = EmbeddingCache(cache.folder).rows(["a cat", "a dog"], key, model, at_once=1)
    assert torch.equal(rows, embed(["a cat", "a dog"]))
    assert model.groups == ["a cat"]
    assert bad.name in caplog.text
    assert len(shards(cache)) == 2
    caplog.clear()
    assert len(EmbeddingCache(cache.folder).get([key("a cat"), key("a dog")])) == 2 and caplog.text == ""


# The key of an encoder ------------------------------------------------------------------------------------


def test_fingerprint_follows_hub_id_commit_and_settings():
    base = encoder_fingerprint("some/encoder", "c0ffee", pooling="mean", max_length=None)
    assert base == encoder_fingerprint("some/encoder", "c0ffee", max_length=None, pooling="mean")
    others = [
        encoder_fingerprint("other/encoder", "c0ffee", pooling="mean", max_length=None),
        encoder_fingerprint("some/encoder", "decade", pooling="mean", max_length=None),
        encoder_fingerprint("some/encoder", "c0ffee", pooling="cls", max_length=None),
        encoder_fingerprint("some/encoder", "c0ffee", pooling="mean", max_length=8),
    ]
    assert len({base, *others}) == 5


def test_fingerprint_of_a_folder_follows_its_content_and_not_its_place(tmp_path):
    folder, moved = tmp_path / "encoder", tmp_path / "moved"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "1_Pooling" / "config.json").write_text("{}")
    before = encoder_fingerprint(str(folder), None)
    (folder / "README.md").write_text("nothing that an embedding depends on")
    folder.rename(moved)
    assert encoder_fingerprint(str(moved), None) == before
    (moved / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    changed = encoder_fingerprint(str(moved), None)
    (moved / "model.safetensors").write_bytes(b"weight5")
    assert len({before, changed, encoder_fingerprint(str(moved), None)}) == 3
