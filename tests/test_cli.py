"""The command as a user types it."""

from __future__ import annotations

import logging
import re
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import AutoImageProcessor, TrainingArguments, ViTImageProcessor

from vecaf_hf import VeCAFArguments, cli
from vecaf_hf.augmentation.options import CEAOptions
from vecaf_hf.inspection import embedding_map
from vecaf_hf.recipe import RecipeArguments

ROOT = Path(__file__).parents[1]


@pytest.fixture
def command(make_vit, tmp_path, monkeypatch):
    """The words of an inspection of a few images with a model on the disk."""
    monkeypatch.setattr(embedding_map, "find_spec", lambda name: None)
    make_vit().save_pretrained(tmp_path / "model")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    assert AutoImageProcessor.from_pretrained(tmp_path / "model")
    options = {
        "dataset_name": ROOT / "recipes/data/fashion_mnist",
        "validation_split": "validation",
        "model_name_or_path": tmp_path / "model",
        "text_encoder": "none",
        "image_size": 32,
        "max_train_samples": 80,
        "selection_fraction": 0.25,
        "max_steps": 4,
        "num_loops": 2,
        "per_device_train_batch_size": 8,
        "output_dir": tmp_path / "out",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def test_inspect_writes_a_page_and_a_summary(command, tmp_path, capsys):
    assert cli.main(["inspect", *command]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^ *loop 0 +80 +16 +0 ", printed, re.M)
    assert re.search(r"^ *all loops +160 +32 ", printed, re.M)
    assert re.search(r"^ *plain finetuning +0 +32 ", printed, re.M)
    assert "Near duplicates" in printed and "Suspicious labels" in printed
    page = tmp_path / "out" / "inspection" / "index.html"
    assert str(page) in printed and page.is_file()
    assert not list((tmp_path / "out").glob("vecaf_*"))


def test_inspect_has_a_recipes_options_and_its_own(command, tmp_path, capsys):
    config = tmp_path / "options.yaml"
    config.write_text(f"strategy: random\nsamples: 30\nfolder: {tmp_path / 'page'}\n")
    assert cli.main(["inspect", *command, "--config", str(config)]) == 0
    printed = capsys.readouterr().out
    assert "scored for looking" in printed or "needs no scores" in printed
    assert (tmp_path / "page" / "inspection.json").is_file()


def test_report_reads_a_run(make_vit, make_trainer, tmp_path, capsys):
    trainer = make_trainer(make_vit())
    trainer.train()
    trainer.save_state()
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^ *1 +4-8 +20 ", printed, re.M)
    assert (tmp_path / "run" / "report" / "index.html").is_file()
    assert cli.main(["report", str(tmp_path / "run"), "--folder", str(tmp_path / "page")]) == 0
    assert (tmp_path / "page" / "overlap.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspct"], r"the command is 'inspct' \(did you mean 'inspect'\?\)"),
        (["report", "/no/such/run"], "/no/such/run is no folder"),
        (["inspect", "--strateggy", "ods"], "did you mean '--strategy'"),
        (["inspect", "--use_cpu", "true", "--report_to", "none"], "dataset_name is not set"),
        (["inspect", "--dataset_name", "x", "--selection_fraction", "2"], "selection_fraction is 2.0; it must be"),
        (["inspect", "--config", "/no/such/file.yaml"], "No such file.*file.yaml"),
    ],
)
def test_what_a_user_can_mend_is_a_sentence(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("vecaf-hf: ") and err.count("\n") == 1
    assert re.search(message, err)
    assert "Traceback" not in err


def test_a_bug_is_not_hidden(monkeypatch):
    def fail(words):
        raise RuntimeError("this is a bug")

    monkeypatch.setitem(cli.COMMANDS, "report", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["report"])


def test_the_traceback_is_logged_for_who_debugs(caplog):
    with caplog.at_level(logging.DEBUG, logger="vecaf_hf.cli"):
        assert cli.main(["report", "/no/such/run"]) == 1
    assert caplog.records[-1].exc_info[0] is ValueError


def test_the_commands_are_listed(capsys):
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +\S", printed, re.M) for name in cli.COMMANDS)
    assert cli.main([]) == 2


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_inspects_help_is_complete_and_grouped(capsys):
    printed = help_of("inspect", capsys)
    groups = {}
    for title, body in re.findall(r"^(\S[^\n]*):\n((?:(?:  [^\n]*)?\n)*)", printed, re.M):
        groups[title] = set(re.findall(r"^  --(\w+)", body, re.M))
    own = {"data, model and captions": RecipeArguments, "Cross-attentive Embedding Augmentation": CEAOptions}
    for title, options in own.items():
        assert groups[title] - {name for name in groups[title] if name.startswith("no_")} == {
            field.name for field in fields(options)
        }
    assert groups["this command"] == {"config", "samples", "folder"}
    assert {"strategy", "allocation", "random_fraction"} <= groups["selection"]
    assert {"num_loops", "rescore", "head_warmup"} <= groups["loops and scoring"]
    last = groups["training, as in transformers' TrainingArguments"]
    assert {field.name for field in fields(TrainingArguments) if field.init} <= last
    listed = set().union(*groups.values())
    assert {field.name for field in fields(VeCAFArguments) if field.init} <= listed


def test_reports_help_says_what_it_reads(capsys):
    printed = help_of("report", capsys)
    assert "RUN" in printed and "save_state()" in printed and "--folder" in printed


def test_the_command_is_installed_with_the_package():
    config = (ROOT / "setup.cfg").read_text()
    assert "vecaf-hf = vecaf_hf.cli:main" in config
    assert "reporting/templates/*.html" in config
