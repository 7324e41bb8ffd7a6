"""What lies on disk is what was put there, or it is not used."""

import logging

import pytest
import torch
from safetensors.torch import save_file

from vecaf_hf.augmentation.text_cache import TextCache, encoder_fingerprint


@pytest.fixture
def cache(tmp_path):
    return TextCache(tmp_path / "encoder")


def shards(cache):
    return sorted(cache.folder.glob("*.safetensors"))


def test_texts_come_back_from_any_shard_and_unknown_ones_do_not(cache):
    embeddings = torch.randn(3, 5)
    cache.put(["a cat", "ein Hündchen"], embeddings[:2])
    cache.put(["a mat"], embeddings[2:])
    found = TextCache(cache.folder).get(["a mat", "ein Hündchen", "a dog"])
    assert found.keys() == {"a mat", "ein Hündchen"}
    assert torch.equal(found["a mat"], embeddings[2])
    assert torch.equal(found["ein Hündchen"], embeddings[1])


def test_a_text_that_two_processes_put_is_found_once(cache):
    embedding = torch.randn(1, 5)
    cache.put(["a cat"], embedding)
    TextCache(cache.folder).put(["a cat"], embedding)
    assert len(shards(cache)) == 2
    assert torch.equal(cache.get(["a cat"])["a cat"], embedding[0])


def test_a_write_that_was_killed_leaves_nothing_to_read(cache, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.put(["a cat"], torch.randn(1, 5))
    assert cache.get(["a cat"]) == {}


def truncated(path):
    path.write_bytes(path.read_bytes()[:-4])


def empty(path):
    path.write_bytes(b"")


def foreign(path):
    save_file({"weights": torch.ones(2)}, path)


def one_key_too_few(path):
    save_file({"keys": torch.zeros(1, 32, dtype=torch.uint8), "embeddings": torch.ones(2, 5)}, path)


def not_finite(path):
    save_file({"keys": torch.zeros(1, 32, dtype=torch.uint8), "embeddings": torch.full((1, 5), torch.nan)}, path)


@pytest.mark.parametrize("damage", [truncated, empty, foreign, one_key_too_few, not_finite])
def test_a_damaged_shard_is_removed_with_a_warning_that_names_it(cache, damage, caplog):
    cache.put(["a cat"], torch.randn(1, 5))
    (bad,) = shards(cache)
    damage(bad)
    cache.put(["a dog"], torch.randn(1, 5))
    with caplog.at_level(logging.WARNING):
        assert cache.get(["a cat", "a dog"]).keys() == {"a dog"}
    assert bad.name in caplog.text
    assert bad not in shards(cache) and len(shards(cache)) == 1


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
