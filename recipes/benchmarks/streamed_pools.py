"""A pool that is streamed in shards: what a boundary takes by how much is scored, and whether it selects as in memory.

    python recipes/benchmarks/streamed_pools.py [--samples 2000000 10000000] [--dimension 64] [--shard 20000]
        [--fractions 0.005 0.01 0.02 0.04] [--folder runs/streamed_pools] [--write]
    python recipes/benchmarks/streamed_pools.py --images runs/fashion_mnist

The first makes a pool of precomputed features in Parquet files (once, in the folder; 4 x dimension bytes a sample), and
trains a small head on it, each part of the pool in a process of its own: seconds of three boundaries, reading and
keeping among them, and the most memory the process holds. The second selects from real images (train.parquet, as
recipes/data/make_fashion_mnist.py --all writes it) once by position and once from 60 shards, all of which are scored.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PretrainedConfig, PreTrainedModel, ViTConfig, ViTForImageClassification, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput

from vecaf_hf import ShardedDataset, VeCAFArguments, VeCAFTrainer
from vecaf_hf.cli.building import with_images

RESULTS = Path(__file__).parents[2] / "docs" / "large_pools" / "results.json"
CLASSES, SELECTED, LOOPS, SHARDS = 100, 2_000, 3, 60


class HeadConfig(PretrainedConfig):
    model_type = "features"

    def __init__(self, dimension: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dimension = dimension


class FeatureClassifier(PreTrainedModel):
    """A hidden layer and a head on features that were computed before."""

    config_class = HeadConfig

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        self.hidden = torch.nn.Linear(config.dimension, config.dimension)
        self.classifier = torch.nn.Linear(config.dimension, CLASSES)
        self.post_init()

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> SequenceClassifierOutput:
        logits = self.classifier(torch.relu(self.hidden(features)))
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def make_pool(folder: Path, samples: int, dimension: int, shard: int) -> list[str]:
    """Parquet files of features around the classes' means; those that are there already stay."""
    means = torch.randn(CLASSES, dimension, generator=torch.Generator().manual_seed(0))
    files = []
    for number in tqdm(range(samples // shard), "Making", unit="shard", disable=None):
        file = folder / f"{number:05d}.parquet"
        files.append(str(file))
        if file.exists():
            continue
        generator = torch.Generator().manual_seed(1 + number)
        labels = torch.randint(CLASSES, (shard,), generator=generator)
        features = means[labels] + torch.randn(shard, dimension, generator=generator)
        values = pa.FixedSizeListArray.from_arrays(pa.array(features.flatten().numpy()), dimension)
        table = pa.table({"features": values, "labels": pa.array(labels.numpy())})
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, f"{file}.new", compression="none")
        Path(f"{file}.new").rename(file)
    return files


def arguments(folder: str, **options: Any) -> VeCAFArguments:
    return VeCAFArguments(
        output_dir=folder,
        strategy="ods",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=10,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        **options,
    )


def boundaries(files: list[str], fraction: float, dimension: int, folder: str) -> dict[str, float]:
    """Seconds and memory of a run that scores this part of the pool at each boundary."""
    begun = time.perf_counter()
    stream = ShardedDataset.from_parquet(files, folder, format="torch")
    counted = time.perf_counter() - begun
    set_seed(0)
    trainer = VeCAFTrainer(
        model=FeatureClassifier(HeadConfig(dimension, num_labels=CLASSES)),
        args=arguments(
            f"{folder}/run",
            num_loops=LOOPS,
            max_steps=10 * LOOPS,
            per_device_train_batch_size=64,
            scoring_batch_size=1000,
            selection_budget=SELECTED,
            rescore="sampled",
            scoring_fraction=fraction,
        ),
        train_dataset=stream,
    )
    trainer.train()
    work = trainer.meter.state_dict()["work"]
    return {
        "counting": counted,
        "scored": work["score"]["samples"] / LOOPS,
        "scoring": work["score"]["seconds"] / LOOPS,
        "selecting": work["select"]["seconds"] / LOOPS,
        "select_flops": work["select"]["flops"] / LOOPS,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def measured(script: list[str]) -> dict[str, float]:
    """Of a process of its own."""
    ended = subprocess.run([sys.executable, __file__, *script], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def by_fraction(given: argparse.Namespace) -> None:
    """All parts of the largest pool, and as many samples of the smaller ones."""
    print(f"d = {given.dimension}, {LOOPS} boundaries, K = {SELECTED:,}")
    print("| N | scored | samples | s counting, once | s scoring | s selecting | GiB |\n|" + "---|" * 7)
    rows, largest = [], max(given.samples)
    for samples in sorted(given.samples):
        make_pool(pool_folder(given, samples), samples, given.dimension, given.shard)
        for fraction in given.fractions if samples == largest else [given.fractions[0] * largest / samples]:
            one = ["--one", str(fraction), "--samples", str(samples), "--dimension", str(given.dimension)]
            found = measured([*one, "--shard", str(given.shard), "--folder", str(given.folder)])
            rows.append({"samples": samples, "fraction": fraction, **found})
            cells = [f"{samples:,}", f"{fraction:.1%}", f"{found['scored']:,.0f}", f"{found['counting']:.1f}"]
            cells += [f"{found['scoring']:.1f}", f"{found['selecting']:.1f}", f"{found['memory']:.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
    alike = [row for row in rows if row["samples"] < largest or row["fraction"] == given.fractions[0]]
    told = {"dimension": given.dimension, "selected": SELECTED, "classes": CLASSES, "streamed": rows}
    if given.write:
        RESULTS.write_text(json.dumps({**told, "bookkeeping": alike}, indent=1) + "\n")


def pool_folder(given: argparse.Namespace, samples: int) -> Path:
    folder: Path = given.folder / f"{samples}x{given.dimension}"
    return folder


def images(folder: Path) -> None:
    """The same selection by position and from shards."""
    whole = Dataset.from_parquet(str(folder / "train.parquet"))
    with tempfile.TemporaryDirectory() as made:
        files = [f"{made}/{shard}.parquet" for shard in range(SHARDS)]
        for shard, file in enumerate(files):
            whole.shard(SHARDS, shard).to_parquet(file)
        in_order = Dataset.from_parquet(files, cache_dir=f"{made}/cache")
        selections = {}
        pools = {"by position": in_order, "from shards": ShardedDataset.from_parquet(files, f"{made}/streamed")}
        for name, pool in pools.items():
            set_seed(0)
            sizes: dict[str, Any] = {
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_labels": 10,
            }
            config = ViTConfig(image_size=32, patch_size=8, intermediate_size=128, **sizes)
            args = arguments(f"{made}/{name}", max_steps=2, num_loops=1, rescore="full", selection_fraction=0.01)
            trainer = VeCAFTrainer(model=ViTForImageClassification(config), args=args, train_dataset=pixels_of(pool))
            begun = time.perf_counter()
            trainer.train()
            selections[name] = trainer.selection.indices
            print(
                f"{name}: {len(pool):,} images, {time.perf_counter() - begun:.0f} s, {len(selections[name])} selected"
            )
    same = torch.equal(*selections.values())
    print("the same selection" if same else "ANOTHER SELECTION")


def pixels_of(pool: Any) -> Any:
    from torchvision.transforms import v2

    to_tensor = [v2.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return with_images(pool, v2.Compose(to_tensor), "image", "label")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[2_000_000, 10_000_000])
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--shard", type=int, default=20_000)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.005, 0.01, 0.02, 0.04])
    parser.add_argument("--folder", type=Path, default=Path("runs/streamed_pools"))
    parser.add_argument("--write", action="store_true", help="write docs/large_pools/results.json")
    parser.add_argument("--images", type=Path, help="a folder with train.parquet")
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.images is not None:
        images(given.images)
    elif given.one is None:
        by_fraction(given)
    else:
        files = make_pool(pool_folder(given, given.samples[0]), given.samples[0], given.dimension, given.shard)
        with tempfile.TemporaryDirectory() as kept:
            print(json.dumps(boundaries(files, given.one, given.dimension, kept)))


if __name__ == "__main__":
    main()
