"""Strategies of other packages: entry points of the group `vecaf_hf.strategies`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from own_processes import environment

STRATEGY = '''
from vecaf_hf.selection import Strategy, strategy


@strategy(needs={"losses"})
def hardest(candidates, budget, options, generator):
    """The K largest losses."""
    return candidates.indices[candidates.losses.topk(budget).indices]


plain = Strategy(lambda candidates, budget, *_: candidates.indices[:budget])


def bare(candidates, budget, options, generator):
    return candidates.indices[:budget]
'''
POINTS = """[vecaf_hf.strategies]
hardest = hard_samples:hardest
first = hard_samples:plain
renamed = hard_samples:hardest
bare = hard_samples:bare
margin = hard_samples:plain
gone = not_there:gone
"""
SELECT = """
import json, sys, torch
from vecaf_hf.selection import STRATEGIES, find_strategy, select

losses = torch.tensor([0.1, 3.0, 0.2, 2.0, 1.0])
select(torch.randn(5, 2), losses, budget=2, strategy="ods")
found = {"loaded for ours": "hard_samples" in sys.modules}
for name in ("hardest", "first"):
    found[name] = select(torch.randn(5, 2), losses, budget=2, strategy=name).indices.tolist()
for name in ("renamed", "bare", "gone", "zzz"):
    try:
        find_strategy(name)
    except ValueError as error:
        found[name] = str(error)
found["names"] = list(STRATEGIES)
found["margin"] = STRATEGIES["margin"].select.__module__
print(json.dumps(found))
"""
TRAIN = """
import json, sys, torch
from transformers import ViTConfig, ViTForImageClassification
from vecaf_hf import VeCAFArguments, VeCAFTrainer

torch.manual_seed(0)
pool = [{"pixel_values": torch.randn(3, 16, 16), "labels": row % 2} for row in range(24)]
config = ViTConfig(
    image_size=16, patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
)
args = VeCAFArguments(
    output_dir=sys.argv[1], strategy="hardest", selection_budget=8, max_steps=2, num_loops=2, use_cpu=True,
    per_device_train_batch_size=4, report_to="none", save_strategy="no", disable_tqdm=True,
)
trainer = VeCAFTrainer(model=ViTForImageClassification(config), args=args, train_dataset=pool)
trainer.train()
try:
    VeCAFArguments(output_dir=sys.argv[1], strategy="gone", report_to="none")
except ValueError as error:
    print(json.dumps({"selected": [len(one) for one in trainer.selection_history], "gone": str(error)}))
"""
BROKEN = "strategy 'gone' of package 'hard-samples' (entry point not_there:gone) cannot be used: ModuleNotFoundError"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed package."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "hard_samples.py").write_text(STRATEGY)
    info = folder / "hard_samples-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hard-samples\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    return folder


def run(script: str, package: Path, home: Path) -> tuple[dict[str, object], str]:
    """What the script says on the last line of its output, and its errors."""
    variables = environment(home)
    variables["PYTHONPATH"] = os.pathsep.join([str(package), variables["PYTHONPATH"]])
    words = [sys.executable, "-c", script, str(home / "run")]
    found = subprocess.run(words, cwd=home, env=variables, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1]), found.stderr


def test_an_installed_packages_strategy_selects(package: Path, tmp_path: Path) -> None:
    found, warnings = run(SELECT, package, tmp_path)
    assert not found["loaded for ours"]
    assert found["hardest"] == [1, 3] and found["first"] == [0, 1]
    assert str(found["gone"]).startswith(BROKEN)
    assert "is registered by its own name, 'hardest': give both one name" in str(found["renamed"])
    assert "neither a Strategy nor a function with the decorator" in str(found["bare"])
    assert "choose one of ods, " in str(found["zzz"]) and "hardest" in str(found["zzz"])
    assert {"hardest", "first", "ods"} <= set(found["names"]) and not {"gone", "bare", "renamed"} & set(found["names"])  # type: ignore[call-overload]
    # A name of ours stays ours.
    assert found["margin"] == "vecaf_hf.selection.scores"
    assert "strategy 'margin' of package 'hard-samples'" in warnings and "is there already" in warnings
    assert warnings.count(BROKEN) == 1


def test_a_run_is_given_it_by_name(package: Path, tmp_path: Path) -> None:
    found, _ = run(TRAIN, package, tmp_path)
    assert found["selected"] == [8, 8] and str(found["gone"]).startswith(BROKEN)
