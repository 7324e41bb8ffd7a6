"""What transformers' example scripts are given to train on: small images, sounds and texts, tiny models, two metrics.

The scripts ask the Hub for metrics and datasets; here a folder has the metric's name, and datasets are local folders.
"""

from __future__ import annotations

import csv
import wave
from pathlib import Path

import datasets
import numpy as np
import transformers as tf

SHIPPED = Path(__file__).parents[2] / "recipes" / "data" / "fashion_mnist" / "train.parquet"
CLASSES = ("bag", "boot", "coat", "dress")
COUNT = {"train": 80, "validation": 24, "test": 12}
SIDE, RATE = 32, 16000
WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PITCHES = {"high": 900, "low": 200, "middle": 450}
WORDS = {"bad": "poor dull slow broken", "fine": "plain usual calm steady", "good": "great quick bright lovely"}
FILLERS = ("the", "a", "this", "film", "phone", "was", "is", "very", "so", "rather", "it")

METRIC = """
import datasets
import evaluate


class {name}(evaluate.Metric):
    def _info(self):
        value = datasets.Value("{dtype}")
        features = datasets.Features({{"predictions": value, "references": value}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        pairs = list(zip(predictions, references))
        return {{"{metric}": float(sum({value} for ours, true in pairs) / len(pairs))}}
"""
METRICS = {
    "accuracy": ("int32", "ours == true"),
    "mse": ("float32", "(ours - true) ** 2"),
}

# datasets reads sounds by torchcodec, which needs FFmpeg's libraries; where they are missing, this reads wav files.
DECODERS = """
import io
import wave
from types import SimpleNamespace

import torch


class VideoDecoder: ...


class AudioDecoder:
    def __init__(self, source, stream_index=None, sample_rate=None, num_channels=None):
        with wave.open(io.BytesIO(source) if isinstance(source, bytes) else source, "rb") as sound:
            frames, self.rate = sound.readframes(sound.getnframes()), sound.getframerate()
        assert sample_rate in (None, self.rate)
        self.data = torch.frombuffer(bytearray(frames), dtype=torch.int16)[None] / 32768
        self.metadata = SimpleNamespace(path=None)

    def get_all_samples(self):
        return SimpleNamespace(data=self.data, sample_rate=self.rate)
"""


def write_all(folder: Path) -> None:
    """Everything beside the scripts, in a folder from which they are to be run."""
    write_images(folder / "images")
    write_sounds(folder / "sounds")
    write_texts(folder / "texts")
    write_models(folder / "models")
    for metric, (dtype, value) in METRICS.items():
        (folder / metric).mkdir()
        text = METRIC.format(name=metric.title(), dtype=dtype, metric=metric, value=value)
        (folder / metric / f"{metric}.py").write_text(text)
    if not reads_sounds(folder):
        (folder / "stub" / "torchcodec").mkdir(parents=True)
        (folder / "stub" / "torchcodec" / "__init__.py").touch()
        (folder / "stub" / "torchcodec" / "decoders.py").write_text(DECODERS)
        (folder / "stub" / "torchcodec" / "encoders.py").write_text("class AudioEncoder: ...\n")


def reads_sounds(folder: Path) -> bool:
    """Whether torchcodec is there and works."""
    try:
        from torchcodec.decoders import AudioDecoder

        AudioDecoder(str(next((folder / "sounds").rglob("*.wav")))).get_all_samples()
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def write_images(folder: Path) -> None:
    """Fashion-MNIST's images in folders of classes, unequally many."""
    table = datasets.Dataset.from_parquet(str(SHIPPED), cache_dir=str(folder / "cache"))
    by_class = [[row["image"] for row in table if row["label"] == label][:60] for label in (8, 9, 4, 3)]
    for split, count in COUNT.items():
        for name, images, share in zip(CLASSES, by_class, (0.4, 0.3, 0.2, 0.1), strict=True):
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(round(count * share)):
                images.pop().save(place / f"{index}.png")


def write_sounds(folder: Path) -> None:
    """Noisy tones of a tenth of a second, of several lengths, in folders of classes."""
    draw = np.random.default_rng(0)
    for split, count in COUNT.items():
        for name, pitch in PITCHES.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count // 4):
                time = np.arange(draw.integers(1200, 2400)) / RATE
                tone = np.sin(2 * np.pi * pitch * draw.uniform(0.9, 1.1) * time) + draw.normal(0, 0.1, len(time))
                with wave.open(str(place / f"{index}.wav"), "wb") as sound:
                    sound.setparams((1, 2, RATE, 0, "NONE", ""))
                    sound.writeframes((tone * 2e4).astype("<i2").tobytes())


def write_texts(folder: Path) -> None:
    """Sentences with a label each, and with a score each.

    With datasets 5.2 run_classification.py fails on other labels: on words, since `map` keeps a column of strings what
    it is, and on lists, since `List` has no `dtype`.
    """
    folder.mkdir()
    draw = np.random.default_rng(0)
    names = sorted(WORDS)
    for split, count in COUNT.items():
        rows = []
        for _ in range(count):
            name = names[draw.choice(3, p=(0.5, 0.3, 0.2))]
            words = [*draw.choice(FILLERS, draw.integers(3, 9)), str(draw.choice(WORDS[name].split()))]
            rows.append((" ".join(words), names.index(name)))
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("sentence", "label"), *rows])
        with (folder / f"{split}_scores.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("sentence", "label"), *((text, label / 2) for text, label in rows)])


def write_models(folder: Path) -> None:
    """Tiny ones with their processors; of seven classes, so that the scripts make new heads."""
    tf.set_seed(0)
    vit = tf.ViTConfig(image_size=SIDE, patch_size=8, num_labels=7, **WIDTHS)
    tf.ViTForImageClassification(vit).save_pretrained(folder / "vit")
    tf.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder / "vit")
    resnet = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=7)
    tf.ResNetForImageClassification(resnet).save_pretrained(folder / "resnet")
    tf.ConvNextImageProcessor(size={"shortest_edge": SIDE}).save_pretrained(folder / "resnet")
    timm = tf.TimmWrapperConfig(architecture="test_vit", model_args={"img_size": SIDE}, num_labels=7)
    timm.pretrained_cfg = {"input_size": [3, SIDE, SIDE], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}
    tf.TimmWrapperForImageClassification(timm).save_pretrained(folder / "timm")
    layers = {"conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 5), "num_feat_extract_layers": 2}
    rest = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8}
    sound = tf.Wav2Vec2Config(num_labels=7, **layers, **rest, **WIDTHS)
    tf.Wav2Vec2ForSequenceClassification(sound).save_pretrained(folder / "wav2vec2")
    tf.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder / "wav2vec2")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS, *" ".join(WORDS.values()).split()]
    text = tf.BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, num_labels=7, **WIDTHS)
    tf.BertForSequenceClassification(text).save_pretrained(folder / "bert")
    tokenizer = tf.BertTokenizer(vocab={word: place for place, word in enumerate(vocabulary)}, model_max_length=32)
    tokenizer.save_pretrained(folder / "bert")
