"""What reaches the Hub under each `hub_strategy`: an ordinary checkpoint with its card, and nothing of this machine."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from local_hub import OWNER, TOKEN
from PIL import Image
from transformers import AutoModelForImageClassification, ViTImageProcessor, pipeline
from transformers.trainer_pt_utils import safe_globals

from vecaf_hf import CEACallback

REPO = f"{OWNER}/run"
MODEL = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "training_args.json"}
PLOTS = {"plots/curves.png", "plots/selection.png", "plots/cost.png"}
STATE = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
CHECKPOINT = (MODEL - {"README.md"}) | STATE | {"vecaf_state.json", "vecaf_state.safetensors"}
PROCESSOR = {"size": {"height": 32, "width": 32}}


@pytest.fixture
def pushing(make_vit, make_trainer, text_encoder):
    """A trainer that saves twice and waits for each push."""

    def make(**options):
        options = {"push_to_hub": True, "save_strategy": "steps", "save_steps": 4, "hub_always_push": True} | options
        return make_trainer(
            make_vit(),
            callbacks=[CEACallback(text_encoder)],
            trainer={"processing_class": ViTImageProcessor(**PROCESSOR)},
            **options,
        )

    return make


def inside(folder: str, names: set[str]) -> set[str]:
    return {f"{folder}/{name}" for name in names}


EXPECTED = {
    "end": MODEL | PLOTS,
    "every_save": MODEL | PLOTS,
    "checkpoint": MODEL | PLOTS | inside("last-checkpoint", CHECKPOINT),
    "all_checkpoints": MODEL | PLOTS | inside("checkpoint-4", CHECKPOINT) | inside("checkpoint-8", CHECKPOINT),
}


@pytest.mark.parametrize("strategy", EXPECTED)
def test_what_is_uploaded(hub, pushing, tmp_path, strategy):
    trainer = pushing(hub_strategy=strategy, hub_token=TOKEN)
    trainer.train()
    during = [] if strategy == "end" else ["Training in progress, step 4", "Training in progress, step 8"]
    assert hub.commits == during
    if during:
        # Pushed by the training alone, before the run's end.
        assert hub.repos[REPO].keys() == EXPECTED[strategy]
    trainer.push_to_hub()
    files = hub.repos[REPO]
    assert files.keys() == EXPECTED[strategy]
    assert not (tmp_path / "run" / ".pushing" / "checkpoint-8").exists()
    for name, content in files.items():
        assert TOKEN.encode() not in content, name
        for path in (tmp_path, Path.home(), Path.cwd()):
            assert str(path).encode() not in content, name
        # torch.save's archives, and pickle itself.
        if content[:2] in (b"PK", *(bytes([0x80, n]) for n in range(2, 6))):
            assert "checkpoint" in name and name.rpartition("/")[2] in STATE, name


def downloaded(hub, folder: Path) -> Path:
    for name, content in hub.repos[REPO].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_it_is_an_ordinary_checkpoint(hub, pushing, tmp_path):
    trainer = pushing(hub_strategy="every_save")
    trainer.train()
    folder = downloaded(hub, tmp_path / "downloaded")
    model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert model.config.id2label == trainer.model.config.id2label
    # By the lines in its card.
    classify = pipeline("image-classification", model=str(folder))
    assert {found["label"] for found in classify(Image.new("RGB", (28, 28)))} <= set(trainer.class_names)
    card = ModelCard.load(folder / "README.md")
    assert f'pipeline("image-classification", model="{REPO}")' in card.text
    shown = [line for line in card.text.splitlines() if line.startswith("![")]
    assert len(shown) == 3 and all((folder / line.partition("](")[2][:-1]).is_file() for line in shown)


def test_a_run_resumes_from_the_hubs_checkpoint(hub, pushing, tmp_path):
    whole = pushing(hub_strategy="all_checkpoints")
    whole.train()
    folder = downloaded(hub, tmp_path / "downloaded") / "checkpoint-4"
    resumed = pushing(push_to_hub=False, output_dir=str(tmp_path / "other"))
    resumed.train(resume_from_checkpoint=str(folder))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    with safe_globals():
        torch.load(folder / "optimizer.pt", weights_only=True)


def test_a_checkpoint_that_is_removed_meanwhile_arrives(hub, pushing):
    trainer = pushing(hub_strategy="checkpoint", save_total_limit=1)
    trainer.train()
    assert len(hub.commits) == 2
    assert json.loads(hub.repos[REPO]["last-checkpoint/trainer_state.json"])["global_step"] == 8
    assert not Path(trainer.args.output_dir, "checkpoint-4").exists()


def test_a_push_that_takes_long_is_not_waited_for(hub, pushing):
    trainer = pushing(hub_strategy="every_save", hub_always_push=False)
    running = type("Running", (), {"is_done": lambda self: False, "wait_until_done": lambda self: None})()
    trainer.push_in_progress = running
    trainer.train()
    assert hub.commits == [] and trainer.push_in_progress is running


def test_by_default_the_repository_has_the_folders_name_and_the_token_is_the_environments(hub, pushing):
    trainer = pushing(hub_strategy="end")
    assert trainer.hub_model_id == REPO
    trainer.train()
    url = trainer.push_to_hub(blocking=False).result().commit_url
    assert url.startswith(f"{hub.url}/{REPO}/commit/")
    assert f"Bearer {TOKEN}" in hub.tokens


def test_save_model_pushes_too(hub, pushing):
    trainer = pushing(hub_strategy="end")
    trainer.train()
    trainer.save_model()
    assert hub.commits == ["Model save"]
