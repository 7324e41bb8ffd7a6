"""CEA moves what enters the head in training and nothing else: evaluation and checkpoints are the plain model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, ViTForImageClassification

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer

BUDGET = 20
PROMPT = "It's a snowy day."
MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]


def first_samples(candidates: Any, budget: int, options: Any, generator: Any) -> Tensor:
    """A selection that does not depend on anything."""
    return torch.arange(budget)


def batch_of(dataset: Dataset) -> tuple[Tensor, Tensor]:
    items = dataset[:]
    return torch.stack(items["pixel_values"]), torch.tensor(items["labels"])


def plain_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that has never met a trainer."""
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


class HeadWatch(TrainerCallback):
    """What enters the head in training batches: before CEA's hook and after it, which is what the head receives.

    Args:
        head: The head; the watch must be made before train() to come before CEA's hook.
    """

    def __init__(self, head: nn.Module) -> None:
        self.head = head
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []
        self.evaluated: list[tuple[Tensor, Tensor]] = []
        self._last: Tensor | None = None
        head.register_forward_pre_hook(self._before)

    def _before(self, head: nn.Module, inputs: tuple[Tensor]) -> None:
        self._last = inputs[0].detach().clone()
        if head.training:
            self.before.append(self._last)

    def _after(self, head: nn.Module, inputs: tuple[Tensor]) -> None:
        if head.training:
            self.after.append(inputs[0].detach().clone())
        else:
            self.evaluated.append((self._last, inputs[0].detach().clone()))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.global_step:
            self.head.register_forward_pre_hook(self._after)


# --- Training: Eq. 8 and 9 by hand ---


def by_hand(
    model: PreTrainedModel, train: Dataset, texts: Tensor, selected: Tensor, step_size: float
) -> tuple[Tensor, Tensor]:
    """t_i of every sample, aligned by ridge regression on the pool, and alpha_i of the selected. [N, d], [N]."""
    pixels, labels = batch_of(train)
    with torch.no_grad():
        embeddings = model.vit(pixels).last_hidden_state[:, 0].double()
    sources = nn.functional.normalize(texts.double(), dim=1)[labels]
    centred = sources - sources.mean(dim=0)
    weight = torch.linalg.solve(
        centred.T @ centred + torch.eye(centred.shape[1], dtype=torch.float64),
        centred.T @ (embeddings - embeddings.mean(dim=0)),
    )
    aligned = centred @ weight + embeddings.mean(dim=0)
    cosines = torch.nn.functional.cosine_similarity(embeddings[selected], aligned[selected])
    softmax = cosines.exp() / cosines.exp().sum()
    alpha = torch.zeros(len(labels), dtype=torch.float64)
    alpha[selected] = (len(selected) * softmax).clamp(max=1 / step_size)
    return aligned, alpha


def test_head_input_in_training_is_eq_9(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, text_encoder: TextEncoder, class_names: list[str]
) -> None:
    step_size = 0.3
    model = make_vit()
    watch = HeadWatch(model.classifier)
    cea = CEACallback(text_encoder, "a photo of a {label}", step_size=step_size)
    texts = text_encoder.encode([f"a photo of a {name}" for name in class_names])
    aligned, alpha = by_hand(plain_copy(model), train, texts, torch.arange(BUDGET), step_size)
    trainer = make_trainer(model, [cea, watch], strategy=first_samples, selection_budget=BUDGET, num_loops=1)
    order: list[Tensor] = []
    record_order(trainer, order)
    trainer.train()
    assert len(watch.before) == len(watch.after) == len(order) == 8
    for plain, moved, indices in zip(watch.before, watch.after, order, strict=True):
        e, t = plain.double(), aligned[indices]
        # Texts at the norm of their embedding.
        t = t / t.norm(dim=1, keepdim=True) * e.norm(dim=1, keepdim=True)
        expected = e - step_size * alpha[indices][:, None] * (e - t)
        torch.testing.assert_close(moved.double(), expected, rtol=1e-5, atol=1e-5)
        assert (moved - plain).norm(dim=1).min() > 1e-2


def record_order(trainer: VeCAFTrainer, order: list[Tensor]) -> None:
    """Write down the pool positions of each training batch."""
    begin = trainer.begin_run

    def begun() -> Any:
        loader = begin()
        cea: Any = trainer.loop and trainer.loop.selector.cea
        batch = cea.batch

        def recorded(indices: Tensor) -> Any:
            order.append(indices.clone())
            return batch(indices)

        cea.batch = recorded
        return loader

    trainer.begin_run = begun  # type: ignore[method-assign]


def test_a_sample_without_caption_trains_as_it_is(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, text_encoder: TextEncoder
) -> None:
    captions = [None if index % 3 == 0 else " " if index % 3 == 1 else "a shoe" for index in range(len(train))]
    model = make_vit()
    watch = HeadWatch(model.classifier)
    cea = CEACallback(text_encoder, captions)
    trainer = make_trainer(model, [cea, watch], strategy=first_samples)
    order: list[Tensor] = []
    record_order(trainer, order)
    trainer.train()
    for plain, moved, indices in zip(watch.before, watch.after, order, strict=True):
        captioned = indices % 3 == 2
        assert torch.equal(moved[~captioned], plain[~captioned])
        assert ((moved - plain)[captioned].norm(dim=1) > 0).all()
    assert trainer.loop_records[0].info["cea_missing_captions"] == 80


def test_captions_come_from_a_column(
    make_vit: MakeModel, make_trainer: MakeTrainer, fashion: Dataset, text_encoder: TextEncoder, class_names: list[str]
) -> None:
    pool = fashion.select(range(30))
    columned = pool.add_column("words", [f"a photo of a {class_names[label]}" for label in pool["label"]])

    def pixels(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        images = [torch.from_numpy(np.resize(np.array(image), (3, 32, 32))).float() / 255 for image in batch["image"]]
        return {"pixel_values": images, "labels": batch["label"]}

    ends = []
    for captions in ("words", "a photo of a {label}"):
        trainer = make_trainer(
            make_vit(), [CEACallback(text_encoder, captions)], pool=columned.with_transform(pixels), selection_budget=10
        )
        trainer.train()
        ends.append(trainer.model.classifier.weight)
    assert torch.equal(*ends)


# --- Evaluation ---


class PlainAtEveryStep(TrainerCallback):
    """In the middle of training, the model in evaluation mode against a copy of its weights without any hook."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels, self.checked = pixels, 0

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        model.eval()
        assert torch.equal(model(self.pixels).logits, plain_copy(model)(self.pixels).logits)
        model.train()
        self.checked += 1


def test_logits_in_eval_mode_are_the_same_with_and_without_the_callback(
    make_vit: MakeModel, make_trainer: MakeTrainer, validation: Dataset, text_encoder: TextEncoder
) -> None:
    check = PlainAtEveryStep(batch_of(validation)[0][:8])
    cea = CEACallback(text_encoder, step_size=1.0)
    make_trainer(make_vit(hidden_dropout_prob=0.1), [cea, check]).train()
    assert check.checked == 8


class EvaluatedPlain(TrainerCallback):
    def __init__(self, validation: Dataset) -> None:
        self.batch = batch_of(validation)
        self.losses: list[float] = []

    @torch.no_grad()
    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        pixels, labels = self.batch
        self.losses.append(float(plain_copy(model)(pixels, labels=labels).loss))


def test_evaluate_during_training_is_the_plain_model(
    make_vit: MakeModel, make_trainer: MakeTrainer, validation: Dataset, text_encoder: TextEncoder
) -> None:
    model = make_vit()
    watch, plain = HeadWatch(model.classifier), EvaluatedPlain(validation)
    trainer = make_trainer(model, [CEACallback(text_encoder, step_size=1.0), watch, plain], eval_strategy="epoch")
    trainer.train()
    logged = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert len(logged) == len(plain.losses) == 2
    assert logged == pytest.approx(plain.losses, abs=1e-6)
    assert watch.evaluated
    assert all(torch.equal(before, after) for before, after in watch.evaluated)


def test_scoring_sees_plain_embeddings(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, text_encoder: TextEncoder
) -> None:
    scores: list[Any] = []

    def watched(candidates: Any, budget: int, options: Any, generator: Any) -> Tensor:
        scores.append(candidates)
        return torch.arange(budget)

    model = make_vit()
    copy = plain_copy(model)
    cea = CEACallback(text_encoder, step_size=0.5, act_on=["training"])
    make_trainer(model, [cea], strategy=watched).train()
    pixels, labels = batch_of(train)
    with torch.no_grad():
        embeddings = copy.vit(pixels).last_hidden_state[:, 0]
        losses = torch.nn.functional.cross_entropy(copy(pixels).logits, labels, reduction="none")
    torch.testing.assert_close(scores[0].embeddings, embeddings, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores[0].losses, losses, rtol=1e-5, atol=1e-5)
    assert torch.equal(scores[0].labels, labels)
    assert not torch.allclose(scores[1].losses, losses, atol=1e-4)


def has_hooks(model: nn.Module) -> bool:
    return any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_the_hook_is_gone_after_training(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder
) -> None:
    trainer = make_trainer(make_vit(), [CEACallback(text_encoder)], num_loops=1, max_steps=2)
    # A second run on the same trainer sets it again, and takes it off again.
    for _ in range(2):
        trainer.train()
        assert not has_hooks(trainer.model)


class Interrupt(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_run_leaves_a_plain_model(
    make_vit: MakeModel, make_trainer: MakeTrainer, validation: Dataset, text_encoder: TextEncoder
) -> None:
    model = make_vit()
    trainer = make_trainer(model, [CEACallback(text_encoder, step_size=1.0), Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    pixels = batch_of(validation)[0][:8]
    for mode in (True, False):
        assert torch.equal(model.train(mode)(pixels).logits, plain_copy(model).train(mode)(pixels).logits)
    trainer.remove_callback(Interrupt)
    trainer.train()
    assert not has_hooks(model)


LOAD_ELSEWHERE = """
import sys
sys.modules["vecaf_hf"] = None
import numpy as np, torch
from transformers import AutoModelForImageClassification
torch.set_num_threads(1)
try:
    import vecaf_hf
except ImportError:
    pass
else:
    raise SystemExit("vecaf_hf can be imported")
pixels, *folders = sys.argv[1:]
for folder in folders:
    model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        np.save(folder + ".npy", model.eval()(torch.from_numpy(np.load(pixels))).logits.numpy())
"""


def test_the_checkpoint_loads_where_there_is_no_vecaf_hf(
    make_vit: MakeModel, make_trainer: MakeTrainer, validation: Dataset, text_encoder: TextEncoder, tmp_path: Path
) -> None:
    trainer = make_trainer(make_vit(), [CEACallback(text_encoder)], save_strategy="epoch")
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    pixels = batch_of(validation)[0][:8]
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    trainer.model.eval()
    with torch.no_grad():
        expected = trainer.model(pixels).logits
    folder = tmp_path / "run" / "checkpoint-8"
    folders = [str(folder), str(tmp_path / "final")]
    command = [sys.executable, "-c", LOAD_ELSEWHERE, str(tmp_path / "pixels.npy"), *folders]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    subprocess.run(command, check=True, cwd=tmp_path, env=offline, timeout=300)
    for weights in folders:
        torch.testing.assert_close(torch.from_numpy(np.load(f"{weights}.npy")), expected, rtol=1e-6, atol=1e-6)
    assert ViTForImageClassification.from_pretrained(folder).config.id2label == trainer.model.config.id2label


# --- Options ---


def run_with(make_vit: MakeModel, make_trainer: MakeTrainer, cea: CEACallback) -> tuple[Tensor, Tensor, Tensor]:
    """What the strategy saw, and the shift of the first training batch. [N, d], [n, d]."""
    seen: list[Tensor] = []

    def watched(candidates: Any, budget: int, options: Any, generator: Any) -> Tensor:
        seen.append(candidates.embeddings)
        return torch.arange(budget)

    model = make_vit()
    watch = HeadWatch(model.classifier)
    trainer = make_trainer(model, [cea, watch], strategy=watched)
    trainer.train()
    assert all(torch.isfinite(values).all() for values in model.state_dict().values())
    return seen[0], watch.after[0] - watch.before[0], watch.before[0]


@pytest.mark.parametrize("toward", ["caption", "difference", "instance"])
def test_domain_prompt_towards(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, text_encoder: TextEncoder, toward: str
) -> None:
    captions = [f"picture {index % 7} of a thing" for index in range(len(train))]
    cea = CEACallback(text_encoder, captions, domain_prompt=PROMPT, toward=toward)
    _, shift, _ = run_with(make_vit, make_trainer, cea)
    assert (shift.norm(dim=1) > 0).all()


def test_the_prompt_acts_where_it_should(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder
) -> None:
    def run(*places: str) -> tuple[Tensor, Tensor]:
        prompted = {"domain_prompt": PROMPT, "prompt_in": list(places)} if places else {}
        cea = CEACallback(text_encoder, **prompted)
        return run_with(make_vit, make_trainer, cea)[:2]

    selected, trained = run()
    changed = {place: run(place) for place in ("training", "selection", "attention")}
    assert torch.equal(changed["training"][0], selected)
    assert not torch.equal(changed["training"][1], trained)
    assert not torch.equal(changed["selection"][0], selected)
    assert torch.equal(changed["selection"][1], trained)
    # Attention scores act on both shifts.
    assert not torch.equal(changed["attention"][0], selected)
    assert not torch.equal(changed["attention"][1], trained)
    everywhere = run("training", "selection", "attention")
    assert not torch.equal(everywhere[0], changed["selection"][0])
    assert not torch.equal(everywhere[1], changed["training"][1])


def test_without_a_place_in_training_nothing_moves_there(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder
) -> None:
    cea = CEACallback(text_encoder, act_on=["selection"])
    assert not run_with(make_vit, make_trainer, cea)[1].any()


@pytest.mark.parametrize(("strategy", "moves"), [("badge", False), ("margin", False), ("ods", True)])
def test_embeddings_stay_beside_logits(
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    text_encoder: TextEncoder,
    watch: Callable[..., None],
    strategy: str,
    moves: bool,
) -> None:
    """A strategy that goes by logits has the embeddings that they were computed from."""
    seen: list[Any] = []

    def look(candidates: Any) -> None:
        seen.append((candidates.embeddings, trainer.scorer.score(candidates.indices).embeddings))

    watch(strategy, look)
    trainer = make_trainer(make_vit(), [CEACallback(text_encoder)], strategy=strategy)
    trainer.train()
    assert len(seen) == 2
    assert all(torch.allclose(given, plain, atol=1e-5) != moves for given, plain in seen)


def test_domain_affinity_weighs_the_selection(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder
) -> None:
    relevance: list[Tensor] = []

    def watched(candidates: Any, budget: int, options: Any, generator: Any) -> Tensor:
        relevance.append(candidates.relevance)
        return torch.arange(budget)

    cea = CEACallback(text_encoder, domain_prompt=PROMPT, domain_affinity=0.1, affinity_by="image")
    make_trainer(make_vit(), [cea], strategy=watched).train()
    assert all(float(values.max()) == 1 and float(values.min()) > 0 for values in relevance)


@pytest.mark.parametrize("alignment", ["ridge", "procrustes"])
def test_closed_form_alignments(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder, alignment: str
) -> None:
    _, shift, plain = run_with(make_vit, make_trainer, CEACallback(text_encoder, alignment=alignment))
    assert 0 < float((shift.norm(dim=1) / plain.norm(dim=1)).mean()) < 0.5


def test_identity_takes_equal_sizes_and_refuses_others(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder
) -> None:
    wide = lambda: make_vit(hidden_size=384, num_hidden_layers=1)  # noqa: E731
    _, shift, _ = run_with(wide, make_trainer, CEACallback(text_encoder, alignment="identity"))
    assert (shift.norm(dim=1) > 0).all()
    with pytest.raises(ValueError, match=r"384 and 16.*ridge"):
        make_trainer(make_vit(), [CEACallback(text_encoder, alignment="identity")]).train()


class AlignerWatch(TrainerCallback):
    def __init__(self, cea: CEACallback) -> None:
        self.cea = cea
        self.weights: list[Tensor] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.weights.append(self.cea.running.augmenter.aligner.weight.clone())


def test_an_alignment_is_refitted_at_each_boundary_and_fixed_between(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder
) -> None:
    cea = CEACallback(text_encoder)
    watch = AlignerWatch(cea)
    trainer = make_trainer(make_vit(), [cea, watch], learning_rate=0.01)
    trainer.train()
    assert not any("aligner" in name for name, _ in trainer.model.named_parameters())
    assert all(torch.equal(weight, watch.weights[0]) for weight in watch.weights[:4])
    assert not torch.equal(watch.weights[4], watch.weights[3])
    assert all(torch.equal(weight, watch.weights[4]) for weight in watch.weights[4:])


@pytest.mark.parametrize("strategy", ["random", "full"])
def test_without_scores_the_alignment_is_fitted_on_the_selected(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder, strategy: str
) -> None:
    cea = CEACallback(text_encoder)
    trainer = make_trainer(make_vit(), [cea], strategy=strategy)
    trainer.train()
    selected = 120 if strategy == "full" else 20
    assert trainer.meter.work["score"].samples == 2 * selected
    assert trainer.loop_records[1].info["cea_relative_shift"] > 0


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=40)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={
            **sizes,
            "vocab_size": len(tokens),
            "max_position_embeddings": 40,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        projection_dim=12,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


def test_dual_alignment_is_fitted_on_the_encoders_images(
    make_vit: MakeModel, make_trainer: MakeTrainer, clip_folder: Path, tmp_path: Path
) -> None:
    encoder = TextEncoder(str(clip_folder), cache_dir=tmp_path / "texts", device="cpu")
    cea = CEACallback(encoder, alignment="dual", alignment_samples=30)
    _, shift, _ = run_with(make_vit, make_trainer, cea)
    assert (shift.norm(dim=1) > 0).all()
