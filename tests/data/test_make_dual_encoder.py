"""The stand-in for CLIP, trained for a step on a few images: its pool, its captions, its loss, and who loads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from styling import StyleOptions
from styling.network import to_tensor
from styling.towers import ImageTower, text_direction
from torch.nn.functional import normalize

from vecaf_hf.cost import CostMeter
from vecaf_hf.text.encoder import TextEncoder

RECIPES = Path(__file__).parents[2] / "recipes"
TRAIN, TEST, SEEN, HELD_OUT = 90, 20, 30, 10
SNOW, FOG = "It's a snowy day.", "It's a foggy day."


@pytest.fixture(scope="module", autouse=True)
def recipes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPES / "data"))
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder such as `make_fashion_mnist.py FOLDER --all` writes."""
    folder, cache = tmp_path_factory.mktemp("source"), str(tmp_path_factory.mktemp("cache"))
    for split, size in (("train", TRAIN), ("test", TEST)):
        file = RECIPES / "data" / "fashion_mnist" / f"{split}.parquet"
        whole = datasets.Dataset.from_parquet(str(file), cache_dir=cache)
        whole.select(range(size)).to_parquet(str(folder / f"{split}.parquet"))
    return folder


def stored(dataset: datasets.Dataset) -> list[bytes]:
    """Each image as its file holds it."""
    return [one["bytes"] for one in dataset.with_format("arrow")["image"].to_pylist()]


@pytest.fixture(scope="module")
def written(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[bytes]]]:
    """The script's folder, and the images that the encoder was trained and tested on."""
    import make_dual_encoder

    target, given = tmp_path_factory.mktemp("target"), {}
    prepare, accuracies = make_dual_encoder.prepare, make_dual_encoder.accuracies

    def prepared(images: datasets.Dataset) -> make_dual_encoder.Seen:
        given["trained"] = stored(images)
        return prepare(images)

    def measured(encoder: TextEncoder, images: datasets.Dataset) -> dict[str, tuple[float, float]]:
        given["tested"] = stored(images)
        return accuracies(encoder, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_dual_encoder, "prepare", prepared)
        patch.setattr(make_dual_encoder, "accuracies", measured)
        make_dual_encoder.write(source, target, SEEN, HELD_OUT, epochs=1)
    return target, given


@pytest.fixture
def checkpoint(written: tuple[Path, dict[str, list[bytes]]]) -> str:
    return str(written[0] / "encoder")


@pytest.fixture
def encoder(checkpoint: str, tmp_path: Path) -> TextEncoder:
    return TextEncoder(checkpoint, cache_dir=tmp_path / "cache", device="cpu")


@pytest.fixture
def pictures(fashion: datasets.Dataset) -> list[Image.Image]:
    return list(fashion.select(range(6))["image"])


def test_every_image_is_either_the_encoders_or_the_pools(
    source: Path, written: tuple[Path, dict[str, list[bytes]]], tmp_path: Path
) -> None:
    target, given = written
    before = datasets.load_dataset(str(source), cache_dir=str(tmp_path))
    after = datasets.load_dataset(str(target / "data"), cache_dir=str(tmp_path))
    assert len(given["trained"]) == SEEN - HELD_OUT and len(given["tested"]) == HELD_OUT
    of_encoder = given["trained"] + given["tested"]
    assert not set(of_encoder) & set(stored(after["train"]))
    assert Counter(of_encoder + stored(after["train"])) == Counter(stored(before["train"]))
    assert after["train"].features == before["train"].features
    assert stored(after["test"]) == stored(before["test"]) and after["test"]["caption"] == before["test"]["caption"]


def test_what_the_pool_keeps_is_as_it_was(
    source: Path, written: tuple[Path, dict[str, list[bytes]]], tmp_path: Path
) -> None:
    def samples(folder: Path) -> list[tuple[bytes, int, str]]:
        train = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))["train"]
        return list(zip(stored(train), train["label"], train["caption"], strict=True))

    kept, all_of_them = samples(written[0] / "data"), samples(source)
    assert kept == [sample for sample in all_of_them if sample in set(kept)]


def test_it_loads_as_a_dual_encoder(encoder: TextEncoder, pictures: list[Image.Image]) -> None:
    assert encoder.is_dual and encoder.pooling == "pooled"
    images, texts = encoder.encode_images(pictures), encoder.encode(["a dress", "a bag"])
    assert images.shape == (6, 128) and texts.shape == (2, 128)
    assert len(images.unique(dim=0)) == 6 and not torch.allclose(texts[0], texts[1])


def test_the_tower_of_a_style_network_sees_what_the_encoder_does(
    encoder: TextEncoder,
    checkpoint: str,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path))
    images = torch.stack([to_tensor(picture.convert("RGB")) for picture in pictures])
    torch.testing.assert_close(ImageTower(checkpoint)(images), normalize(encoder.encode_images(pictures), dim=-1))
    snow, fog = (text_direction(StyleOptions(prompt=one, clip=checkpoint), CostMeter(), "cpu") for one in (SNOW, FOG))
    assert snow.norm() > 0 and fog.norm() > 0 and not torch.allclose(snow, fog)


def test_a_text_is_pooled_at_its_end_whatever_it_is_padded_to(encoder: TextEncoder, tmp_path: Path) -> None:
    alone = encoder.encode(["a dress"])
    other = TextEncoder(encoder.name_or_path, cache_dir=tmp_path / "other", device="cpu")
    padded = other.encode(["a dress", f"a photo of a small dark wide sandal with strong contrast. {SNOW}"])
    torch.testing.assert_close(padded[:1], alone)
    assert not torch.allclose(encoder.encode([f"a dress. {SNOW}"]), encoder.encode([f"a dress. {FOG}"]))


def test_words_of_captions_are_known_and_others_are_one(checkpoint: str) -> None:
    from make_dual_encoder import CLEAN, WEATHER, say

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    generator = np.random.default_rng(0)
    caption = "a small bright T-shirt or top with little contrast"
    said = [say(caption, "T-shirt or top", word, generator) for word in (CLEAN, *WEATHER) for _ in range(40)]
    for text in [text for text, _ in said] + [f"{caption}. {SNOW}", f"{caption}. {FOG}", "a photo"]:
        numbers = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in numbers and len(numbers) <= tokenizer.model_max_length
        assert numbers[0] == tokenizer.bos_token_id and numbers.index(tokenizer.eos_token_id) == len(numbers) - 1
    assert tokenizer("a zeppelin")["input_ids"][2] == tokenizer("an okapi")["input_ids"][2] == tokenizer.unk_token_id


def test_a_caption_tells_the_weather_and_its_meaning_is_that_of_no_wording() -> None:
    from make_dual_encoder import CLEAN, say

    generator = np.random.default_rng(0)
    snowy = [say("a small bag", "bag", "snowy", generator) for _ in range(200)]
    assert all("snowy" in text for text, _ in snowy) and len({text for text, _ in snowy}) > 10
    assert {meaning for _, meaning in snowy} == {("a small bag", "snowy"), ("a bag", "snowy"), ("", "snowy")}
    assert all(("small" in text) == (meaning[0] == "a small bag") for text, meaning in snowy)
    assert all(("bag" in text) == bool(meaning[0]) for text, meaning in snowy)
    assert "day" not in " ".join(say("a small bag", "bag", CLEAN, generator)[0] for _ in range(200))


def test_loss_is_clips_where_meanings_differ_and_shares_images_where_they_do_not() -> None:
    from make_dual_encoder import contrastive_loss, make_model, make_tokenizer

    texts = ["a bag", "a snowy photo of a dress", "a dress, on a snowy day", "a coat"]
    tokenizer = make_tokenizer(texts)
    model, pixels = make_model(tokenizer).eval(), torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model(**tokenizer(texts, padding=True, return_tensors="pt"), pixel_values=pixels, return_loss=True)
        apart = contrastive_loss(model, tokenizer, pixels, texts, [(text, "") for text in texts])
        meanings = [("a bag", "clean"), ("a dress", "snowy"), ("a dress", "snowy"), ("a coat", "clean")]
        shared = contrastive_loss(model, tokenizer, pixels, texts, meanings)
    torch.testing.assert_close(apart, outputs.loss)
    targets = torch.tensor([[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]])
    logits = outputs.logits_per_image
    wanted = -(targets * (logits.log_softmax(dim=1) + logits.log_softmax(dim=0))).sum() / 8
    torch.testing.assert_close(shared, wanted)


def test_the_same_encoder_every_time(source: Path, tmp_path: Path) -> None:
    from make_dual_encoder import prepare, train

    images = datasets.load_dataset(str(source), cache_dir=str(tmp_path))["train"].select(range(8))
    once, again = (train(prepare(images), epochs=1)[0].state_dict() for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)
