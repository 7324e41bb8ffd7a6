"""A script with options on its command line, one import changed: steps, epochs, saves, lines and files are the same."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from test_drop_in import AFTER, write_images, write_pretrained

SCRIPT = Path(__file__).with_name("image_classification_script.py")
BEFORE = "    Trainer,\n"
TRAINED = "--do_train --num_train_epochs 3 --per_device_train_batch_size 8 --learning_rate 1e-3 --logging_steps 2"
EVALUATED = f"{TRAINED} --do_eval --eval_strategy epoch --save_strategy epoch --load_best_model_at_end true"
RUNS = {
    "no evaluation": TRAINED,
    "evaluation, the best model": f"{EVALUATED} --metric_for_best_model accuracy --save_total_limit 2",
    "workers": f"{TRAINED} --dataloader_num_workers 2 --gradient_accumulation_steps 2 --save_steps 2",
    "bfloat16": f"{EVALUATED} --metric_for_best_model loss --bf16 true --lr_scheduler_type cosine --warmup_steps 2",
    "evaluation alone": "--do_eval",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a pretrained model, and the script twice."""
    folder = tmp_path_factory.mktemp("script")
    write_images(folder / "images")
    write_pretrained(folder / "pretrained")
    text = SCRIPT.read_text()
    assert text.count(BEFORE) == 1 and text.count("\n\n\n@dataclass") == 1
    (folder / "plain.py").write_text(text)
    (folder / "ours.py").write_text(text.replace(BEFORE, "").replace("\n\n\n@dataclass", f"\n{AFTER}\n\n@dataclass"))
    return folder


def run(made: Path, kind: str, output: Path, options: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a run leaves: its state, its checkpoints and its files."""
    words = f"--model_name_or_path {made / 'pretrained'} --train_dir {made / 'images' / 'train'} --output_dir {output}"
    words += f" --use_cpu true --report_to none --remove_unused_columns false --disable_tqdm true {options}"
    monkeypatch.setattr(sys, "argv", [f"{kind}.py", *words.split()])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(made / "cache"))
    runpy.run_path(str(made / f"{kind}.py"), run_name="__main__")
    state = output / "trainer_state.json"
    told = json.loads(state.read_text()) if state.is_file() else {"log_history": []}
    lines = [
        (log["step"], log.get("epoch"), sorted(name for name in log if not name.startswith("vecaf/")))
        for log in told["log_history"]
    ]
    metrics = output / "all_results.json"
    return {
        "lines": lines,
        "steps": [told.get(name) for name in ("global_step", "max_steps", "num_train_epochs", "epoch", "save_steps")],
        "checkpoints": sorted(path.name for path in output.glob("checkpoint-*")),
        "files": {path.name for path in output.iterdir() if path.is_file()},
        "metrics": sorted(json.loads(metrics.read_text())),
    }


# Beside Trainer's files.
OWN_FILES = {"training_args.json", "vecaf_run.json", "vecaf_state.json", "vecaf_state.safetensors"}


def assert_alike(plain: dict[str, Any], ours: dict[str, Any]) -> None:
    files, own = plain.pop("files"), ours.pop("files")
    assert plain == ours
    assert files - own <= {"training_args.bin"} and own - files <= OWN_FILES


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_as_with_trainer(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    found = [run(made, kind, tmp_path / kind, options, monkeypatch) for kind in ("plain", "ours")]
    assert_alike(*found)


def test_a_resumed_run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for kind in ("plain", "ours"):
        output, options = tmp_path / kind, f"{TRAINED} --save_steps 4"
        run(made, kind, output, options, monkeypatch)
        shutil.rmtree(output / "checkpoint-15")
        resumed = f"{options} --resume_from_checkpoint {output / 'checkpoint-12'}"
        found.append(run(made, kind, output, resumed, monkeypatch))
    assert_alike(*found)
    assert found[1]["steps"][0] == 15
