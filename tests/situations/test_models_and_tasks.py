"""Whatever transformers trains, trains by the default strategy; one that reads embeddings trains every classifier of
texts, sounds, videos and images, and says of other tasks in one sentence what it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from every_case import every_case
from torch import Tensor, nn
from transformers import set_seed

from vecaf_hf import VeCAFTrainer

MakeTrainer = Callable[..., VeCAFTrainer]
Samples = list[dict[str, Any]]
Case = tuple[Callable[[], nn.Module], Callable[[], Samples]]
RUN: dict[str, Any] = {"max_steps": 2, "num_loops": 2, "selection_budget": 6, "selection_steps": 2}
WIDTHS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
IMAGE = {"image_size": 32, "patch_size": 16, "num_labels": 3, **WIDTHS}
TEXT = {"vocab_size": 64, "max_position_embeddings": 40, "pad_token_id": 0, "num_labels": 3, **WIDTHS}
BART: dict[str, Any] = {
    **{f"{side}_{of}": 1 for side in ("encoder", "decoder") for of in ("layers", "attention_heads")},
    **{"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 64, "num_labels": 3},
}
SOUND: dict[str, Any] = {
    **{"conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 5), "num_feat_extract_layers": 2},
    **{"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "num_labels": 3},
    **WIDTHS,
}


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def texts(length: int = 9, choices: int = 0) -> Samples:
    shape = (choices, length) if choices else (length,)
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index in range(12):
        ids = torch.randint(3, 60, shape, generator=generator)
        # Of several lengths, filled up to the right; bart asks for its end of a sequence.
        ids[..., -1], mask = 2, torch.ones(shape, dtype=torch.long)
        if index % 2 and not choices:
            ids = torch.cat([ids[2:], torch.zeros(2, dtype=torch.long)])
            mask[-2:] = 0
        samples.append({"input_ids": ids, "attention_mask": mask, "labels": index % 3})
    return samples


def of(name: str, *shape: int, label: Callable[[int], Any] | None = lambda index: index % 3) -> Callable[[], Samples]:
    values = draw(12, *shape)
    return lambda: [{name: values[i]} | ({} if label is None else {"labels": label(i)}) for i in range(12)]


def classifier(name: str, task: str = "ForSequenceClassification", **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(tf, name + task)(getattr(tf, f"{name}Config")(**options))


CLASSIFIERS: dict[str, Case] = {
    **{name: (classifier(name, **TEXT), texts) for name in ("Bert", "Roberta", "XLMRoberta", "Camembert", "MPNet")},
    "Electra": (classifier("Electra", embedding_size=16, **TEXT), texts),
    **{name: (classifier(name, num_key_value_heads=2, **TEXT), texts) for name in ("Llama", "Qwen2")},
    "Bart": (classifier("Bart", max_position_embeddings=40, **BART), texts),
    **{name: (classifier(name, **SOUND), of("input_values", 400)) for name in ("Wav2Vec2", "Hubert", "WavLM")},
    "AST": (
        classifier("AST", "ForAudioClassification", num_mel_bins=16, max_length=32, num_labels=3, **WIDTHS),
        of("input_values", 32, 16),
    ),
    "VideoMAE": (
        classifier("VideoMAE", "ForVideoClassification", num_frames=2, **IMAGE),
        of("pixel_values", 2, 3, 32, 32),
    ),
}


def boxes(index: int) -> dict[str, Tensor]:
    return {"class_labels": torch.tensor([index % 3]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}


def masked() -> Samples:
    return [{"pixel_values": image, "bool_masked_pos": torch.arange(4) < 2} for image in draw(12, 3, 32, 32)]


def answered() -> Samples:
    return [
        {"input_ids": text["input_ids"], "start_positions": 1, "end_positions": index % 5}
        for index, text in enumerate(texts())
    ]


def segformer() -> nn.Module:
    lists = {"depths": [1, 1], "sr_ratios": [1, 1], "hidden_sizes": [8, 16], "patch_sizes": [7, 3], "strides": [4, 2]}
    sizes = {"num_encoder_blocks": 2, "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16}
    return tf.SegformerForSemanticSegmentation(tf.SegformerConfig(num_labels=3, **lists, **sizes))


class NoLogits(nn.Module):
    """It returns a loss alone, as of images that are to be reconstructed."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(32, 32)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"loss": (self.body(pixel_values) - pixel_values).square().mean()}


OTHERS: dict[str, Case] = {
    "segmentation": (
        segformer,
        of("pixel_values", 3, 32, 32, label=lambda index: torch.full((32, 32), index % 3)),
    ),
    "detection": (
        classifier("Yolos", "ForObjectDetection", num_detection_tokens=4, **{**IMAGE, "image_size": [32, 32]}),
        of("pixel_values", 3, 32, 32, label=boxes),
    ),
    "token classification": (
        classifier("Bert", "ForTokenClassification", **TEXT),
        lambda: [{**text, "labels": torch.arange(9) % 3} for text in texts()],
    ),
    "multiple choice": (
        classifier("Bert", "ForMultipleChoice", **TEXT),
        lambda: [{**text, "labels": index % 4} for index, text in enumerate(texts(choices=4))],
    ),
    "question answering": (classifier("Bert", "ForQuestionAnswering", **{**TEXT, "num_labels": 2}), answered),
    "language modelling": (
        classifier("Bert", "ForMaskedLM", **TEXT),
        lambda: [{**text, "labels": text["input_ids"]} for text in texts()],
    ),
    "masked image modelling": (classifier("ViT", "ForMaskedImageModeling", encoder_stride=16, **IMAGE), masked),
    "no logits": (NoLogits, of("pixel_values", 3, 32, 32)),
}


def collated(samples: Samples) -> dict[str, Any]:
    boxed = isinstance(samples[0].get("labels"), dict)
    rest = [{key: value for key, value in sample.items() if not (boxed and key == "labels")} for sample in samples]
    return tf.default_data_collator(rest) | ({"labels": [sample["labels"] for sample in samples]} if boxed else {})


def two_loops(make_trainer: MakeTrainer, case: Case, **options: Any) -> VeCAFTrainer:
    set_seed(0)
    make, pool = case
    data = {"data_collator": collated, "eval_dataset": None}
    trainer = make_trainer(make(), pool=pool(), trainer=data, **RUN, **options)
    trainer.train()
    assert trainer.state.global_step == 2 and [len(one) for one in trainer.selection_history] == [6, 6]
    return trainer


@every_case("strategy", ["balanced", "ods"])
@every_case("name", CLASSIFIERS)
def test_classifiers(make_trainer: MakeTrainer, name: str, strategy: str) -> None:
    two_loops(make_trainer, CLASSIFIERS[name], strategy=strategy)


@every_case("name", OTHERS)
def test_other_tasks(make_trainer: MakeTrainer, name: str) -> None:
    trainer = two_loops(make_trainer, OTHERS[name], strategy="balanced")
    assert trainer.args.strategy == ("balanced" if name == "no logits" else "random")
    with pytest.raises(ValueError, match=r"one embedding per sample|returns no logits|returns no loss"):
        two_loops(make_trainer, OTHERS[name], strategy="ods")


def test_the_embedding_among_all_tokens_is_that_of_the_last_one(make_trainer: MakeTrainer) -> None:
    trainer = two_loops(make_trainer, CLASSIFIERS["Llama"], strategy="k_center")
    scored = trainer.scorer.score(torch.arange(12))
    batch = collated(texts())
    with torch.no_grad():
        hidden = trainer.model.eval().model(batch["input_ids"], attention_mask=batch["attention_mask"])
    last = batch["attention_mask"].sum(dim=1) - 1
    expected = hidden.last_hidden_state[torch.arange(12), last]
    torch.testing.assert_close(scored.given("embeddings"), expected, rtol=1e-4, atol=1e-5)
