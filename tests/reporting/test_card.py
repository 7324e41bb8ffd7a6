"""The card of a run: valid metadata, whole tables, nothing of this machine, no network; a user's own words stay."""

import re
import socket
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, metadata_load
from hypothesis import HealthCheck, example, given, settings
from PIL import Image
from test_names import NASTY, class_names, names
from transformers import TimmWrapperForImageClassification, pipeline
from transformers.models.timm_wrapper import TimmWrapperConfig, TimmWrapperImageProcessor

import vecaf_hf.reporting.card as card_module
from vecaf_hf import CEACallback, VeCAFArguments
from vecaf_hf.printable import printable
from vecaf_hf.reporting.amending import SECTION
from vecaf_hf.reporting.card import TEMPLATE
from vecaf_hf.reporting.reproduction import changed_arguments
from vecaf_hf.reporting.summary import NAMED_CLASSES

ROOT = Path(__file__).parents[2]
SECTIONS = ["about", "load", "selection", "cost", "reproduction", "limitations", "licences", "citation"]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def quick(monkeypatch):
    """Without pictures, which take the time."""
    monkeypatch.setattr(card_module, "write_plots", lambda *_: [])


@pytest.fixture
def finished(make_vit, make_trainer, text_encoder):
    def accuracy(prediction):
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    trainer = make_trainer(
        make_vit(),
        callbacks=[CEACallback(text_encoder, step_size=0.2)],
        trainer={"compute_metrics": accuracy},
        eval_strategy="epoch",
        hub_model_id="somebody/shirts",
        hub_token="hf_NobodyMayReadThis",
    )
    trainer.train()
    return trainer


def written(trainer, **given) -> ModelCard:
    trainer.create_model_card(**given)
    return ModelCard.load(Path(trainer.args.output_dir, "README.md"))


def sections(card: ModelCard) -> dict[str, str]:
    return {found[1]: found[0] for found in SECTION.finditer(card.text)}


def test_every_part_is_there(no_network, finished, validation, tmp_path):
    metrics = finished.evaluate(validation, metric_key_prefix="test")
    card = written(finished, dataset_tags="zalando-datasets/fashion_mnist", dataset="Fashion-MNIST", license="mit")
    parts = sections(card)
    assert list(parts) == SECTIONS
    metadata = card.data.to_dict()
    assert metadata["library_name"] == "transformers" and metadata["pipeline_tag"] == "image-classification"
    assert metadata["tags"] == ["image-classification", "vecaf"] and metadata["license"] == "mit"
    assert metadata["datasets"] == ["zalando-datasets/fashion_mnist"] and metadata["metrics"] == ["accuracy"]
    assert "base_model" not in metadata
    results = {(result.dataset_split, result.metric_type): result for result in card.data.eval_results}
    assert results.keys() == {(split, metric) for split in ("validation", "test") for metric in ("loss", "accuracy")}
    assert results["test", "accuracy"].metric_value == metrics["test_accuracy"]
    assert results["test", "loss"].dataset_name == "Fashion-MNIST" and card.data.model_name == "shirts"
    assert f"| accuracy | {metrics['test_accuracy']:.4f} | {metrics['test_accuracy']:.4f} |" in parts["about"]
    assert "](https://huggingface.co/datasets/zalando-datasets/fashion_mnist)" in parts["about"]
    assert 'from_pretrained("somebody/shirts")' in parts["load"]
    assert "| 0 | 0-4 | 20 | 20 |" in parts["selection"] and "| ankle boot |" in parts["selection"]
    assert re.search(r"\n\| train \| 64 \| \d", parts["cost"])
    for name, part in (("curves", "about"), ("selection", "selection"), ("cost", "cost")):
        assert f"](plots/{name}.png)" in parts[part] and (tmp_path / "run" / "plots" / f"{name}.png").is_file()
    assert re.search(r"trained on \d+ different samples of a pool of 120", parts["limitations"])
    assert "2401.07853" in parts["citation"] and "@" in parts["citation"]
    text = card.content
    assert str(tmp_path) not in text and str(Path.home()) not in text and "NobodyMayRead" not in text


def test_its_code_makes_the_runs_arguments(finished, quick):
    code = re.search(r"```python\n(.*?)\n```", sections(written(finished))["reproduction"], re.DOTALL)[1]
    made: dict = {}
    # Arguments alone: the text encoder of the test lies in a folder.
    exec(compile(code.split("cea = ")[0], "card", "exec"), made)
    theirs, ours = made["args"].to_dict(), finished.args.to_dict()
    assert {name for name in ours if theirs[name] != ours[name]} == {"output_dir"}
    assert "text_encoder=...,  # not on the Hub" in code and "step_size=0.2" in code and "toward" not in code


def test_only_what_differs_from_the_defaults():
    def strategy(*_): ...

    args = VeCAFArguments(output_dir="some/where", use_cpu=True, strategy=strategy, run_name="x", hub_token="hf_x")
    assert changed_arguments(args).keys() - {"dataloader_pin_memory"} == {"use_cpu", "strategy"}
    assert not changed_arguments(VeCAFArguments(output_dir="o")).keys() - {"dataloader_pin_memory", "use_cpu"}
    assert "logging_dir" not in changed_arguments(VeCAFArguments(output_dir="o"))


def test_a_run_that_was_only_evaluated(make_vit, make_trainer, no_network):
    trainer = make_trainer(make_vit())
    trainer.evaluate()
    parts = sections(written(trainer))
    assert list(parts) == SECTIONS
    assert "Nothing has been selected" in parts["selection"] and "![" not in "".join(parts.values())
    assert 'from_pretrained("USER/MODEL")' in parts["load"]


def test_ids_that_are_local_are_left_out(make_vit, make_trainer, quick, no_network, tmp_path):
    base = tmp_path / "base"
    model = make_vit()
    model.save_pretrained(base)
    (base / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n")
    for name, kept in ((str(base), None), ("../base", None), ("pypi:some-package", None), ("google/vit", "google/vit")):
        model.config._name_or_path = name
        trainer = make_trainer(model)
        Path(trainer.args.output_dir, "README.md").unlink(missing_ok=True)
        card = written(trainer)
        assert card.data.base_model == kept
        assert (
            str(tmp_path) not in card.content and "some-package" not in card.content and "../base" not in card.content
        )
        assert (card.data.license == "bsd-3-clause") is (name == str(base))
        assert ("bsd-3-clause" in sections(card)["licences"]) is (name == str(base))


def test_a_timm_model(make_trainer, labelled, quick):
    names = list(labelled["id2label"].values())
    config = TimmWrapperConfig(
        architecture="test_vit2",
        **labelled,
        model_args={"img_size": 32},
        pretrained_cfg={"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": len(names)},
    )
    config.label_names = names
    trainer = make_trainer(
        TimmWrapperForImageClassification(config),
        trainer={"processing_class": TimmWrapperImageProcessor(config.pretrained_cfg)},
    )
    trainer.train()
    trainer.save_model()
    card = written(trainer)
    assert card.data.library_name == "transformers" and "timm" in card.data.tags
    assert 'pipeline("image-classification", model="USER/MODEL")' in sections(card)["load"]
    found = pipeline("image-classification", model=str(trainer.args.output_dir))(Image.new("RGB", (32, 32)))
    assert {one["label"] for one in found} <= set(names)


def test_a_bare_module(make_trainer, quick):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    model.forward = lambda pixel_values, labels=None: type(model).forward(model, pixel_values)
    card_of = make_trainer(model, head="1")
    card = written(card_of)
    assert card.data.library_name is None
    assert 'load_file(hf_hub_download("USER/MODEL", "model.safetensors"))' in sections(card)["load"]


def test_the_template_is_in_the_package_and_where_the_cards_are():
    assert (ROOT / "model_cards" / "template.md").samefile(TEMPLATE)
    data = re.search(r"package_data\]\nvecaf_hf = (.*)", (ROOT / "setup.cfg").read_text())[1].split(", ")
    assert str(TEMPLATE.relative_to(ROOT / "vecaf_hf")) in data


# --- Names ---


def rows(text: str) -> list[list[str]]:
    """The tables' rows, cell by cell, as GitHub's Markdown reads them."""
    lines = [line for line in text.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]] for line in lines]


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)
@given(name=names.filter(bool), classes=class_names)
@example(name="\x85", classes=NASTY[:NAMED_CLASSES])
@example(name="\x85", classes=NASTY[-NAMED_CLASSES:])
@example(name="<!-- vecaf_hf:about -->", classes=["\n<!-- vecaf_hf:about -->\n", "\n<!-- /vecaf_hf:selection -->\n"])
def test_metadata_and_tables_survive_any_name(quick, plain, name, classes):
    trainer, before = plain
    trainer.model.config.id2label = dict(enumerate([*classes, *["x"] * (10 - len(classes))]))
    Path(trainer.args.output_dir, "README.md").unlink(missing_ok=True)
    for _ in range(2):
        card = written(trainer, dataset=name, model_name=name, tags=[name])
        assert list(sections(card)) == SECTIONS
        assert card.data.tags[-1] == printable(name) and card.data.model_name == printable(name)
        assert {result.dataset_name for result in card.data.eval_results} == {printable(name)}
    text = "".join(sections(card).values())
    assert text.isprintable() or set(re.findall(r"[^ -\U0010ffff]|\x7f", text)) == {"\n"}
    assert [len(row) for row in rows(text)] == before
    assert [row[1:] for row in rows(text) if row[1:] == ["2", "2"]] == [["2", "2"]] * 10


@pytest.fixture
def plain(make_vit, make_trainer, quick):
    """A trainer of ten classes, and the widths of its card's rows."""
    trainer = make_trainer(make_vit(), eval_strategy="epoch")
    trainer.train()
    return trainer, [len(row) for row in rows("".join(sections(written(trainer)).values()))]


# --- Somebody's own words ---


def test_what_somebody_wrote_survives_byte_for_byte(finished, quick):
    path = Path(finished.args.output_dir, "README.md")
    written(finished)
    text = path.read_bytes()
    own = [b"\n\xef\xbb\xbfbefore \r\n<!-- a comment -->\n", b"\n## Between  \n\n| a |\n|--|\n", b"\n```\nafter\n```  "]
    about, cost = text.index(b"<!-- vecaf_hf:about"), text.index(b"<!-- vecaf_hf:cost")
    path.write_bytes(text[:about] + own[0] + text[about:cost] + own[1] + text[cost:] + own[2])
    edited = path.read_bytes()
    finished.loop_records[0] = finished.loop_records[0].from_json(finished.loop_records[0].to_json() | {"new": 19})
    written(finished)
    again = path.read_bytes()
    for part in own:
        assert again.count(part) == 1
    outside = re.compile(rb"<!-- vecaf_hf:(\w+) -->.*?<!-- /vecaf_hf:\1 -->", re.DOTALL)
    assert outside.sub(b"@", again) == outside.sub(b"@", edited)
    assert b"| 0 | 0-4 | 20 | 19 |" in again and b"| 0 | 0-4 | 20 | 20 |" not in again


def test_a_card_of_somebodys_own_gets_ours_at_its_end(finished, quick):
    path = Path(finished.args.output_dir, "README.md")
    path.parent.mkdir(exist_ok=True)
    own = b"---\nlicense: cc-by-4.0\nlibrary_name: keras\ntags:\n- mine\nmodel-index: []\n---\n# Mine\n\nText"
    path.write_bytes(own)
    card = written(finished)
    assert card.text.startswith("# Mine\n\nText\n\n<!-- vecaf_hf:about -->") and list(sections(card)) == SECTIONS
    assert card.data.license == "cc-by-4.0" and card.data.library_name == "keras"
    assert card.data.tags == ["mine", "image-classification", "vecaf"]
    assert len(card.data.eval_results) == 2
    once = path.read_bytes()
    written(finished)
    assert path.read_bytes() == once


def test_what_the_caller_says_wins(finished, quick):
    written(finished, license="mit")
    assert written(finished).data.license == "mit"
    assert written(finished, license="apache-2.0", finetuned_from="google/vit").data.license == "apache-2.0"
    assert metadata_load(Path(finished.args.output_dir, "README.md"))["base_model"] == "google/vit"


def test_metadata_that_cannot_be_read(finished, quick):
    path = Path(finished.args.output_dir, "README.md")
    path.parent.mkdir(exist_ok=True)
    for header in ("a: b: c", "- list"):
        path.write_text(f"---\n{header}\n---\n# Mine\n")
        with pytest.raises(ValueError, match=r"mend README\.md"):
            finished.create_model_card()
        assert path.read_text() == f"---\n{header}\n---\n# Mine\n"
