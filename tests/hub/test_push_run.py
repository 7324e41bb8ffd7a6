"""Pushing from a finished run's folder, without a model in memory."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard
from local_hub import OWNER, TOKEN

from vecaf_hf.cli import main as cli
from vecaf_hf.hub.push import PushError, push_run
from vecaf_hf.reporting.amending import amended, has_own_text

ROOT = Path(__file__).parents[2]
WRITTEN = "\n## Intended uses\n\nTo tell shirts from shoes.\n"


@pytest.fixture
def folder(finished) -> Path:
    finished.save_model()
    finished.save_state()
    finished.create_model_card()
    return Path(finished.args.output_dir)


def text_on(hub, repo: str) -> str:
    return hub.repos[repo]["README.md"].decode()


def test_the_same_files_as_the_trainer(hub, finished, folder):
    push_run(folder)
    alone = dict(hub.repos[f"{OWNER}/run"])
    hub.repos.clear()
    finished.push_to_hub()
    assert hub.repos[f"{OWNER}/run"].keys() == alone.keys()
    assert hub.repos[f"{OWNER}/run"]["model.safetensors"] == alone["model.safetensors"]


def test_the_command_says_where_it_went_or_what_failed(hub, folder, capsys):
    assert cli.main(["push", str(folder), "--repo_id", f"{OWNER}/other", "--private"]) == 0
    assert f"{OWNER}/other" in capsys.readouterr().out and "config.json" in hub.repos[f"{OWNER}/other"]
    assert cli.main(["push", str(folder / "plots")]) == 1
    assert "holds no model.safetensors, so no finished run" in capsys.readouterr().err


def test_only_what_others_need(hub, folder):
    """Logs, caches, states and whatever lies there beside the run stay here."""
    for name in ("train.log", "notes.txt", "optimizer.pt", "training_args.bin", "model.pkl", ".env", "_tmp.json"):
        (folder / name).write_text(f"{folder} {TOKEN}")
    (folder / "runs").mkdir()
    (folder / "runs" / "events.out.tfevents.1.host").write_text("x")
    (folder / "confusion.png").write_bytes(b"\x89PNG")
    push_run(folder)
    files = hub.repos[f"{OWNER}/run"]
    assert files.keys() == {
        "README.md",
        "config.json",
        "confusion.png",
        "model.safetensors",
        "plots/cost.png",
        "plots/curves.png",
        "plots/selection.png",
        "training_args.json",
    }
    assert not [name for name, content in files.items() if str(folder).encode() in content]
    arguments = json.loads(files["training_args.json"])
    assert arguments["output_dir"] == "run" and arguments["learning_rate"] == 1e-3


def test_another_repository(hub, folder):
    push_run(folder, repo_id="team/shirts", private=True, revision="v2")
    assert f"Bearer {TOKEN}" in hub.tokens
    assert "POST /api/models/team/shirts/commit/v2" in hub.requests
    assert 'from_pretrained("team/shirts")' in text_on(hub, "team/shirts")
    assert 'from_pretrained("USER/MODEL")' in (folder / "README.md").read_text()


def test_a_checkpoint_alone_is_pushed_without_a_card(hub, make_vit, make_trainer):
    trainer = make_trainer(make_vit(), save_strategy="steps", save_steps=8)
    trainer.train()
    push_run(Path(trainer.args.output_dir) / "checkpoint-8", repo_id="team/shirts")
    files = hub.repos["team/shirts"].keys()
    assert files == {"config.json", "model.safetensors", "training_args.json"}


def test_the_last_checkpoint_goes_along_and_an_earlier_runs_stays_here(hub, make_vit, make_trainer):
    trainer = make_trainer(make_vit(), save_strategy="steps", save_steps=4, hub_strategy="checkpoint")
    trainer.train()
    trainer.save_model()
    push_run(trainer.args.output_dir)
    assert json.loads(hub.repos[f"{OWNER}/run"]["last-checkpoint/trainer_state.json"])["global_step"] == 8
    state = Path(trainer.args.output_dir) / "checkpoint-8" / "vecaf_state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"run": "earlier"}))
    push_run(trainer.args.output_dir)
    assert json.loads(hub.repos[f"{OWNER}/run"]["last-checkpoint/trainer_state.json"])["global_step"] == 4


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_without_a_model(hub, tmp_path, made):
    if made:
        (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        push_run(tmp_path / "run")
    assert hub.requests == []


@pytest.mark.parametrize("repo", ["a/b/c", "--", "two words"])
def test_no_name_for_a_repository(hub, folder, repo):
    with pytest.raises(PushError, match="cannot push to") as caught:
        push_run(folder, repo_id=repo)
    assert caught.value.permanent


def test_a_folder_whose_name_is_no_repositorys(hub, folder, tmp_path):
    moved = shutil.move(folder, tmp_path / "my run; rm -rf \x1b[31m")
    with pytest.raises(PushError) as caught:
        push_run(moved)
    assert str(caught.value).isprintable()


# --- A card that is on the Hub already ---


def test_what_somebody_wrote_on_the_hub_stays(hub, folder):
    push_run(folder)
    repo = f"{OWNER}/run"
    header, rest = text_on(hub, repo).split("# run\n", 1)
    edited = header.replace("---\n", "---\nlicense: mit\n", 1) + "# Shirts\n" + WRITTEN + rest
    hub.repos[repo]["README.md"] = edited.encode()
    # The run goes on, and is pushed again.
    local = folder / "README.md"
    local.write_text(local.read_text().replace("0-4 | 20 |", "0-4 | 21 |"))
    push_run(folder)
    card = text_on(hub, repo)
    assert card.count(WRITTEN) == 1 and "# Shirts\n" in card and ModelCard(card).data.license == "mit"
    assert "0-4 | 21 |" in card and "0-4 | 20 |" not in card
    assert card.count("## Limitations") == 1


def test_what_somebody_wrote_here_is_pushed(hub, folder):
    push_run(folder)
    local = folder / "README.md"
    local.write_text(local.read_text() + WRITTEN)
    push_run(folder)
    assert text_on(hub, f"{OWNER}/run").endswith(WRITTEN)


def test_written_in_here_and_there(hub, folder, caplog):
    """What is edited here again is pushed again; that other text was there is told, and other metadata stays."""
    repo, local = f"{OWNER}/run", folder / "README.md"
    written = local.read_text()
    for text in ("Mine.", "Mine again."):
        local.write_text(f"{written}\n{text}\n")
        push_run(folder)
        assert f"\n{text}\n" in text_on(hub, repo)
    theirs = text_on(hub, repo).replace("---\n", "---\nlicense: mit\n", 1) + WRITTEN
    hub.repos[repo]["README.md"] = theirs.encode()
    local.write_text(written.replace("---\n", "---\nlicense: cc0-1.0\n", 1) + "\nMine at last.\n")
    push_run(folder)
    card = text_on(hub, repo)
    assert "Mine at last." in card and WRITTEN not in card and ModelCard(card).data.license == "mit"
    assert "license stays 'mit' (the run's: 'cc0-1.0')" in caplog.text
    assert "its text is the run's now, and the former one in the repository's history" in caplog.text
    caplog.clear()
    push_run(folder)
    assert not caplog.messages


def test_metadata_of_the_hub_stays_where_only_the_text_is_written_here(hub, folder):
    push_run(folder)
    repo, local = f"{OWNER}/run", folder / "README.md"
    hub.repos[repo]["README.md"] = text_on(hub, repo).replace("---\n", "---\nlicense: mit\n", 1).encode()
    local.write_text(local.read_text() + WRITTEN)
    push_run(folder)
    assert text_on(hub, repo).endswith(WRITTEN) and ModelCard(text_on(hub, repo)).data.license == "mit"


def test_what_is_given_with_the_push_wins_over_the_hubs(hub, finished, caplog):
    finished.push_to_hub(license="mit", language="de", model_name="shoes")
    finished.push_to_hub(
        license="apache-2.0", tasks="image-feature-extraction", model_name="shirts", finetuned_from="a/b"
    )
    data = ModelCard(text_on(hub, f"{OWNER}/run")).data
    assert (data.license, data.language, data.base_model) == ("apache-2.0", "de", "a/b")
    assert (data.pipeline_tag, data.model_name) == ("image-feature-extraction", "shirts")
    assert not caplog.messages


@pytest.mark.parametrize("same", [True, False])
def test_results_of_earlier_weights_do_not_stay(hub, folder, caplog, same):
    """Those of the same weights do, whoever measured them."""
    push_run(folder)
    repo, local = f"{OWNER}/run", folder / "README.md"
    card = ModelCard(text_on(hub, repo))
    shoes = EvalResult(
        task_type="image-classification",
        dataset_type="shoes",
        dataset_name="Shoes",
        metric_type="f1",
        metric_value=0.5,
    )
    card.data.eval_results = [*card.data.eval_results, shoes]
    hub.repos[repo]["README.md"] = str(card).encode()
    if not same:
        here = ModelCard(local.read_text())
        here.data.eval_results[0].metric_value = 0.125
        local.write_text(str(here))
    push_run(folder)
    names = {one.dataset_name for one in ModelCard(text_on(hub, repo)).data.eval_results}
    assert ("Shoes" in names) == same
    assert ("results of earlier weights are gone: f1 on Shoes" in caplog.text) != same


def test_own_text_is_told_from_ours(folder):
    card = (folder / "README.md").read_text()
    assert (
        not has_own_text(card) and has_own_text(card + WRITTEN) and has_own_text(amended("# My model\n\nGood.", card))
    )
    assert has_own_text("Do not use: trained on leaked data.")


# --- In a process of its own ---


def test_with_nothing_but_the_environment(hub_server, folder, tmp_path):
    script = f"""
        from vecaf_hf.hub.push import push_run
        print(push_run({str(folder)!r}).oid)
    """
    environment = {**os.environ, "HF_ENDPOINT": hub_server.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "model.safetensors" in hub_server.repos[f"{OWNER}/run"]
    assert TOKEN not in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
