"""A run read back from its folder."""

import shutil

import pytest
import torch

from vecaf_hf.augmentation import CEACallback
from vecaf_hf.inspection import read_run
from vecaf_hf.reporting.run import covered, overlaps
from vecaf_hf.selection import Selection


@pytest.fixture
def finished(make_vit, make_trainer, text_encoder):
    """A run of three loops with CEA, and what its trainer holds."""

    def make(**options):
        trainer = make_trainer(make_vit(), [CEACallback(text_encoder)], num_loops=3, eval_strategy="epoch", **options)
        trainer.train()
        return trainer

    return make


def same(run, trainer) -> bool:
    kept = [selection.indices.tolist() for selection in run.selections]
    return run.records == trainer.loop_records and kept == [one.indices.tolist() for one in trainer.selection_history]


def test_save_state_is_enough_without_checkpoints(finished, tmp_path):
    trainer = finished()
    trainer.save_model()
    trainer.evaluate()
    trainer.save_state()
    run = read_run(tmp_path / "run")
    assert same(run, trainer)
    assert (run.strategy, run.pool_size, run.step, run.total_steps, run.has_cea) == ("ods", 120, 8, 8, True)
    assert run.history == trainer.state.log_history
    assert run.work["evaluate"]["samples"] == trainer.meter.work["evaluate"].samples == 4 * 40
    assert run.class_names == trainer.class_names
    assert run.attention is None and any("alpha" in text for text in run.missing)


def test_what_save_state_writes_stays_small(finished, tmp_path):
    finished(rescore="proxy").save_state()
    sizes = [path.stat().st_size for path in (tmp_path / "run").glob("vecaf_state.*")]
    assert len(sizes) == 2 and sum(sizes) < 20_000


def test_a_checkpoint_is_enough(finished, tmp_path):
    trainer = finished(save_strategy="epoch")
    run = read_run(tmp_path / "run")
    assert same(run, trainer) and run.source.name == "checkpoint-8"
    assert run.missing == ()
    assert run.attention.shape == (20,) and float(run.attention.mean()) == pytest.approx(1, abs=1e-4)
    assert read_run(run.source).records == run.records


def test_a_run_that_was_killed_says_how_far_it_came(finished, tmp_path):
    trainer = finished(save_strategy="epoch")
    shutil.rmtree(tmp_path / "run" / "checkpoint-8")
    run = read_run(tmp_path / "run")
    assert (run.source.name, run.step, run.total_steps) == ("checkpoint-6", 6, 8)
    assert run.records == trainer.loop_records[:2]
    assert any("step 6 of 8" in text for text in run.missing)


def test_attention_is_that_of_the_same_run(finished, tmp_path):
    finished(save_strategy="epoch").save_state()
    assert read_run(tmp_path / "run").attention is not None
    later = finished(seed=1)
    later.save_state()
    run = read_run(tmp_path / "run")
    assert same(run, later) and run.attention is None


def test_a_strategy_without_scores_and_augmentation(make_vit, make_trainer, tmp_path):
    trainer = make_trainer(make_vit(), strategy="random")
    trainer.train()
    trainer.save_state()
    run = read_run(tmp_path / "run")
    assert same(run, trainer) and not run.has_cea and run.attention is None
    assert any("config.json" in text for text in run.missing)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has neither .* nor a whole checkpoint"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        read_run(tmp_path / "absent")


def test_saving_a_state_before_training_writes_none_of_loops(make_vit, make_trainer, tmp_path):
    trainer = make_trainer(make_vit())
    trainer.save_state()
    assert not list(tmp_path.rglob("vecaf_state.*"))


def test_overlaps_are_parts_of_the_rows_selection():
    selections = [Selection(torch.tensor(indices)) for indices in ([0, 1, 2, 3], [2, 3, 4, 5], [0, 4])]
    assert overlaps(selections) == [[1, 0.5, 0.25], [0.5, 1, 0.25], [0.5, 0.5, 1]]
    assert covered(selections) == [4, 6, 6]
