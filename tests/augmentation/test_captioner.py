"""Every kind of captioner against the model on one image at a time; the cache; captions in a dataset; errors."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pytest
import tiny_captioners as tiny
import torch
import transformers as tf
from PIL import Image
from safetensors.torch import load_file, save_file

from vecaf_hf import Captioner, caption_dataset
from vecaf_hf.text import captioner as module
from vecaf_hf.text.caption_checkpoint import INSTRUCTION, CaptionCheckpoint

TOKENS = 10
PICTURES = tiny.pictures(8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], str]:
    """Save a kind of captioner once; `folder(kind)` is its path."""
    made: dict[Any, str] = {}

    def make(kind: Any) -> str:
        if kind not in made:
            made[kind] = tiny.write(kind, tmp_path_factory.mktemp(kind.__name__))
        return made[kind]

    return make


@pytest.fixture
def copied(folder: Callable[[Any], str], tmp_path: Path) -> Callable[[Any], Path]:
    """A copy of a captioner's folder that a test may change."""

    def copy(kind: Any) -> Path:
        return Path(shutil.copytree(folder(kind), tmp_path / kind.__name__))

    return copy


@pytest.fixture
def captioner(tmp_path: Path) -> Callable[..., Captioner]:
    def make(path: str | Path, **options: Any) -> Captioner:
        defaults = {"cache_dir": tmp_path / "cache", "device": "cpu", "max_new_tokens": TOKENS}
        return Captioner(path, **{**defaults, **options})

    return make


# --- One image at a time ---


def by_hand(path: str, image: Image.Image) -> str:
    """As each model's documentation has it."""
    model = tf.AutoModelForImageTextToText.from_pretrained(path)
    tokenizer = tf.AutoTokenizer.from_pretrained(path)
    if isinstance(model, tf.LlavaForConditionalGeneration):
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": INSTRUCTION}]}]
        processor = tf.AutoProcessor.from_pretrained(path)
        text = processor.apply_chat_template(chat, add_generation_prompt=True)
        inputs = processor(images=image, text=text, return_tensors="pt")
        begin = inputs["input_ids"].shape[1]
    else:
        inputs, begin = tf.AutoImageProcessor.from_pretrained(path)(image, return_tensors="pt"), 0
    tokens = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    return tokenizer.decode(tokens[0, begin:], skip_special_tokens=True)


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_captioner_is_the_model_on_one_image_at_a_time(kind, batch_size, folder, captioner):
    path = folder(kind)
    made = captioner(path, batch_size=batch_size)
    captions = made.caption(iter(PICTURES))
    assert captions == [by_hand(path, picture) or None for picture in PICTURES]
    assert len(set(captions)) > 4
    assert made.forwards == len(PICTURES)


def test_captions_are_of_images_in_colour_whatever_their_mode(folder, captioner):
    grey = [picture.convert("L") for picture in PICTURES]
    made = captioner(folder(tiny.blip))
    assert made.caption(grey) == made.caption(picture.convert("RGB") for picture in grey)
    assert made.forwards == len(PICTURES)


def test_what_the_checkpoint_says_of_sampling_does_not_count(copied, captioner, tmp_path):
    path = copied(tiny.blip)
    greedy = captioner(path).caption(PICTURES)
    settings = json.loads((path / "generation_config.json").read_text())
    settings |= {"do_sample": True, "num_beams": 3, "temperature": 5.0, "max_length": 4}
    (path / "generation_config.json").write_text(json.dumps(settings))
    assert captioner(path, cache_dir=tmp_path / "other").caption(PICTURES) == greedy


def test_a_prompt_begins_the_caption_of_a_blip(folder, captioner):
    prompted = captioner(folder(tiny.blip), prompt="a b").caption(PICTURES)
    assert all(caption.startswith("a b") for caption in prompted)
    assert len(set(prompted)) > 1


def test_an_instruction_is_not_part_of_the_caption(folder, captioner):
    plain, told = (captioner(folder(tiny.llava), prompt=prompt).caption(PICTURES) for prompt in (None, "x y"))
    assert plain != told
    assert not any(caption.startswith("x y") for caption in told)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", [tiny.blip, tiny.llava])
def test_half_precision(kind, dtype, folder, captioner):
    assert all(captioner(folder(kind), dtype=dtype).caption(PICTURES))


def says_nothing(path: Path) -> Path:
    """The captioner, which now ends before the first word."""
    weights = load_file(path / "model.safetensors")
    name = "text_decoder.cls.predictions.bias"
    weights[name if name in weights else name.replace("bias", "decoder.bias")][tiny.END] = 1e6
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def test_an_empty_caption_is_none_and_is_kept(copied, captioner):
    path = says_nothing(copied(tiny.blip))
    assert captioner(path).caption(PICTURES) == [None] * len(PICTURES)
    again = captioner(path)
    assert again.caption(PICTURES) == [None] * len(PICTURES)
    assert again.forwards == 0


# --- The cache ---


def test_a_known_image_needs_no_model(folder, captioner, monkeypatch):
    first = captioner(folder(tiny.blip)).caption(PICTURES)

    def fail(*args: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(CaptionCheckpoint, "model", fail)
    again = captioner(folder(tiny.blip))
    assert again.caption(PICTURES[::-1]) == first[::-1]
    assert again.forwards == 0
    with pytest.raises(AssertionError, match="the model was loaded"):
        again.caption(tiny.pictures(1, seed=1))


def test_each_image_is_captioned_once(folder, captioner):
    made = captioner(folder(tiny.blip))
    captions = made.caption([*PICTURES, *PICTURES])
    assert captions[:8] == captions[8:]
    assert made.forwards == 8


@pytest.mark.parametrize("killed_at", [0, 1, 3])
def test_a_killed_captioning_resumes_where_it_stopped(killed_at, folder, captioner, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "IMAGES_AT_ONCE", 3)
    whole = captioner(folder(tiny.blip), cache_dir=tmp_path / "whole", batch_size=2)
    expected = whole.caption(PICTURES)

    killed = captioner(folder(tiny.blip), batch_size=2)
    caption, batches = killed._captions, []

    def dies(images: list[Image.Image]) -> list[str]:
        if len(batches) == killed_at:
            raise KeyboardInterrupt
        batches.append(len(images))
        return caption(images)

    monkeypatch.setattr(killed, "_captions", dies)
    with pytest.raises(KeyboardInterrupt):
        killed.caption(PICTURES)
    resumed = captioner(folder(tiny.blip), batch_size=2)
    told: list[int] = []
    assert resumed.caption(PICTURES, told.append) == expected
    # Two batches make a shard of three.
    assert resumed.forwards == 8 - 3 * (killed_at // 2)
    assert sum(told) == 8


@pytest.mark.parametrize("damage", [b"", b"\xff\n", b"{}\n", b'["00", "a"]\n', b'["zz", 1]\n', b"[1]\n"])
def test_a_damaged_shard_is_made_anew(damage, folder, captioner, caplog):
    first = captioner(folder(tiny.blip))
    captions = first.caption(PICTURES)
    (shard,) = (first.cache_dir / first.fingerprint).iterdir()
    good = shard.read_bytes()
    shard.unlink()
    bad = module.CaptionCache(shard.parent)._path(damage)
    bad.write_bytes(damage)
    again = captioner(folder(tiny.blip))
    assert again.caption(PICTURES) == captions
    if damage:
        assert f"removing the damaged cached captions {str(bad)!r}" in caplog.text
        assert not bad.exists()
    assert shard.read_bytes() == good


def test_whatever_changes_a_caption_changes_the_cache(copied, captioner):
    path = copied(tiny.llava)
    found = {captioner(path, **options).fingerprint for options in ({}, {"prompt": "x"}, {"max_new_tokens": 3})}
    found |= {captioner(path, dtype="bfloat16").fingerprint, captioner(path, batch_size=3).fingerprint}
    assert len(found) == 4  # The size of a batch changes nothing.
    (path / "chat_template.jinja").write_text(tiny.CHAT + " ")
    found.add(captioner(path).fingerprint)
    weights = load_file(path / "model.safetensors")
    save_file({name: 2 * values for name, values in weights.items()}, path / "model.safetensors")
    found.add(captioner(path).fingerprint)
    assert len(found) == 6


def test_default_cache_is_in_the_hugging_face_home(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path))
    assert Captioner(folder(tiny.blip)).cache_dir == tmp_path / "vecaf_hf" / "captions"


# --- Errors ---


@pytest.mark.parametrize("name", ["nobody/nothing", "/no/such/folder"])
def test_a_missing_captioner_says_what_to_do(name, captioner, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=rf"configuration of captioner '{name}'.*hf auth login.*local folder"):
        captioner(name)


def test_a_folder_without_a_model(captioner, tmp_path):
    with pytest.raises(ValueError, match="cannot load the configuration of captioner"):
        captioner(tmp_path)


def test_a_text_model_is_no_captioner(captioner, tmp_path):
    tf.BertModel(tf.BertConfig(**tiny.SIZES, vocab_size=60)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is no captioner: a bert makes no text of images"):
        captioner(tmp_path)


def test_a_model_of_the_same_family_that_writes_nothing(captioner, tmp_path):
    model, *parts = tiny.blip()
    for part in (tf.BlipForImageTextRetrieval(model.config), *parts):
        part.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no weights to write captions with: text_decoder\..* is missing"):
        captioner(tmp_path).caption(PICTURES)


def test_weights_are_read_from_safetensors_alone(copied, captioner):
    path = copied(tiny.blip)
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"weights \(safetensors alone\) of captioner .*model\.safetensors"):
        captioner(path).caption(PICTURES)


def test_a_captioner_without_tokenizer_files(copied, captioner):
    path = copied(tiny.blip)
    (path / "tokenizer.json").unlink()
    (path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="has no tokenizer files: save its tokenizer beside the model"):
        captioner(path).caption(PICTURES)


def test_code_of_a_checkpoint_never_runs(captioner, tmp_path):
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ValueError, match="configuration of captioner"):
        captioner(tmp_path)


@pytest.mark.parametrize("kind", [tiny.git, tiny.vision_encoder_decoder])
def test_a_model_that_takes_no_prompt(kind, folder, captioner):
    with pytest.raises(ValueError, match="takes no prompt"):
        captioner(folder(kind), prompt="a photo of").caption(PICTURES)


def test_a_model_that_needs_a_prompt(copied, captioner):
    path = copied(tiny.llava)
    (path / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"fails on a batch of images: .* give it a prompt"):
        captioner(path).caption(PICTURES)
    assert all(captioner(path, prompt="<image> x").caption(PICTURES))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float31"}, "dtype is 'float31' .did you mean 'float32'"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5; it must be a whole number"),
        ({"prompt": " "}, "prompt is ' '; it must be a text"),
    ],
)
def test_options_are_checked(options, message, folder, captioner):
    with pytest.raises(ValueError, match=message):
        captioner(folder(tiny.blip), **options)


# --- In a dataset ---


def never(batch: Any) -> Any:
    raise AssertionError("the transform was called")


def dataset_of(images: list[Any], column: str = "image") -> datasets.Dataset:
    features = datasets.Features({column: datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({column: images, "label": [*range(len(images))]}, features=features)


def test_a_dataset_gets_a_column_of_captions(folder, captioner, tmp_path):
    made = captioner(folder(tiny.blip))
    captioned = caption_dataset(dataset_of(PICTURES), made, disable_tqdm=True)
    assert captioned["caption"] == made.caption(PICTURES)
    assert captioned.column_names == ["image", "label", "caption"]
    assert captioned["label"] == [*range(8)]
    captioned.save_to_disk(tmp_path / "saved")
    assert datasets.load_from_disk(tmp_path / "saved")["caption"] == captioned["caption"]


def test_a_selected_and_transformed_dataset_keeps_its_order_and_transform(folder, captioner):
    made = captioner(folder(tiny.blip))
    part = dataset_of(PICTURES, "picture").select([5, 2]).with_transform(never)
    captioned = caption_dataset(part, made, image_column="picture", column="text", disable_tqdm=True)
    with pytest.raises(AssertionError, match="the transform was called"):
        captioned[0]
    assert captioned.with_format(None)["text"] == made.caption([PICTURES[5], PICTURES[2]])


def test_what_a_format_shows_is_kept(folder, captioner):
    shown = dataset_of([*PICTURES, None]).select([8, 2]).with_format("numpy", columns=["label"])
    captioned = caption_dataset(shown, captioner(folder(tiny.blip)), disable_tqdm=True)
    assert captioned.format == {**shown.format, "columns": ["label"]}
    assert captioned[1] == {"label": 2}
    assert captioned.with_format(None)["caption"] == [None, captioner(folder(tiny.blip)).caption([PICTURES[2]])[0]]


def test_options_are_for_a_captioner_by_name(folder, tmp_path):
    options = {"cache_dir": tmp_path, "device": "cpu", "max_new_tokens": 2, "disable_tqdm": True}
    captioned = caption_dataset(dataset_of(PICTURES), folder(tiny.blip), **options)
    expected = Captioner(folder(tiny.blip), cache_dir=tmp_path / "other", device="cpu", max_new_tokens=2)
    assert captioned["caption"] == expected.caption(PICTURES)
    with pytest.raises(TypeError, match="batch_size: these are options of a captioner by name"):
        caption_dataset(dataset_of(PICTURES), Captioner(folder(tiny.blip)), batch_size=3)


def test_images_that_cannot_be_read_have_no_caption(folder, captioner, caplog):
    content: list[Any] = [*PICTURES[:3], {"bytes": b"no image", "path": None}, None, *PICTURES[3:]]
    content.append({"bytes": None, "path": "/no/such/file.png"})
    made = captioner(folder(tiny.blip))
    with caplog.at_level(logging.WARNING, logger="vecaf_hf"):
        captions = caption_dataset(dataset_of(content), made, disable_tqdm=True)["caption"]
    readable = [0, 1, 2, 5, 6, 7, 8, 9]
    assert [captions[index] for index in readable] == made.caption(PICTURES)
    assert [captions[index] for index in (3, 4, 10)] == [None] * 3
    (record,) = caplog.records
    assert (
        "3 images cannot be read and have no caption: samples 3, 4, 10 (sample 3: Unidentified" in record.getMessage()
    )


def test_a_dataset_in_which_nothing_has_a_caption(captioner, folder):
    captioned = caption_dataset(dataset_of([None, None]), captioner(folder(tiny.blip)), disable_tqdm=True)
    assert captioned["caption"] == [None, None]
    assert captioned.features["caption"] == datasets.Value("string")


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (dataset_of(PICTURES), {"column": "label"}, "has a column 'label' already"),
        (dataset_of(PICTURES), {"image_column": "img"}, r"'img' .* is not there \(columns: image, label\)"),
        (dataset_of(PICTURES), {"image_column": "label"}, r"'label' .* that holds Value\('int64'\)"),
        (datasets.DatasetDict({"train": dataset_of(PICTURES)}), {}, "the dataset is a DatasetDict"),
        (PICTURES, {}, "the dataset is a list"),
    ],
)
def test_what_cannot_be_captioned(dataset, options, message, folder):
    with pytest.raises(ValueError, match=message):
        caption_dataset(dataset, folder(tiny.blip), **options)


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_the_progress_bar_can_be_hidden(disable_tqdm, folder, captioner, capfd):
    captioner(folder(tiny.blip)).caption(PICTURES)
    capfd.readouterr()
    caption_dataset(dataset_of(PICTURES), captioner(folder(tiny.blip)), disable_tqdm=disable_tqdm)
    assert ("Captioning: 100%" in capfd.readouterr().err) is not disable_tqdm


def test_a_cache_that_cannot_be_written_costs_nothing_else(folder, captioner, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    made = captioner(folder(tiny.blip), cache_dir=tmp_path / "file" / "cache")
    assert made.caption(PICTURES) == captioner(folder(tiny.blip)).caption(PICTURES)
    assert "cannot write captions to" in caplog.text
    assert os.path.isfile(tmp_path / "file")
