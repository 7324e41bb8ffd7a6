"""Where data and metrics come from, as far as a run without a network can tell."""

from datasets import Dataset, DatasetInfo

from vecaf_hf.reporting.origins import dataset_origin, hub_id
from vecaf_hf.reporting.results import final_metrics

COMMIT = "0b2714987fa478483af9968de7c934580d0bb9a2"


def cached(folder, name: str) -> Dataset:
    """As `load_dataset` leaves a dataset in its cache."""
    path = folder / name / "plain_text" / "0.0.0" / COMMIT / "cifar10-train.arrow"
    path.parent.mkdir(parents=True)
    Dataset.from_dict({"a": [1]}).save_to_disk(str(folder / "saved"))
    (next((folder / "saved").glob("*.arrow"))).rename(path)
    info = DatasetInfo(dataset_name="cifar10", config_name="plain_text", builder_name="parquet", license="mit")
    return Dataset.from_file(str(path), info=info)


def test_a_dataset_of_the_hub_is_known_by_its_cache(tmp_path):
    found = dataset_origin(cached(tmp_path, "uoft-cs___cifar10").shuffle(seed=0), None, None)
    assert (found.hub_id, found.name, found.revision) == ("uoft-cs/cifar10", "uoft-cs/cifar10", COMMIT)
    assert (found.license, found.config) == ("mit", "plain_text")


def test_a_local_dataset_has_no_id(tmp_path):
    for dataset in (cached(tmp_path, "parquet"), Dataset.from_dict({"a": [1]}), [1, 2], None):
        found = dataset_origin(dataset, None, None)
        assert found.hub_id is None and found.name == "local data" and found.revision is None
    assert dataset_origin([1], "a/b", "Letters").hub_id == "a/b"


def test_ids(tmp_path):
    assert hub_id("google/vit") == "google/vit"
    assert [hub_id(name) for name in (None, "", str(tmp_path), "a/b/c", "pypi:x", "two words", "..")] == [None] * 7


HISTORY = [
    {"step": 4, "eval_loss": 1.0, "eval_accuracy": 0.9, "eval_runtime": 1.0},
    {"step": 8, "eval_cats_accuracy": 0.7},
    {"step": 8, "eval_dogs_accuracy": float("nan"), "eval_dogs_loss": 2.0},
    {"step": 8, "train_runtime": 3.0},
]


def test_the_last_evaluation_counts():
    assert final_metrics(HISTORY, None) == {"validation": {"cats_accuracy": 0.7, "dogs_loss": 2.0}}


def test_of_the_best_checkpoint_its_own():
    assert final_metrics(HISTORY, 4) == {"validation": {"loss": 1.0, "accuracy": 0.9}}


def test_an_evaluation_after_the_training_is_of_the_model_that_is_left():
    after = [*HISTORY, {"step": 8, "eval_accuracy": 0.8}, {"step": 8, "test_accuracy": 0.6, "test_runtime": 1.0}]
    assert final_metrics(after, 4) == {"validation": {"accuracy": 0.8}, "test": {"accuracy": 0.6}}


def test_nothing_measured():
    assert final_metrics([{"step": 1, "loss": 1.0}], None) == {} == final_metrics([], 4)
