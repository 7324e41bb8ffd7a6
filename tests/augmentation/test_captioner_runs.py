"""CEA on captions that a captioner makes: of the pool or of what is selected, resumed, counted, refused."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import tiny_captioners as tiny
import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image
from resumed_runs import StopAfter, Stopped
from transformers import TrainerCallback

from vecaf_hf import Captioner, CEACallback, TextEncoder, VeCAFTrainer, caption_dataset
from vecaf_hf.cli.building import captions_of
from vecaf_hf.cli.options import parse
from vecaf_hf.cost import CostMeter
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.text import captioning
from vecaf_hf.text.captioning import PoolCaptions
from vecaf_hf.text.domains import Domains
from vecaf_hf.text.pool_texts import PoolTexts

POOL, BUDGET = 60, 15
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.write(tiny.blip, tmp_path_factory.mktemp("blip"))


@pytest.fixture
def captioner(blip: str, tmp_path: Path) -> Make:
    def make(**options: Any) -> Captioner:
        return Captioner(blip, **{"cache_dir": tmp_path / "captions", "max_new_tokens": 6, "batch_size": 7, **options})

    return make


@pytest.fixture
def pool(train: Dataset) -> Dataset:
    return train.select(range(POOL))


@pytest.fixture
def make_run(make_trainer: Make, make_vit: Make, pool: Dataset, text_encoder: TextEncoder, captioner: Make) -> Make:
    """A trainer of two loops on 60 images, with a captioner."""

    def make(
        seed: int = 0,
        cea: dict[str, Any] | None = None,
        captions: Any = "auto",
        more: list[Any] | None = None,
        **options: Any,
    ) -> VeCAFTrainer:
        made = {"captioner": captioner()} if captions == "auto" else {}
        callback = CEACallback(text_encoder, captions, **{**made, **(cea or {})})
        sizes = {"selection_budget": BUDGET, **options}
        return make_trainer(make_vit(seed), [callback, *(more or [])], **{"pool": pool, **sizes})

    return make


def weights(trainer: VeCAFTrainer) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in trainer.model.state_dict().items()}


def assert_same_run(one: VeCAFTrainer, other: VeCAFTrainer) -> None:
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)
    pairs = zip(one.selection_history, other.selection_history, strict=True)
    assert all(torch.equal(mine.indices, yours.indices) for mine, yours in pairs)
    assert one.loop_records == other.loop_records
    assert torch.equal(one.cea.running.augmenter.aligner.weight, other.cea.running.augmenter.aligner.weight)


def captioned(trainer: VeCAFTrainer) -> list[int]:
    return (trainer.cea.running.augmenter.table.rows >= 0).nonzero().squeeze(1).tolist()


# --- A whole run ---


def test_a_captioned_pool_trains_as_a_column_of_the_same_captions(make_run, pool, captioner):
    auto = make_run()
    auto.train()
    written = caption_dataset(pool, captioner(), column="written", disable_tqdm=True)
    assert len(set(written.with_format(None)["written"])) > 10
    by_column = make_run(captions="written", pool=written)
    by_column.train()
    assert_same_run(auto, by_column)
    plain = make_run(captions="a photo of a {label}")
    plain.train()
    assert any(not torch.equal(values, weights(plain)[name]) for name, values in weights(auto).items())


def test_a_captioned_pool_is_counted(make_run):
    trainer = make_run(strategy="balanced", selection_budget=20)
    trainer.train()
    work = trainer.meter.work["caption"]
    assert work.samples == POOL and work.flops > 0 and work.seconds > 0
    assert captioned(trainer) == [*range(POOL)]
    assert [record.info["cea_missing_captions"] for record in trainer.loop_records] == [0, 0]
    again = make_run(strategy="balanced", selection_budget=20)
    again.train()
    assert (again.meter.work["caption"].samples, again.meter.work["caption"].flops) == (0, 0)
    assert_same_run(trainer, again)


@pytest.mark.parametrize("strategy", ["ods", "balanced"])
def test_only_what_is_selected_is_captioned(make_run, strategy):
    trainer = make_run(cea={"caption_when": "selected"}, strategy=strategy)
    counts: list[int] = []

    class Counts(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            counts.append(trainer.meter.work["caption"].samples)

    trainer.add_callback(Counts())
    trainer.train()
    first, second = ({*selection.indices.tolist()} for selection in trainer.selection_history)
    assert counts == [len(first)] * 4 + [len(first | second)] * 4
    assert len(first | second) < POOL
    assert captioned(trainer) == sorted(first | second)
    assert [record.info["cea_missing_captions"] for record in trainer.loop_records] == [0, 0]
    assert all(record.info["cea_relative_shift"] > 0 for record in trainer.loop_records)


def test_the_first_selection_is_of_plain_embeddings(make_run, watch):
    seen: list[Candidates] = []
    watch("ods", seen.append)
    make_run(captions="a photo of a {label}", cea={"act_on": ["training"]}).train()
    make_run(cea={"caption_when": "selected", "step_size": 0.5}).train()
    plain, _, first, _ = seen
    assert torch.equal(first.embeddings, plain.embeddings)


def test_candidates_that_were_never_selected_stay_where_they_are(blip, text_encoder, captioner, fashion):
    callback = CEACallback(text_encoder, "auto", captioner(), caption_when="selected", step_size=0.5)
    callback.read_captions(fashion, None, [])
    callback.prepare(torch.nn.Linear(16, 2), 16, Accelerator(cpu=True), CostMeter())
    generator = torch.Generator().manual_seed(0)
    candidates = Candidates(torch.arange(POOL), embeddings=torch.randn(POOL, 16, generator=generator))
    assert callback.running.before_selection(candidates) is candidates
    selected = torch.tensor([9, 3, 40, 7])
    callback.running.begin_loop(candidates.take(selected), refit=False)
    moved = (callback.running.before_selection(candidates).embeddings != candidates.embeddings).any(dim=1)
    assert moved.nonzero().squeeze(1).tolist() == [3, 7, 9, 40]


def test_training_again_begins_without_captions_and_makes_none_anew(make_run):
    trainer = make_run(cea={"caption_when": "selected"}, strategy="random", seed=0)
    trainer.train()
    first = [selection.indices for selection in trainer.selection_history]
    records = trainer.loop_records
    trainer.cea.captioner.caption = None
    trainer.train()
    assert all(
        torch.equal(one, selection.indices) for one, selection in zip(first, trainer.selection_history, strict=True)
    )
    assert [record.new for record in records] == [record.new for record in trainer.loop_records]
    assert trainer.meter.work["caption"].samples == 0


@pytest.mark.parametrize("caption_when", ["pool", "selected"])
@pytest.mark.parametrize(
    "options", [{"toward": "instance"}, {"alignment": "procrustes"}, {"domain_prompt": "It snows."}]
)
def test_other_options_of_cea_go_with_a_captioner(make_run, caption_when, options):
    trainer = make_run(cea={"caption_when": caption_when, **options})
    trainer.train()
    assert trainer.state.global_step == 8
    assert all(record.info["cea_relative_shift"] > 0 for record in trainer.loop_records)


def test_the_weights_of_a_captioner_are_not_kept_in_training(make_run):
    trainer = make_run()
    held: list[bool] = []

    class Looks(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            held.append("_model" in vars(trainer.cea.captioner))

    trainer.add_callback(Looks())
    trainer.train()
    assert held == [False] * 8


# --- Killed and resumed ---


@pytest.mark.parametrize(
    ("caption_when", "stop"), [("pool", 3), ("pool", 5), ("selected", 3), ("selected", 5), ("selected", 7)]
)
def test_a_resumed_run_is_the_uninterrupted_one(make_run, captioner, tmp_path, caption_when, stop):
    """Stopped in the first loop, at the boundary and in the second; what was cached is gone."""

    def run(name: str, seed: int = 0, *more: TrainerCallback) -> VeCAFTrainer:
        cea = {"caption_when": caption_when, "captioner": captioner(cache_dir=tmp_path / f"captions of {name}")}
        saving = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(tmp_path / name)}
        return make_run(seed, cea, more=[*more], **saving)

    whole = run("whole")
    whole.train()
    with pytest.raises(Stopped):
        run("stopped", 0, StopAfter(stop)).train()
    shutil.rmtree(tmp_path / "captions of stopped")
    resumed = run("stopped", 7)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(whole, resumed)
    # A checkpoint has the captions of its loop: only a later one's are made.
    first, second = ({*selection.indices.tolist()} for selection in whole.selection_history)
    made_since = 0 if caption_when == "pool" or stop == 7 else len(second - first)
    assert resumed.cea.captioner.forwards == made_since
    counted = [trainer.meter.work["caption"].samples for trainer in (whole, resumed)]
    assert counted == [POOL if caption_when == "pool" else len(first | second)] * 2


def test_a_run_with_another_captioner_is_not_resumed(make_run, captioner, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2}
    make_run(**saving).train()
    other = make_run(cea={"captioner": captioner(max_new_tokens=3)}, **saving)
    with pytest.raises(ValueError, match=r"cannot resume .* cea\.captioner was \w+ and is \w+ now"):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


def test_a_killed_captioning_goes_on_with_the_next_run(make_run, monkeypatch):
    monkeypatch.setattr("vecaf_hf.text.captioner.IMAGES_AT_ONCE", 14)
    killed = make_run()
    batches: Iterator[int] = iter(range(100))
    caption = killed.cea.captioner._captions

    def dies(images: list[Image.Image]) -> list[str]:
        if next(batches) == 5:
            raise KeyboardInterrupt
        return caption(images)

    monkeypatch.setattr(killed.cea.captioner, "_captions", dies)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    again = make_run()
    again.train()
    # Five batches of seven: two shards of fourteen.
    assert again.meter.work["caption"].samples == POOL - 28


# --- Samples without a caption ---


def spoilt(pool: Dataset, positions: list[int]) -> Dataset:
    """The pool with images that training can load and a captioner cannot read."""
    transform = pool.format["format_kwargs"]["transform"]
    raw = pool.with_format(None)
    pixels = transform({"image": raw["image"], "label": raw["label"]})["pixel_values"]
    plain = [image if index not in positions else None for index, image in enumerate(raw["image"])]
    features = datasets.Features({"image": datasets.Image(), "label": raw.features["label"]})
    table = Dataset.from_dict({"image": plain, "label": raw["label"]}, features=features)
    numbered = table.add_column("position", list(range(len(table))))

    def load(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"pixel_values": [pixels[index] for index in batch["position"]], "labels": batch["label"]}

    return numbered.with_transform(load)


@pytest.mark.parametrize("caption_when", ["pool", "selected"])
def test_images_that_cannot_be_read_train_as_they_are(make_run, pool, caplog, caption_when):
    bad = [4, 17, 30]
    with caplog.at_level(logging.WARNING, logger="vecaf_hf.text"):
        trainer = make_run(cea={"caption_when": caption_when}, pool=spoilt(pool, bad), strategy="full")
        trainer.train()
    assert captioned(trainer) == [index for index in range(POOL) if index not in bad]
    assert [record.info["cea_missing_captions"] for record in trainer.loop_records] == [3, 3]
    (record,) = [record for record in caplog.records if "cannot be read" in record.getMessage()]
    assert "3 images cannot be read and have no caption: samples 4, 17, 30" in record.getMessage()


@pytest.mark.parametrize("caption_when", ["pool", "selected"])
def test_a_pool_that_gets_no_caption_at_all(make_run, pool, caption_when):
    trainer = make_run(cea={"caption_when": caption_when}, pool=spoilt(pool, [*range(POOL)]))
    asked = POOL if caption_when == "pool" else BUDGET
    with pytest.raises(ValueError, match=rf"has no caption for any of {asked} images"):
        trainer.train()
    assert trainer.state.global_step == 0


# --- Without a captioner, and what does not go together ---


def test_auto_without_a_captioner_is_the_template(make_run, text_encoder, make_trainer, make_vit, pool):
    auto = make_trainer(make_vit(), [CEACallback(text_encoder, "auto")], pool=pool, selection_budget=BUDGET)
    auto.train()
    template = make_run(captions="a photo of a {label}")
    template.train()
    assert_same_run(auto, template)


@pytest.mark.parametrize(
    ("labels", "names"), [(None, ["cat"]), (torch.tensor([0, 1]), ["LABEL_0", "LABEL_1"]), (torch.tensor([0]), [])]
)
def test_auto_with_neither_captioner_nor_class_names(text_encoder, labels, names):
    callback = CEACallback(text_encoder, "auto")
    with pytest.raises(ValueError, match=r"captions='auto' goes by the names of classes.*captioner=.*or a column"):
        callback.read_captions(range(2), labels, names)


@pytest.mark.parametrize(
    ("captions", "options", "message"),
    [
        ("caption", {"captioner": "x"}, "captioner is given beside captions='caption': set captions='auto'"),
        (["a"], {"captioner": "x"}, r"captioner is given beside captions=\['a'\]"),
        ("auto", {"caption_when": "selected"}, "caption_when='selected' is for a captioner, and none is given"),
        ("auto", {"caption_when": "select"}, "caption_when is 'select' .did you mean 'selected'"),
        (
            "auto",
            {"caption_when": "selected", "domain_affinity": 0.1, "domain_prompt": "It snows."},
            'domain_affinity .* set caption_when="pool"',
        ),
        ("auto", {"captioner": "/no/such/folder"}, "cannot load the configuration of captioner '/no/such/folder'"),
    ],
)
def test_what_does_not_go_together(text_encoder, captions, options, message):
    with pytest.raises(ValueError, match=message):
        CEACallback(text_encoder, captions, **options)


@pytest.mark.parametrize("dataset", [[1, 2], Dataset.from_dict({"picture": [1, 2]})])
def test_a_captioner_without_raw_images(text_encoder, captioner, dataset):
    callback = CEACallback(text_encoder, "auto", captioner())
    with pytest.raises(ValueError, match=r"a captioner reads raw images from the column 'image' .* set image_column"):
        callback.read_captions(dataset, None, [])


# --- Progress ---


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_the_progress_bar_is_trainers(make_run, disable_tqdm, capfd):
    make_run(disable_tqdm=disable_tqdm).train()
    assert ("Captioning" in capfd.readouterr().err) is not disable_tqdm


# --- A process's share ---


class Ranks(Accelerator):
    """One of several processes, as far as shares go."""

    rank, world = 0, 1

    @property
    def num_processes(self) -> int:
        return self.world

    @property
    def process_index(self) -> int:
        return self.rank


def test_each_process_captions_its_share_and_has_all(captioner, monkeypatch):
    images, world = tiny.pictures(7), 3
    whole = captioner().caption(images)
    outcomes: dict[int, list[Any]] = {}
    meters = [CostMeter() for _ in range(world)]

    def run(rank: int, gather: Callable[[list[Any]], list[Any]]) -> PoolCaptions:
        monkeypatch.setattr(captioning, "gather_object", gather)
        accelerator = Ranks(cpu=True)
        accelerator.rank, accelerator.world = rank, world
        made = PoolCaptions(captioner(cache_dir=captioner().cache_dir / f"rank{rank}"), images.__getitem__)
        made.add(torch.arange(7), accelerator, meters[rank], hidden=True)
        return made

    class Alone(Exception):
        pass

    def remembered(outcome: list[Any]) -> list[Any]:
        outcomes[len(outcomes)] = outcome[0]
        raise Alone

    for rank in range(world):
        with pytest.raises(Alone):
            run(rank, remembered)
    assert [sorted(outcome[0]) for outcome in outcomes.values()] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [outcome[2] for outcome in outcomes.values()] == [3, 2, 2]
    total = sum(outcome[3] for outcome in outcomes.values())

    meters = [CostMeter() for _ in range(world)]
    shutil.rmtree(captioner().cache_dir)
    for rank in range(world):
        made = run(rank, lambda outcome: [outcomes[0], outcomes[1], outcomes[2]])
        ((indices, captions),) = made.rounds
        assert indices.tolist() == [*range(7)] and captions == whole
        assert meters[rank].work["caption"].samples == 7
        assert meters[rank].work["caption"].flops == pytest.approx(total)
    with pytest.raises(RuntimeError, match="captioning failed in process 1"):
        run(0, lambda outcome: [outcomes[0], None, outcomes[2]])


def test_captions_are_encoded_round_by_round(text_encoder, captioner):
    images = tiny.pictures(6)
    texts = PoolTexts(text_encoder, PoolCaptions(captioner(), images.__getitem__), 6, None)
    accelerator = Accelerator(cpu=True)
    domains = Domains.deal(["It snows."], 6, loops=1, seed=0)
    texts.begin(accelerator, CostMeter(), domains)
    assert texts.table.missing == 6
    texts.caption(torch.tensor([4, 1]), hidden=True)
    table = texts.caption(torch.tensor([1, 5, 0]), hidden=True)
    assert [positions.tolist() for positions, _ in texts.made.rounds] == [[1, 4], [0, 5]]
    captions = captioner().caption(images)
    for index in (0, 1, 4, 5):
        plain = torch.nn.functional.normalize(text_encoder.encode([captions[index]]), dim=1)
        torch.testing.assert_close(table.of(torch.tensor([index]), prompted=False), plain)
        assert not torch.allclose(table.of(torch.tensor([index]), prompted=True), plain, atol=1e-3)
    assert table.captioned(torch.arange(6)).tolist() == [True, True, False, False, True, True]
    resumed = PoolTexts(text_encoder, PoolCaptions(captioner(), images.__getitem__), 6, None)
    meter = CostMeter()
    resumed.begin(accelerator, meter, domains)
    again = resumed.load_state_dict(texts.state_dict())
    assert torch.equal(again.plain, table.plain) and torch.equal(again.rows, table.rows)
    assert meter.work["encode_text"].samples == 0 and resumed.state_dict().keys() == texts.state_dict().keys()


# --- In a recipe ---


def test_a_recipe_takes_a_captioner_from_the_command_line(blip, train):
    words = ["--use_cpu", "true", "--captions", "auto", "--captioner", blip, "--caption_when", "selected"]
    recipe, cea, _ = parse({}, words)
    assert (recipe.captions, recipe.captioner, cea.caption_when) == ("auto", blip, "selected")
    assert captions_of(recipe, train, "label") == "auto"
    assert parse({}, ["--use_cpu", "true", "--captioner", "none"])[0].captioner is None
    shuffled, _, _ = parse({}, [*words, "--shuffle_captions", "true"])
    with pytest.raises(ValueError, match=r"write them with .*caption_dataset, and set captions"):
        captions_of(shuffled, train, "label")


# --- Looked at before it is started ---


@pytest.mark.parametrize("caption_when", ["pool", "selected"])
def test_a_look_captions_nothing_and_says_so(make_run, caption_when):
    trainer = make_run(cea={"caption_when": caption_when})
    found = trainer.inspect()
    assert trainer.cea.captioner.forwards == 0
    assert any("captioner" in note for note in found.cost.notes)
    assert {sample.caption for sample in found.samples.values()} == {None}
    # And the run that follows is whole.
    trainer.train()
    assert trainer.cea.captioner.forwards > 0
