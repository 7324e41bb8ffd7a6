"""The quickstart under several strategies and seeds: runs what is missing, and writes the table in recipes/README.md.

    python recipes/benchmarks/quickstart.py [--folder runs/quickstart_grid] [--seeds 3]

Every run is one folder, so that the grid can be stopped and taken up anywhere. All methods train for the same number
of batches at the quickstart's one learning rate; nothing is tuned.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

from tqdm.auto import tqdm

RECIPES = Path(__file__).parents[1]
MARKER = "<!-- quickstart -->"
METHODS = {
    "ods-cea": "",
    "ods": "--text_encoder none",
    "activeft": "--text_encoder none --strategy activeft",
    "random": "--text_encoder none --strategy random",
    "full": "--text_encoder none --strategy full",
}


def run(method: str, seed: int, folder: Path) -> Path:
    """Train one cell of the grid, unless it is there."""
    output = folder / f"{method}-{seed}"
    if not (output / "test_results.json").is_file():
        command = [
            sys.executable,
            str(RECIPES / "imagenet.py"),
            "--config",
            str(RECIPES / "configs" / "quickstart.yaml"),
        ]
        command += [
            "--output_dir",
            str(output),
            "--seed",
            str(seed),
            "--disable_tqdm",
            "true",
            *METHODS[method].split(),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=RECIPES.parent)
    return output


def row(method: str, outputs: list[Path]) -> str:
    """Means over seeds, the accuracy with its standard error, the cost in samples and TFLOPs."""
    accuracies = [100 * json.loads((output / "test_results.json").read_text())["test_accuracy"] for output in outputs]
    states = [max(output.glob("checkpoint-*"), key=lambda c: int(c.name.split("-")[1])) for output in outputs]
    costs = [json.loads((state / "vecaf_state.json").read_text())["cost"]["work"] for state in states]
    error = stdev(accuracies) / len(accuracies) ** 0.5 if len(accuracies) > 1 else float("nan")
    samples = {kind: mean(cost[kind]["samples"] for cost in costs) for kind in ("score", "train")}
    flops = mean(sum(cost[kind]["flops"] for kind in cost if kind != "evaluate") for cost in costs)
    cells = [f"{mean(accuracies):.1f} ± {error:.1f}", f"{samples['train']:,.0f}", f"{samples['score']:,.0f}"]
    return f"| `{method}` | {' | '.join(cells)} | {flops / 1e12:.2f} |"


def main(folder: Path, seeds: int) -> None:
    cells = [(method, seed) for method in METHODS for seed in range(seeds)]
    outputs: dict[str, list[Path]] = {method: [] for method in METHODS}
    for method, seed in tqdm(cells, disable=None):
        outputs[method].append(run(method, seed, folder))
    header = (
        f"| method | test accuracy, % (n = {seeds}) | samples trained | samples scored | TFLOPs without evaluation |"
    )
    table = "\n".join([header, "|---|---|---|---|---|", *(row(method, outputs[method]) for method in METHODS)])
    readme = RECIPES / "README.md"
    pattern = re.escape(MARKER) + r"\n\n(\|[^\n]*\n)*\n?"
    readme.write_text(re.sub(pattern, f"{MARKER}\n\n{table}\n\n", readme.read_text()))
    print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/quickstart_grid"))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    main(given.folder.resolve(), given.seeds)
