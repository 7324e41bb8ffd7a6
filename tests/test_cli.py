"""The command as a user types it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from every_case import every_case
from transformers import AutoImageProcessor, TrainingArguments, ViTImageProcessor

import vecaf_hf
from vecaf_hf import VeCAFArguments
from vecaf_hf.augmentation.options import CEAOptions
from vecaf_hf.cli import main as cli
from vecaf_hf.cli.options import RecipeArguments, parse
from vecaf_hf.inspection import embedding_map

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
    assert cli.main(["inspect", *command, "--strategy", "ods"]) == 0
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
    ("words", "code", "message"),
    [
        (["inspct"], 2, r"the command is 'inspct' \(did you mean 'inspect'\?\)"),
        (["report"], 2, r"the following arguments are required: RUN"),
        (["report", "/no/such/run"], 1, "/no/such/run is no folder"),
        (["inspect", "--strateggy", "ods"], 2, "did you mean '--strategy'"),
        (["inspect", "--strategy", "odss"], 2, "strategy is 'odss' .did you mean 'ods'"),
        (["inspect", "--optim", "adamw_torhc"], 2, "optim is 'adamw_torhc' .did you mean 'adamw_torch'.*; choose one"),
        (["inspect", "--max_steps", "many"], 2, "--max_steps.*: invalid int value: 'many'"),
        (["inspect", "--use_cpu", "true", "--report_to", "none"], 1, "dataset_name is not set"),
        (["inspect", "--selection_fraction", "2"], 2, "selection_fraction is 2.0; it must be"),
        (["inspect", "--config", "/no/such/file.yaml"], 2, "/no/such/file.yaml: No such file"),
        (["inspect", "--config", "torn.yaml"], 2, 'torn.yaml", line 1'),
        (["inspect", "--use_cpu", "--dataset_name", "no/such"], 1, "cannot load the dataset 'no/such'"),
        (["report", "torn"], 1, "torn/vecaf_state.json is damaged"),
    ],
)
def test_what_a_user_can_mend_is_a_sentence(words, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("torn.yaml").write_text("num_loops: [2")
    Path("torn").mkdir()
    for name, text in (("vecaf_state.json", "{"), ("vecaf_state.safetensors", "")):
        Path("torn", name).write_text(text)
    assert cli.main(words) == code
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


def test_the_commands_are_listed(capsys):
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +\S", printed, re.M) for name in cli.COMMANDS)
    assert cli.main([]) == 2


def test_it_tells_its_versions(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"vecaf_hf {vecaf_hf.__version__}, transformers ")


def test_what_the_package_offers_can_be_imported():
    for name in vecaf_hf.__all__:
        assert getattr(vecaf_hf, name) is not None
    assert set(vecaf_hf.__all__) <= set(dir(vecaf_hf))
    with pytest.raises(ImportError, match="VeCAFTrainre"):
        from vecaf_hf import VeCAFTrainre  # noqa: F401


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def groups_of(printed: str) -> dict[str, set[str]]:
    """Options by the title that they stand under, in order."""
    groups = re.findall(r"^(\S[^\n]*):\n((?:(?:  [^\n]*)?\n)*)", printed, re.M)
    return {title: set(re.findall(r"^  --(\w+)", body, re.M)) for title, body in groups}


def test_inspects_help_is_complete_and_grouped(capsys):
    groups = groups_of(help_of("inspect", capsys))
    of_trainer = {field.name for field in fields(TrainingArguments) if field.init}
    assert list(groups)[1:] == [
        "this command",
        "data and model",
        "selection",
        "loops and scoring",
        "Cross-attentive Embedding Augmentation (CEA) and captions",
        "training, as in transformers' TrainingArguments",
    ]
    _, command, data, selection, loops, cea, training = groups.values()
    assert command == {"config", "samples", "folder"}
    assert {"captions", "text_encoder"} | {field.name for field in fields(CEAOptions)} <= cea
    assert data | cea == {field.name for one in (RecipeArguments, CEAOptions) for field in fields(one)}
    assert {"strategy", "allocation", "random_fraction"} <= selection
    assert {"num_loops", "rescore", "score_cache"} <= loops
    assert training == of_trainer
    assert training | selection | loops == {field.name for field in fields(VeCAFArguments) if field.init}


@pytest.mark.parametrize("columns", [80, 120])
def test_every_option_stands_once_with_its_default_and_fits(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    printed = help_of("inspect", capsys)
    assert max(map(len, printed.splitlines())) <= columns
    options = re.split(r"^  (?=--)", printed.partition("this command:")[2], flags=re.M)[1:]
    names = [one.split()[0] for one in options]
    assert len(set(names)) == len(names) > 150
    assert all(" (default: " in " ".join(one.split()) for one in options)
    assert "usage: vecaf-hf inspect [--config FILE.yaml] [--OPTION VALUE ...]\n" in printed
    known = dict(zip(names, (" ".join(one.split()) for one in options), strict=True))
    assert "[true|false] Mirror training images at random. (default: true)" in known["--horizontal_flip"]
    assert "One of ods, activeft," in known["--strategy"]
    assert "(default: training selection)" in known["--act_on"]
    assert "(default: not set)" in known["--selection_budget"]
    assert "last whole checkpoint" in known["--resume_from_checkpoint"]


@every_case("word", ["--no_horizontal_flip", "--no-horizontal-flip", "--horizontal_flip=false"])
def test_what_the_help_does_not_list_is_taken_all_the_same(word):
    assert not parse({"use_cpu": True, "report_to": "none"}, [word])[0].horizontal_flip
    assert parse({"use_cpu": True, "report_to": "none"}, ["--max-steps", "7"])[2].max_steps == 7


def test_reports_help_says_what_it_reads(capsys):
    printed = help_of("report", capsys)
    assert "RUN" in printed and "save_state()" in printed and "--folder" in printed


def test_the_command_is_installed_with_the_package():
    config = (ROOT / "setup.cfg").read_text()
    assert "vecaf-hf = vecaf_hf.cli.main:main" in config
    assert "reporting/templates/*.html" in config
