"""transformers' example scripts for classification, as they are but for one import, beside Trainer.

python tests/ecosystem/example_scripts.py TRANSFORMERS/examples/pytorch ["images, ViT: bf16" or a part of it ...]

TRANSFORMERS is a checkout that fits the installed version. Prints a table: each script in each configuration, what
Trainer and VeCAFTrainer leave behind, and what differs. No network is needed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from example_inputs import write_all

ROOT = Path(__file__).parents[2]
IMPORT = "from vecaf_hf import VeCAFTrainer as Trainer\n"
TRAINED = "--do_train --num_train_epochs 3 --per_device_train_batch_size 8 --learning_rate 1e-3 --logging_steps 4"
EVALUATED = f"{TRAINED} --do_eval --eval_strategy epoch --save_strategy epoch"
BEST = f"{EVALUATED} --load_best_model_at_end true --metric_for_best_model"
RESUMED = f"{TRAINED} --do_eval --eval_strategy epoch --save_steps 4"
RUNS = {
    "no evaluation": TRAINED,
    "evaluation and a save each epoch, the best model": f"{BEST} {{metric}}",
    "evaluation by steps, two saves kept": f"{TRAINED} --do_eval --eval_strategy steps --eval_steps 5 --save_steps 5 "
    "--save_total_limit 2",
    "2 workers, kept over epochs": f"{EVALUATED} --dataloader_num_workers 2 --dataloader_persistent_workers true",
    "bf16": f"{EVALUATED} --bf16 true",
    "max_steps": f"{EVALUATED} --max_steps 13",
    "accumulation": f"{EVALUATED} --gradient_accumulation_steps 3 --warmup_steps 2",
    "evaluation alone": "--do_eval",
    "unused columns as by default": f"{EVALUATED} --remove_unused_columns true",
    "resumed": RESUMED,
    "killed and resumed": RESUMED,
}
KEEP = "--remove_unused_columns false"
IMAGES = "--train_dir images/train --ignore_mismatched_sizes true --remove_unused_columns false"
SOUNDS = f"--model_name_or_path models/wav2vec2 --dataset_name {{folder}}/sounds --max_length_seconds 0.1 {KEEP} "
TEXTS = "--model_name_or_path models/bert --max_seq_length 16 --ignore_mismatched_sizes true"
CSV = f"{TEXTS} --train_file texts/train.csv --validation_file texts/validation.csv"
IMAGE_SCRIPT = "image-classification/run_image_classification.py"
SOUND_SCRIPT = "audio-classification/run_audio_classification.py"
TEXT_SCRIPT = "text-classification/run_classification.py"


@dataclass
class Case:
    """A script with its inputs. `runs` are the configurations that make sense for it."""

    script: str
    options: str
    metric: str = "accuracy"
    runs: tuple[str, ...] = tuple(RUNS)


FEW = ("evaluation and a save each epoch, the best model", "resumed")
CASES = {
    "images, ViT": Case(IMAGE_SCRIPT, f"{IMAGES} --model_name_or_path models/vit"),
    "images, ResNet, validation folder": Case(
        IMAGE_SCRIPT, f"{IMAGES} --model_name_or_path models/resnet --validation_dir images/validation", runs=FEW
    ),
    "images, timm": Case(IMAGE_SCRIPT, f"{IMAGES} --model_name_or_path models/timm", runs=FEW),
    "sounds, wav2vec2": Case(SOUND_SCRIPT, SOUNDS + "--ignore_mismatched_sizes true"),
    "texts, BERT": Case(TEXT_SCRIPT, CSV),
    "texts, padded by batch, predictions": Case(
        TEXT_SCRIPT, f"{CSV} --pad_to_max_length false --test_file texts/test.csv --do_predict", runs=FEW
    ),
    "texts, regression": Case(
        TEXT_SCRIPT,
        f"{TEXTS} --train_file texts/train_scores.csv --validation_file texts/validation_scores.csv",
        metric="mse",
        runs=FEW,
    ),
}
HEADING = "| inputs | configuration | Trainer | VeCAFTrainer | left behind |\n| --- | --- | --- | --- | --- |"
# Beside Trainer's files; in place of training_args.bin.
OWN_FILES = {"training_args.json", "vecaf_run.json", "vecaf_state.json", "vecaf_state.safetensors"}


@dataclass
class Left:
    """What a run leaves behind."""

    code: int
    printed: str
    output: Path
    state: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        path = self.output / "trainer_state.json"
        self.state = json.loads(path.read_text()) if path.is_file() else {"log_history": []}

    @property
    def lines(self) -> list[tuple[Any, ...]]:
        """Of each line of the log its step, its epoch and the names of its figures but ours."""
        logs = self.state["log_history"]
        names = [sorted(name for name in log if not name.startswith("vecaf/")) for log in logs]
        return [(log["step"], log.get("epoch"), *its) for log, its in zip(logs, names, strict=True)]

    @property
    def sizes(self) -> dict[str, Any]:
        names = ("global_step", "max_steps", "num_train_epochs", "epoch", "eval_steps", "save_steps", "logging_steps")
        return {name: self.state.get(name) for name in names}

    @property
    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in self.output.glob("checkpoint-*"))

    @property
    def files(self) -> set[str]:
        """Of the folder and its checkpoints."""
        found = {str(path.relative_to(self.output)) for path in self.output.rglob("*") if path.is_file()}
        return {name for name in found if Path(name).name != "training_args.bin"}

    @property
    def results(self) -> dict[str, list[str]]:
        return {path.name: sorted(json.loads(path.read_text())) for path in self.output.glob("*_results.json")}

    @property
    def weights(self) -> str:
        path = self.output / "model.safetensors"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    def told(self) -> str:
        """In a few words, for the table."""
        if self.code:
            lines = [line for line in self.printed.splitlines() if re.match(r"\w*(\.\w+)*(Error|Exception)\b", line)]
            return f"fails: {lines[-1][:90] if lines else self.code}"
        evaluations = sum("eval_loss" in line for line in self.lines)
        if not self.state["log_history"]:
            return "no training"
        names = [name.removeprefix("checkpoint-") for name in self.checkpoints]
        saves = ", ".join(sorted(names, key=int))
        return (
            f"{self.state['global_step']} steps, epoch {self.state['epoch']:g}, {len(self.lines)} lines, "
            f"{evaluations} evaluations, checkpoints {saves}"
        )


@dataclass
class Runner:
    """Runs scripts in a folder of inputs."""

    folder: Path
    examples: Path

    def run(self, kind: str, case: Case, words: str, output: Path, kill_at: str = "") -> Left:
        """In a fork of this process; killed when it has written that checkpoint."""
        script = self.script(kind, case.script)
        options = f"{case.options} {words} --output_dir {output} --use_cpu true --report_to none --disable_tqdm true"
        printed = output.with_suffix(".txt")
        sys.stdout.flush()
        child = os.fork()
        if not child:
            run_script(script, options.format(folder=self.folder, metric=case.metric).split(), printed)
        done, status = 0, 0
        while not done:
            done, status = os.waitpid(child, os.WNOHANG)
            if not done and kill_at and (output / kill_at / "trainer_state.json").is_file():
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        import_too(printed.with_suffix(".modules"))
        return Left(os.waitstatus_to_exitcode(status), printed.read_text(), output)

    def script(self, kind: str, name: str) -> Path:
        """A copy of the script; ours has one import changed."""
        place = self.folder / kind / name
        if not place.is_file():
            text = (self.examples / name).read_text()
            if kind == "ours":
                assert text.count("    Trainer,\n") == 1
                text = text.replace("    Trainer,\n", "")
                text = text.replace("from transformers.utils import", f"{IMPORT}from transformers.utils import", 1)
                assert IMPORT in text
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        return place

    def configuration(self, kind: str, case: Case, run: str, name: str) -> tuple[Left, list[str]]:
        """What a configuration leaves, and what is wrong with it by itself."""
        output = self.folder / f"{name}_{kind}"
        whole = self.run(kind, case, RUNS[run], output)
        if "resumed" not in run or whole.code:
            return whole, []
        again = self.folder / f"{name}_{kind}_again"
        if run.startswith("killed"):
            self.run(kind, case, RUNS[run], again, kill_at="checkpoint-8")
        else:
            shutil.copytree(output / "checkpoint-8", again / "checkpoint-8")
        resumed = self.run(kind, case, f"{RUNS[run]} --resume_from_checkpoint {again / 'checkpoint-8'}", again)
        return resumed, [] if resumed.weights == whole.weights else ["the resumed run has other weights"]


def run_script(script: Path, options: list[str], printed: Path) -> NoReturn:
    """As `python SCRIPT OPTIONS > PRINTED 2>&1` would, and never returns."""
    code = 1
    try:
        with printed.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = [str(script), *options]
        runpy.run_path(str(script), run_name="__main__")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        printed.with_suffix(".modules").write_text("\n".join(sys.modules))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def import_too(names: Path) -> None:
    """What a fork has imported, so that the next one has it: it takes longer than a run."""
    for name in names.read_text().split() if names.is_file() else ():
        if name not in sys.modules and "_modules" not in name:
            with suppress(Exception):
                importlib.import_module(name)


def differences(plain: Left, ours: Left) -> list[str]:
    found = []
    for name in ("code", "sizes", "lines", "checkpoints", "results"):
        first, second = getattr(plain, name), getattr(ours, name)
        if first != second:
            found.append(f"{name}: {first} | {second}")
    missing, more = plain.files - ours.files, ours.files - plain.files
    more = {name for name in more if Path(name).name not in OWN_FILES and not name.startswith("plots/")}
    if missing or more:
        found.append(f"files: missing {sorted(missing)}, more {sorted(more)}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", help="a checkout's folder examples/pytorch")
    parser.add_argument("rows", nargs="*", help="whole rows of the table, or a part, such as 'images, ViT: bf16'")
    given = parser.parse_args()
    examples, failed = Path(given.examples).resolve(), 0
    folder = Path(os.environ.get("EXAMPLES_FOLDER", ""))
    if not folder.name:
        # Where the Hub's files are, and what reads sounds, is settled when libraries are imported: a new process.
        folder = Path(tempfile.mkdtemp(prefix="examples"))
        write_all(folder)
        settings = {"EXAMPLES_FOLDER": str(folder), "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
        path = os.pathsep.join([str(folder / "stub"), str(ROOT)])
        settings |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return subprocess.call([sys.executable, __file__, str(examples), *given.rows], env=os.environ | settings)
    os.chdir(folder)
    runner = Runner(folder, examples)
    print(f"in {folder}\n\n{HEADING}")
    for number, (inputs, case) in enumerate(CASES.items()):
        for run in case.runs:
            if given.rows and not any(part in f"{inputs}: {run}" for part in given.rows):
                continue
            name = f"{number}_{list(RUNS).index(run)}"
            plain, lost = runner.configuration("plain", case, run, name)
            ours, wrong = runner.configuration("ours", case, run, name)
            wrong += differences(plain, ours)
            failed += bool(wrong)
            if plain.code:
                wrong = ["the script itself fails" if ours.code else "Trainer fails"]
            told = "; ".join(wrong) or "equal"
            print(f"| {inputs} | {run} | {'; '.join([plain.told(), *lost])} | {ours.told()} | {told} |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
