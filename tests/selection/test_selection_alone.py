"""What selecting from arrays loads."""

import json
import subprocess
import sys

LOADED = """
import json, sys
from vecaf_hf.selection import select
print(json.dumps(sorted(sys.modules)))
"""
ALLOWED = {"vecaf_hf", *(f"vecaf_hf.{name}" for name in ("cost", "printable", "seeding", "validation"))}
HEAVY = {"transformers", "accelerate", "datasets", "matplotlib", "PIL", "huggingface_hub"}


def test_it_loads_neither_transformers_nor_other_rooms(tmp_path):
    found = subprocess.run([sys.executable, "-c", LOADED], cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = set(json.loads(found.stdout))
    assert "torch" in loaded and not HEAVY & loaded
    ours = {name for name in loaded if name.split(".")[0] == "vecaf_hf"}
    assert {name for name in ours if not f"{name}.".startswith("vecaf_hf.selection.")} <= ALLOWED
