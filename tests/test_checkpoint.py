"""Which checkpoint a run resumes from."""

import json
import re
import resource
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vecaf_hf.checkpoint import files
from vecaf_hf.checkpoint.files import claim, find_checkpoint, find_damage, make_durable, writing

FILES = (
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "vecaf_state.json",
    "vecaf_state.safetensors",
    "trainer_state.json",
)


def make(folder: Path, world_size: int = 1, run: str = "a") -> Path:
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "vecaf_state.safetensors"):
        save_file({"a": torch.arange(100)}, folder / name)
    names = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    for name in ("optimizer.pt", "scheduler.pt", *names):
        torch.save({"a": torch.arange(100)}, folder / name)
    (folder / "vecaf_state.json").write_text(json.dumps({"run": run, "identity": {"world_size": world_size}}))
    for name in ("trainer_state.json", "config.json"):
        (folder / name).write_text(json.dumps({"log_history": list(range(20))}))
    return folder


def delete(path):
    path.unlink()


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def cut_one_byte(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_whole_checkpoint(tmp_path, world_size):
    folder = make(tmp_path / "checkpoint-4", world_size)
    assert find_damage(folder) is None
    assert find_checkpoint(True, str(tmp_path)) == find_checkpoint(str(folder), "elsewhere") == str(folder)


@pytest.mark.parametrize("harm", [delete, halve, empty, cut_one_byte])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_passed_over_or_refused_with_the_files_name(tmp_path, caplog, name, harm):
    whole, damaged = make(tmp_path / "checkpoint-4"), make(tmp_path / "checkpoint-10")
    harm(damaged / name)
    says = f"it has no {name}" if harm is delete else f"{name} is damaged"
    assert find_damage(damaged) == says
    assert find_checkpoint(True, str(tmp_path)) == str(whole)
    assert f"{damaged} is passed over: {says}" in caplog.text
    with pytest.raises(ValueError, match=f"cannot resume from {re.escape(str(damaged))}: {says}.*use an earlier"):
        find_checkpoint(str(damaged), str(tmp_path))


def test_a_process_that_did_not_write_its_generators(tmp_path):
    folder = make(tmp_path / "checkpoint-4", world_size=3)
    (folder / "rng_state_2.pth").unlink()
    assert find_damage(folder) == "it has no rng_state_2.pth"


@pytest.mark.parametrize(("precision", "prefix"), [("no", ""), ("bf16", "bf16_")])
def test_states_that_deepspeed_keeps(tmp_path, precision, prefix):
    """In a folder of its own, a part for each process; the schedule's too, if it is DeepSpeed's."""
    folder = make(tmp_path / "checkpoint-4", world_size=2)
    identity = {"world_size": 2, "zero_stage": 2, "zero_precision": precision, "zero_schedules": False}

    def write_identity(**changes):
        (folder / "vecaf_state.json").write_text(json.dumps({"identity": identity | changes}))

    write_identity()
    assert find_damage(folder) == "it has no latest"
    (folder / "optimizer.pt").unlink()
    (folder / "latest").write_text("global_step4")
    (folder / "global_step4").mkdir()
    parts = [f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(2)]
    for name in ("mp_rank_00_model_states.pt", *parts):
        torch.save({"a": torch.arange(100)}, folder / "global_step4" / name)
    assert find_damage(folder) is None
    (folder / "scheduler.pt").unlink()
    assert find_damage(folder) == "it has no scheduler.pt"
    write_identity(zero_schedules=True)
    assert find_damage(folder) is None
    halve(folder / "global_step4" / parts[0])
    assert find_damage(folder) == f"global_step4/{parts[0]} is damaged"
    (folder / "global_step4" / parts[1]).unlink()
    torch.save({"a": torch.arange(100)}, folder / "global_step4" / parts[0])
    assert find_damage(folder) == f"it has no global_step4/{parts[1]}"
    # Where nothing is shared out, the optimizer's state is the model's neighbour.
    write_identity(zero_schedules=True, zero_stage=0)
    assert find_damage(folder) is None


def test_weights_in_shards(tmp_path):
    folder = make(tmp_path / "checkpoint-4")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert find_damage(folder) == "it has no model-00002-of-00002.safetensors"
    save_file({"b": torch.arange(3)}, folder / "model-00002-of-00002.safetensors")
    assert find_damage(folder) is None


def test_steps_are_numbers_not_words(tmp_path):
    for step in (9, 10, 100):
        make(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-2000").write_text("a file")
    assert find_checkpoint(True, str(tmp_path)) == str(tmp_path / "checkpoint-100")


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_run_without_a_checkpoint_begins_anew(tmp_path, caplog, folder):
    (tmp_path / "empty").mkdir()
    assert find_checkpoint(True, str(tmp_path / folder)) is None
    assert "no whole checkpoint of its last run: the run starts from the beginning" in caplog.text


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"cannot resume from .*nowhere: it has no model\.safetensors"):
        find_checkpoint(str(tmp_path / "nowhere"), str(tmp_path))


def test_an_earlier_runs_checkpoints_are_resumed_by_path_alone(tmp_path, caplog):
    """They may have more steps than the last run had when it was killed."""
    old = make(tmp_path / "checkpoint-8", run="a")
    claim(str(tmp_path), "b")
    assert find_checkpoint(True, str(tmp_path)) is None
    assert f"{old} is passed over: an earlier run wrote it" in caplog.text
    new = make(tmp_path / "checkpoint-4", run="b")
    assert find_checkpoint(True, str(tmp_path)) == str(new)
    assert find_checkpoint(str(old), str(tmp_path)) == str(old)
    claim(str(tmp_path), "a")
    assert find_checkpoint(True, str(tmp_path)) == str(old)


def test_a_damaged_note_of_the_run_hides_no_checkpoint(tmp_path, caplog):
    folder = make(tmp_path / "checkpoint-4")
    (tmp_path / "vecaf_run.json").write_text("")
    assert find_checkpoint(True, str(tmp_path)) == str(folder)
    assert "vecaf_run.json is damaged" in caplog.text


def test_a_state_of_an_older_format_counts_as_whole(tmp_path):
    """Whoever loads it says which version it needs."""
    folder = make(tmp_path / "checkpoint-4")
    (folder / "vecaf_state.json").write_text(json.dumps({"version": 1}))
    assert find_damage(folder) is None


# --- Writing ---


def test_a_checkpoint_that_is_written_again_keeps_the_old_one_until_its_end(tmp_path):
    folder = make(tmp_path / "checkpoint-4")
    with writing(str(folder)):
        assert not folder.exists()
        # Killed here, the run has it still, if no other one is whole.
        assert find_checkpoint(True, str(tmp_path)) == f"{folder}.old"
        make(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_the_old_one_is_back_if_the_new_one_cannot_be_written(tmp_path):
    folder = make(tmp_path / "checkpoint-4", run="old")
    with pytest.raises(OSError, match="cannot write"), writing(str(folder)):
        folder.mkdir()
        raise OSError(28, "No space left on device")
    assert json.loads((folder / "vecaf_state.json").read_text())["run"] == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_a_damaged_one_is_not_kept(tmp_path):
    folder = make(tmp_path / "checkpoint-4")
    (folder / "optimizer.pt").unlink()
    with writing(str(folder)):
        assert list(tmp_path.iterdir()) == []


def test_a_push_that_fails_after_the_writing(tmp_path):
    folder = tmp_path / "checkpoint-4"
    with pytest.raises(OSError, match="no route to the Hub"), writing(str(folder)):
        make(folder)
        raise OSError("no route to the Hub")
    assert find_damage(folder) is None


def test_any_error_puts_the_old_one_back(tmp_path):
    folder = make(tmp_path / "checkpoint-4", run="old")
    with pytest.raises(KeyError), writing(str(folder)):
        folder.mkdir()
        raise KeyError("a bug")
    assert json.loads((folder / "vecaf_state.json").read_text())["run"] == "old"


def test_torchs_writer_is_known_by_its_words(tmp_path):
    """On a disk that takes the first bytes of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(OSError, match="cannot write the checkpoint"), writing(str(tmp_path / "checkpoint-4")):
            (tmp_path / "checkpoint-4").mkdir()
            torch.save({"a": torch.zeros(100_000)}, tmp_path / "checkpoint-4" / "optimizer.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_every_file_is_made_durable_in_folders_too(tmp_path, monkeypatch):
    folder, synced, sync = make(tmp_path / "checkpoint-4"), [], files._sync
    (folder / "global_step4").mkdir()
    (folder / "global_step4" / "mp_rank_00_model_states.pt").write_bytes(b"states")
    monkeypatch.setattr(files, "_sync", lambda path: synced.append(path) or sync(path))
    make_durable(str(folder))
    assert set(synced) == {path for path in folder.rglob("*") if path.is_file()}


def test_what_could_not_be_written_is_removed_and_the_message_says_what_to_do(tmp_path):
    folder = tmp_path / "checkpoint-4"
    says = r"cannot write the checkpoint .*No space left.* GB are free.*Make room"
    with pytest.raises(OSError, match=says), writing(str(folder)):
        halve(make(folder) / "optimizer.pt")
        raise OSError(28, "No space left on device")
    assert not folder.exists()


def test_other_errors_pass(tmp_path):
    for error in (KeyError("a bug"), RuntimeError("CUDA out of memory")):
        with pytest.raises(type(error)), writing(str(tmp_path / "checkpoint-4")):
            raise error


def test_a_zip_is_what_torch_writes(tmp_path):
    """`find_damage` relies on it."""
    torch.save({"a": torch.arange(3)}, tmp_path / "a.pt")
    assert zipfile.is_zipfile(tmp_path / "a.pt")
