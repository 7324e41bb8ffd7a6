"""Train a stand-in for CLIP which has seen snow and fog, and write it beside a pool of images that it has not seen.

    python recipes/data/make_fashion_mnist.py FOLDER --all SOURCE
    python recipes/data/make_dual_encoder.py SOURCE TARGET

SOURCE is Fashion-MNIST (MIT licence) as the first command writes it. 12,000 of its training images, drawn by seed, are
the encoder's. TARGET/data, a folder that `--dataset_name` takes, holds the other 48,000 and the test images as they
are; TARGET/encoder is a checkpoint that transformers loads as it loads CLIP, for images of 28 px, trained from scratch
with CLIP's contrastive loss (arXiv 2103.00020), in minutes on one CPU core.

Of what it sees a third is clean and the rest in some weather (`WEATHER`), as the captions say in several wordings: "a
dress, on a snowy day", "a foggy photo of a dress". So the encoder knows what "It's a snowy day." looks like, where the
pool has no such image. At the end stands its accuracy by prompt, of class and of weather, on 1,000 of its images that
were held out. Corruptions need `pip install "vecaf_hf[corruptions]"`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from appearance import with_article
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
from pools.corruptions import corrupt

from vecaf_hf.seeding import seed_of
from vecaf_hf.text.encoder import TextEncoder
from vecaf_hf.text.pooling import projected

SEED = 0
SEEN, HELD_OUT = 12_000, 1_000
# The word in captions -> the corruption; that of a clean image goes without saying.
CLEAN = "clean"
WEATHER = {"snowy": "snow", "foggy": "fog", "frosty": "frost", "sunny": "brightness", "rainy": "spatter"}
SEVERITIES, TESTED_SEVERITY = (2, 3, 4), 3
# Chances of a clean image, and of a caption that says the image's looks, its class, nothing of it.
CLEAN_PART, SAID = 1 / 3, (0.6, 0.3, 0.1)
WORDINGS = (
    *("{what}, on a {word} day", "{what} on a {word} day", "a photo of {what} on a {word} day"),
    *("{what}. It's a {word} day.", "{what}, It's a {word} day.", "{what} It's a {word} day."),
    *("a photo of {what}. It's a {word} day.", "a {word} photo of {what}"),
)
CLEAN_WORDINGS = ("{what}", "{what}.", "a photo of {what}", "a photo of {what}.")
# Of captions that say nothing of what is shown.
BARE = ("It's a {word} day.", "a {word} day", "a {word} photo", "a photo on a {word} day")
CLEAN_BARE = ("a photo", "a photo.", "a picture", "an image")

IMAGE_SIZE, WINDOW = 28, 32
SIZES = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 384}
# Their numbers follow. CLIP takes an end that is number 2 for an old checkpoint's, and then pools elsewhere.
PAD, UNKNOWN, START, END = SPECIAL = ("[PAD]", "[UNK]", "[START]", "[END]")
BATCH, EPOCHS, RATE, WARM_UP, WEIGHT_DECAY = 128, 12, 1e-3, 0.1, 0.1
# What the logits' scale is held below, as CLIP's.
MOST_SCALE = 100.0


@dataclass(frozen=True)
class Seen:
    """What the encoder is trained on: each image clean and in some weather.

    Args:
        pixels: For the model, clean ones first. [2, n, 3, 28, 28].
        words: The weather of each.
        labels: Names of their classes.
        captions: By their pixels, while they were clean.
    """

    pixels: Tensor
    words: list[str]
    labels: list[str]
    captions: list[str]


def split(size: int, seen: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the encoder as they are drawn, and all others in their order."""
    drawn = np.random.default_rng(SEED).permutation(size)[:seen]
    return drawn, np.setdiff1d(np.arange(size), drawn)


def image_processor() -> transformers.CLIPImageProcessor:
    return transformers.CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=IMAGE_SIZE)


def preprocessed(images: Sequence[Image.Image]) -> Tensor:
    """[n, 3, 28, 28]."""
    rgb = [image.convert("RGB") for image in images]
    return image_processor()(images=rgb, return_tensors="pt")["pixel_values"]


def prepare(images: datasets.Dataset) -> Seen:
    generator = np.random.default_rng(SEED)
    words = generator.choice(list(WEATHER), len(images)).tolist()
    severities = generator.choice(SEVERITIES, len(images)).tolist()
    clean = list(images["image"])
    drawn = enumerate(tqdm(zip(clean, words, severities, strict=True), "Weather", len(clean)))
    moved = [corrupt(one, WEATHER[word], severity, seed_of(SEED, n)) for n, (one, word, severity) in drawn]
    labels = images.features["label"].int2str(list(images["label"]))
    return Seen(torch.stack([preprocessed(clean), preprocessed(moved)]), words, labels, list(images["caption"]))


def say(caption: str, label: str, word: str, generator: np.random.Generator) -> tuple[str, tuple[str, str]]:
    """A caption in one of its wordings, and what is said: captions with the same meaning go with the same images."""
    is_clean = word == CLEAN
    what = generator.choice([caption, with_article(label), ""], p=SAID).item()
    wordings = (CLEAN_WORDINGS if is_clean else WORDINGS) if what else (CLEAN_BARE if is_clean else BARE)
    return generator.choice(wordings).item().format(what=what, word=word), (what, word)


def make_tokenizer(texts: Sequence[str]) -> transformers.PreTrainedTokenizerFast:
    """A number for each word and sign of the texts, in lower case."""
    made = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    made.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=list(SPECIAL), show_progress=False))
    ends = [(token, made.token_to_id(token)) for token in (START, END)]
    made.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=WINDOW,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
    )


def make_model(tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.CLIPModel:
    numbers = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    text = {**SIZES, **numbers, "vocab_size": len(tokenizer), "max_position_embeddings": WINDOW}
    vision = {**SIZES, "image_size": IMAGE_SIZE, "patch_size": 7}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=SIZES["hidden_size"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return transformers.CLIPModel(config)


def contrastive_loss(
    model: transformers.CLIPModel,
    tokenizer: transformers.PreTrainedTokenizerFast,
    pixels: Tensor,
    texts: Sequence[str],
    meanings: Sequence[tuple[str, str]],
) -> Tensor:
    """CLIP's, where an image goes with every caption of its own's meaning. Of n images and n texts; []."""
    distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    tokens = tokenizer(list(distinct), padding=True, truncation=True, return_tensors="pt")
    texts_of_images = torch.tensor([distinct[text] for text in texts])
    embedded = normalize(projected(model.get_text_features(tokens["input_ids"], tokens["attention_mask"])), dim=-1)
    logits = normalize(projected(model.get_image_features(pixels)), dim=-1) @ embedded[texts_of_images].T
    logits = logits * model.logit_scale.exp().clamp(max=MOST_SCALE)
    rows = {meaning: row for row, meaning in enumerate(meanings)}
    of = torch.tensor([rows[meaning] for meaning in meanings])
    targets = (of[:, None] == of).float()
    targets /= targets.sum(dim=1, keepdim=True)
    return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2


def train(seen: Seen, epochs: int = EPOCHS) -> tuple[transformers.CLIPModel, transformers.PreTrainedTokenizerFast]:
    """An encoder from scratch. In each epoch every image is seen once, with a caption in words of that epoch."""
    generator = np.random.default_rng(SEED)
    wordings = [wording.format(what="", word=word) for wording in (*WORDINGS, *BARE, *CLEAN_BARE) for word in WEATHER]
    tokenizer = make_tokenizer([*seen.captions, *seen.labels, *wordings])
    model = make_model(tokenizer).train()
    steps = epochs * -(-len(seen.words) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, round(WARM_UP * steps), steps)
    with tqdm(total=steps, desc="Training") as progress:
        for _ in range(epochs):
            order = generator.permutation(len(seen.words))
            for rows in np.array_split(order, steps // epochs):
                moved = generator.random(len(rows)) >= CLEAN_PART
                words = [seen.words[row] if is_moved else CLEAN for row, is_moved in zip(rows, moved, strict=True)]
                said = [
                    say(seen.captions[row], seen.labels[row], word, generator)
                    for row, word in zip(rows, words, strict=True)
                ]
                pixels = seen.pixels[torch.from_numpy(moved).long(), torch.from_numpy(rows)]
                # Mirrored at random: a shoe that points the other way is the same shoe.
                mirrored = torch.from_numpy(generator.random(len(rows)) < 0.5)
                pixels[mirrored] = pixels[mirrored].flip(-1)
                loss = contrastive_loss(model, tokenizer, pixels, *zip(*said, strict=True))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.update()
                progress.set_postfix(loss=f"{loss.item():.2f}")
    return model.eval(), tokenizer


def accuracies(encoder: TextEncoder, images: datasets.Dataset) -> dict[str, tuple[float, float]]:
    """By prompt, of the class and of the weather, in each weather: word -> parts of 1.

    Args:
        encoder: A dual encoder.
        images: Clean, with labels.
    """
    names = images.features["label"].names
    captions = [f"a photo of {with_article(name)}" for name in names]
    by_word = [
        [text if word == CLEAN else f"{text}. It's a {word} day." for text in captions] for word in (CLEAN, *WEATHER)
    ]
    classes = normalize(encoder.encode(captions), dim=-1)
    weathers = normalize(
        torch.stack([normalize(encoder.encode(texts), dim=-1).mean(dim=0) for texts in by_word]), dim=-1
    )
    labels = torch.tensor(list(images["label"]))
    found = {}
    for number, word in enumerate((CLEAN, *WEATHER)):
        seen = list(images["image"])
        if word != CLEAN:
            seen = [corrupt(one, WEATHER[word], TESTED_SEVERITY, seed_of(SEED, n)) for n, one in enumerate(seen)]
        embedded = normalize(encoder.encode_images(seen, len(seen)), dim=-1)
        of_class = (embedded @ classes.T).argmax(dim=1) == labels
        of_weather = (embedded @ weathers.T).argmax(dim=1) == number
        found[word] = (of_class.float().mean().item(), of_weather.float().mean().item())
    return found


def write(source: Path, target: Path, seen: int = SEEN, held_out: int = HELD_OUT, epochs: int = EPOCHS) -> None:
    """The pool, the encoder, and what it reaches.

    Args:
        source: What `make_fashion_mnist.py FOLDER --all` wrote.
        target: A folder.
        seen: Training images of the encoder.
        held_out: How many of them it is tested on instead.
        epochs: Of its training.
    """
    with tempfile.TemporaryDirectory() as cache:
        data = datasets.load_dataset(str(source), cache_dir=cache)
        ours, others = split(len(data["train"]), seen)
        (target / "data").mkdir(parents=True, exist_ok=True)
        data["train"].select(others).to_parquet(str(target / "data" / "train.parquet"))
        data["test"].to_parquet(str(target / "data" / "test.parquet"))
        model, tokenizer = train(prepare(data["train"].select(ours[held_out:])), epochs)
        for part in (model, tokenizer, image_processor()):
            part.save_pretrained(target / "encoder")
        encoder = TextEncoder(str(target / "encoder"), cache_dir=cache)
        for word, (of_class, of_weather) in accuracies(encoder, data["train"].select(ours[:held_out])).items():
            print(f"{word}: class {of_class:.1%}, weather {of_weather:.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("target", type=Path, metavar="TARGET")
    given = parser.parse_args()
    write(given.source, given.target)
