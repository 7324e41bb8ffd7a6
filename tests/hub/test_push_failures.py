"""A push that fails: nothing is lost, one sentence says what to do, and it can be pushed again."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

import huggingface_hub
import pytest
from local_hub import OWNER, TOKEN
from transformers import AutoModelForImageClassification, TrainerCallback

from vecaf_hf.hub.push import PushError, push_run

REPO = f"{OWNER}/run"
# Where and how the Hub fails, and what the sentence says of it. 0 drops the connection.
FAULTS = {
    "401": ("create", 401, "token"),
    "401 later": ("preupload", 401, "token"),
    "403": ("create", 403, "write access"),
    "403 later": ("commit", 403, "write access"),
    "409": ("commit", 409, "conflict"),
    "429": ("commit", 429, "too many requests"),
    "500": ("commit", 500, "try again later"),
    "500 of uploads": ("put", 500, "try again later"),
    "500 of the card": ("validate", 500, "try again later"),
    "dropped": ("commit", 0, "connection failed"),
    "dropped at once": ("create", 0, "connection failed"),
    "dropped uploads": ("put", 0, "connection failed"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_run_is_whole_and_can_be_pushed_again(hub, waits, finished, name):
    step, status, word = FAULTS[name]
    hub.fail(step, status, times=100)
    with pytest.raises(PushError) as caught:
        finished.push_to_hub(token=TOKEN)
    said = str(caught.value)
    folder = Path(finished.args.output_dir)
    assert word in said and (str(status) in said or not status)
    assert f"`vecaf-hf push {shlex.quote(str(folder))}`" in said
    assert said.isprintable() and TOKEN not in said
    assert hub.commits == []
    # All of it is on the disk.
    AutoModelForImageClassification.from_pretrained(folder)
    assert {"README.md", "training_args.json"} <= {path.name for path in folder.iterdir()}
    assert len(list((folder / "plots").iterdir())) == 3
    hub.faults.clear()
    push_run(folder, token=TOKEN)
    pushed = hub.repos[REPO]
    assert {"README.md", "config.json", "model.safetensors", "training_args.json", "plots/cost.png"} <= pushed.keys()


@pytest.mark.parametrize("step", ["create", "read", "preupload", "batch", "put", "commit"])
def test_too_many_requests_are_waited_out(hub, waits, finished, step):
    hub.fail(step, 429, times=2, Retry_After="17")
    finished.push_to_hub()
    assert hub.commits == ["End of training"]
    # huggingface_hub waits a second more.
    assert len(waits) == 2 and set(waits) <= {17, 18}


@pytest.mark.parametrize("status", [503, 0])
@pytest.mark.parametrize("step", ["create", "commit"])
def test_a_short_failure_is_waited_out(hub, waits, finished, step, status):
    hub.fail(step, status, times=2)
    finished.push_to_hub()
    assert hub.commits == ["End of training"] and waits == [2, 8]


def test_the_advice_names_what_was_given(hub, finished):
    finished.save_model()
    hub.fail("commit", 403)
    with pytest.raises(PushError, match="--repo_id team/shirts --revision v2 --private`"):
        push_run(finished.args.output_dir, repo_id="team/shirts", revision="v2", private=True)


def test_an_hour_is_not_waited(hub, waits, finished):
    hub.fail("commit", 429, times=1, Retry_After="3600")
    with pytest.raises(PushError, match="wait a while"):
        finished.push_to_hub()
    assert waits == []


def test_a_short_failure_of_an_upload_is_none(hub, waits, finished):
    hub.fail("put", 500, times=2)
    finished.push_to_hub()
    assert hub.commits == ["End of training"]


# --- In the middle of training ---


@pytest.mark.parametrize(("step", "status"), [("commit", 403), ("commit", 500), ("put", 0), ("preupload", 401)])
def test_training_goes_on_and_says_so_once(hub, waits, make_vit, make_trainer, caplog, step, status):
    trainer = make_trainer(
        make_vit(), push_to_hub=True, hub_always_push=True, save_strategy="steps", save_steps=4, hub_token=TOKEN
    )
    hub.fail(step, status, times=1000)
    with caplog.at_level(logging.WARNING, "vecaf_hf"):
        assert trainer.train().global_step == 8
    said = [record.getMessage() for record in caplog.records if "cannot push" in record.getMessage()]
    assert len(said) == 1 and "next save pushes again" in said[0] and TOKEN not in said[0]
    assert len(list(Path(trainer.args.output_dir).glob("checkpoint-*"))) == 2
    hub.faults.clear()
    trainer.push_to_hub()
    assert hub.commits == ["End of training"]


def test_another_kind_of_failure_is_told_too(hub, make_vit, make_trainer, caplog):
    trainer = make_trainer(make_vit(), push_to_hub=True, hub_always_push=True, save_strategy="steps", save_steps=2)
    hub.faults["commit"] = [(403, {}), (409, {}), (403, {})]
    trainer.train()
    said = [record.getMessage() for record in caplog.records if "cannot push" in record.getMessage()]
    assert ["403" in said[0], "409" in said[1], len(said)] == [True, True, 2]
    assert hub.commits == ["Training in progress, step 8"]


def test_a_failure_after_a_push_that_arrived_is_told_again(hub, make_vit, make_trainer, caplog):
    class EverySecond(TrainerCallback):
        def on_push_begin(self, args, state, control, **kwargs):
            if trainer.push_in_progress is not None:
                trainer.push_in_progress.wait_until_done()
            if state.global_step in (2, 6):
                hub.fail("commit", 403)

    options = {"push_to_hub": True, "hub_always_push": True, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(make_vit(), [EverySecond()], **options)
    trainer.train()
    said = [record.getMessage() for record in caplog.records if "cannot push" in record.getMessage()]
    assert len(said) == 2 and all("403" in one for one in said)
    assert hub.commits == ["Training in progress, step 4", "Training in progress, step 8"]


def test_a_card_that_cannot_be_written_ends_no_training(hub, make_vit, make_trainer, monkeypatch, caplog):
    trainer = make_trainer(make_vit(), push_to_hub=True, save_strategy="steps", save_steps=4)

    def fail(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr("vecaf_hf.reporting.card.write_plots", fail)
    assert trainer.train().global_step == 8
    assert [record.getMessage() for record in caplog.records if "no font" in record.getMessage()]


def test_save_model_goes_on_for_what_comes_after_it(hub, make_vit, make_trainer, caplog):
    trainer = make_trainer(make_vit(), push_to_hub=True, hub_strategy="end")
    trainer.train()
    hub.fail("commit", 403)
    trainer.save_model()
    assert any("vecaf-hf push" in record.getMessage() for record in caplog.records)
    assert Path(trainer.args.output_dir, "model.safetensors").is_file()


# --- Before training ---


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_token_shows_before_training(hub, make_vit, make_trainer, status):
    hub.fail("create", status)
    with pytest.raises(PushError, match=f"cannot push to run.*{status}"):
        make_trainer(make_vit(), push_to_hub=True)


@pytest.mark.parametrize("status", [500, 0])
def test_a_hub_that_cannot_be_reached_keeps_from_no_training(hub, waits, make_vit, make_trainer, caplog, status):
    hub.fail("create", status, times=4)
    trainer = make_trainer(make_vit(), push_to_hub=True, hub_always_push=True, save_strategy="steps", save_steps=4)
    assert any("The run goes on" in record.getMessage() for record in caplog.records)
    assert waits == []
    trainer.train()
    assert hub.commits == ["Training in progress, step 4", "Training in progress, step 8"]
    assert trainer.hub_model_id == REPO


def test_offline(hub, make_vit, make_trainer, monkeypatch, caplog):
    """As on a node without a network, where HF_HUB_OFFLINE is set."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    trainer = make_trainer(make_vit(), push_to_hub=True, save_strategy="steps", save_steps=4)
    trainer.train()
    with pytest.raises(PushError, match="HF_HUB_OFFLINE"):
        trainer.push_to_hub()
    assert hub.requests == []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    push_run(trainer.args.output_dir)
    assert "README.md" in hub.repos[REPO]
