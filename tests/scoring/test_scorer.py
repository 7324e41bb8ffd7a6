"""The scoring pass against a bare loop, on one process."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from every_case import every_case
from torch import nn
from torch.utils.data import DataLoader
from transformers.modeling_outputs import ImageClassifierOutput

from vecaf_hf.cost import FULL_SIZE, CostMeter
from vecaf_hf.data.indexed import POOL_INDEX, Draw, IndexedCollator, IndexedDataset
from vecaf_hf.scoring.entering import Head
from vecaf_hf.scoring.forward_pass import ForwardPass, Wanted
from vecaf_hf.scoring.losses import classification_losses
from vecaf_hf.scoring.objective import Objective

N, D, C = 23, 6, 3


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, values):
        return values * self.factor


class Model(nn.Module):
    """A classifier with dropout and batch statistics, so that its mode matters."""

    def __init__(self, returns="output", factor=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, D), nn.BatchNorm1d(D), nn.Dropout(0.5))
        self.head = nn.Linear(D, C)
        self.returns, self.factor, self.calls = returns, factor, []

    def forward(self, pixel_values, labels=None):
        self.calls.append((self.training, labels is not None))
        logits = self.head(self.body(pixel_values))
        loss = None if labels is None else self.factor * nn.functional.cross_entropy(logits, labels)
        if self.returns == "output":
            return ImageClassifierOutput(loss=loss, logits=logits)
        if self.returns == "tuple":
            return (logits,) if loss is None else (loss, logits)
        return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}


class Pool:
    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.pixels = torch.randn(N, 4, generator=generator)
        self.labels = torch.randint(C, (N,), generator=generator)

    def __len__(self):
        return N

    def __getitem__(self, index):
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def stack(samples):
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


def own_loss(outputs, labels):
    return outputs["loss"] if isinstance(outputs, dict) else outputs[0]


noted: list = []


def make_scorer(
    collator=stack,
    sample_loss=classification_losses,
    reference_loss=own_loss,
    meter=None,
    pool=None,
    fitting=None,
    observed=None,
    **wanted,
) -> ForwardPass:
    def load(indices):
        draws = [Draw(index) for index in indices]
        dataset = IndexedDataset(pool or Pool(), seed=0)
        return DataLoader(dataset, batch_size=5, sampler=draws, collate_fn=IndexedCollator(collator))

    of_pool = SimpleNamespace(
        batches=load,
        note_scored=lambda indices, unloadable: noted.append((indices.tolist(), dict(unloadable))),
        label_name="labels",
        args=SimpleNamespace(disable_tqdm=True),
    )
    objective = Objective(sample_loss, reference_loss, reference_from_model=reference_loss is not None)
    asked = Wanted(**{"logits": True, "check_loss": True, **wanted})
    return ForwardPass(Accelerator(cpu=True), objective, of_pool, meter or CostMeter(), asked, fitting, observed)


@every_case("reference_loss", [own_loss, None])
@every_case("returns", ["output", "tuple", "dict"])
@every_case("indices", [list(range(N)), [9, 2, 22, 17, 0, 5, 1], [3]])
def test_scores_are_those_of_a_bare_loop(indices, returns, reference_loss):
    model, pool = Model(returns).train(), Pool()
    found = make_scorer(reference_loss=reference_loss).score(
        model, Head(model, "head", "a test"), torch.tensor(indices)
    )
    model.eval()
    for row, index in enumerate(indices):
        sample = pool[index]
        with torch.no_grad():
            embedding = model.body(sample["pixel_values"][None])
            logits = model.head(embedding)
            loss = nn.functional.cross_entropy(logits, sample["labels"][None])
        torch.testing.assert_close(found.embeddings[row], embedding[0])
        torch.testing.assert_close(found.logits[row], logits[0])
        torch.testing.assert_close(found.losses[row], loss)
        assert found.labels[row] == sample["labels"] and found.indices[row] == index
    assert not found.embeddings.is_inference()


@every_case("training", [True, False])
def test_the_model_is_scored_in_eval_mode_and_left_in_its_own(training):
    model = Model().train(training)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    make_scorer().score(model, Head(model, "head", "a test"), torch.arange(N))
    assert all(module.training is training for module in model.modules())
    assert {mode for mode, _ in model.calls} == {False}
    assert not model.head._forward_hooks
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_the_mode_is_restored_after_a_failure():
    model = Model().train()
    with pytest.raises(TypeError, match="pixel_values"):
        make_scorer(lambda samples: {"labels": stack(samples)["labels"]}).score(
            model, Head(model, "head", "a test"), torch.arange(N)
        )
    assert model.training


def test_only_the_first_batch_is_verified_and_every_forward_is_counted():
    model, meter = Model(), CostMeter()
    make_scorer(meter=meter).score(model, Head(model, "head", "a test"), torch.arange(N))
    assert [with_labels for _, with_labels in model.calls] == [True, False, False, False, False]
    flops = 2 * (4 * D + D * C)
    assert meter.forward_flops == {FULL_SIZE: flops}
    assert (meter.work["score"].samples, meter.work["score"].flops) == (N, flops * N)


@every_case("field", ["embeddings", "losses"])
def test_a_nan_names_the_sample(field):
    def broken(samples):
        batch = stack(samples)
        wrong = (batch["pixel_values"] == Pool().pixels[13]).all(dim=1)
        batch["pixel_values"][wrong] = torch.nan
        return batch

    def broken_loss(outputs, labels):
        losses = classification_losses(outputs, labels)
        return losses.masked_fill((losses - expected).abs() < 1e-6, torch.nan)

    model = Model()
    expected = make_scorer().score(model, Head(model, "head", "a test"), torch.tensor([13])).losses[0]
    scorer = make_scorer(broken) if field == "embeddings" else make_scorer(sample_loss=broken_loss)
    order = torch.arange(N).flip(0)
    with pytest.raises(ValueError, match=f"{field} of sample 13 is not finite"):
        scorer.score(model, Head(model, "head", "a test"), order)


def test_embeddings_in_half_precision():
    model = Model()
    head = Head(model, "head", "a test")
    half = make_scorer(half_embeddings=True).score(model, head, torch.arange(N))
    whole = make_scorer().score(model, head, torch.arange(N))
    assert torch.equal(half.embeddings, whole.embeddings.half())
    assert torch.equal(half.losses, whole.losses) and torch.equal(half.logits, whole.logits)
    beyond = whole.embeddings.abs().amax(dim=1).argmax()
    model.body.append(Scale(65505 / whole.embeddings.abs().max()))
    with pytest.raises(ValueError, match=f"sample {beyond} has a value of .*ends at 65504: leave half_embeddings off"):
        make_scorer(half_embeddings=True).score(model, head, torch.arange(N))


@every_case("returns", ["output", "tuple", "mapping"])
def test_scoring_in_bfloat16(returns):
    model = Model(returns)
    scored = make_scorer(bf16=True, logits=True, check_loss=True).score(
        model, Head(model, "head", "a test"), torch.arange(N)
    )
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        embeddings = model.body(Pool().pixels).float()
        logits = model.head(embeddings).float()
    assert torch.equal(scored.embeddings, embeddings) and torch.equal(scored.logits, logits)
    # Of rounded logits, and not rounded again.
    assert torch.equal(scored.losses, nn.functional.cross_entropy(logits, Pool().labels, reduction="none"))
    exact = make_scorer().score(model, Head(model, "head", "a test"), torch.arange(N))
    assert not torch.equal(exact.embeddings, scored.embeddings)
    assert torch.cosine_similarity(exact.embeddings, scored.embeddings).min() > 0.999


def test_a_models_loss_may_be_rounded_to_bfloat16_too():
    def rounded(outputs, labels):
        return own_loss(outputs, labels).bfloat16().float()

    model = Model()
    make_scorer(reference_loss=rounded, bf16=True).score(model, Head(model, "head", "a test"), torch.arange(N))
    with pytest.raises(ValueError, match="is not the mean"):
        make_scorer(reference_loss=rounded).score(model, Head(model, "head", "a test"), torch.arange(N))


def test_an_infinity_is_not_put_down_to_half_precision():
    def broken(samples):
        batch = stack(samples)
        batch["pixel_values"][(batch["pixel_values"] == Pool().pixels[13]).all(dim=1), 0] = torch.inf
        return batch

    model = Model()
    with pytest.raises(ValueError, match="embeddings of sample 13 is not finite"):
        make_scorer(broken, half_embeddings=True).score(model, Head(model, "head", "a test"), torch.arange(N))


def test_a_model_that_trains_another_objective():
    model = Model(factor=1.5)
    with pytest.raises(ValueError, match=r"is not the mean .*Pass the objective as sample_loss_func"):
        make_scorer().score(model, Head(model, "head", "a test"), torch.arange(N))
    make_scorer(reference_loss=None).score(model, Head(model, "head", "a test"), torch.arange(N))


def test_logits_are_kept_only_where_they_are_needed():
    model = Model()
    assert make_scorer(logits=False).score(model, Head(model, "head", "a test"), torch.arange(N)).logits is None


def test_a_module_that_is_not_the_head():
    model = Model()
    with pytest.raises(ValueError, match="BatchNorm1d does not turn the embedding into the model's logits"):
        make_scorer().score(model, Head(model, "body.1", "a test"), torch.arange(N))


def test_the_pool_index_does_not_reach_the_model():
    model = Model()
    forward = model.forward
    model.forward = lambda **inputs: forward(**inputs) if POOL_INDEX not in inputs else pytest.fail("index passed on")
    make_scorer().score(model, Head(model, "head", "a test"), torch.arange(N))


class Holed(Pool):
    def __init__(self, bad):
        super().__init__()
        self.bad = bad

    def __getitem__(self, index):
        if index in self.bad:
            raise OSError("truncated")
        return super().__getitem__(index)


@every_case("bad", [{7}, {0, 1, 2, 3, 4}, {4, 5, 22}, set(range(22))])
def test_what_cannot_be_loaded_is_no_candidate_and_changes_no_other(bad):
    model = Model()
    whole = make_scorer().score(model, Head(model, "head", "a test"), torch.arange(N))
    noted.clear()
    found = make_scorer(pool=Holed(bad)).score(model, Head(model, "head", "a test"), torch.arange(N))
    kept = [index for index in range(N) if index not in bad]
    assert found.indices.tolist() == kept
    torch.testing.assert_close(found.embeddings, whole.embeddings[kept])
    torch.testing.assert_close(found.losses, whole.losses[kept])
    assert torch.equal(found.labels, whole.labels[kept])
    assert [(asked, failed.keys()) for asked, failed in noted] == [(list(range(N)), bad)]


@every_case("most", [1, 2, 4])
def test_what_does_not_fit_in_memory_is_scored_in_halves(most):
    def narrow(module, inputs, named):
        if len(named["pixel_values"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model, meter = Model(), CostMeter()
    whole = make_scorer().score(model, Head(model, "head", "a test"), torch.arange(N))
    model.register_forward_pre_hook(narrow, with_kwargs=True)
    found = make_scorer(meter=meter, pool=Holed({6, 11})).score(model, Head(model, "head", "a test"), torch.arange(N))
    kept = [index for index in range(N) if index not in (6, 11)]
    assert found.indices.tolist() == kept
    torch.testing.assert_close(found.tensors(), whole.take(torch.tensor(kept)).tensors())
    assert meter.work["score"].samples == len(kept)
    assert meter.forward_flops == {FULL_SIZE: 2 * (4 * D + D * C)}


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(1, D, kernel_size=1), nn.Linear(D, C)

    def forward(self, pixel_values, labels=None):
        return {"logits": self.head(self.body(pixel_values).tanh().mean(dim=(2, 3)))}


class Images(Pool):
    def __init__(self):
        super().__init__()
        self.pixels = torch.randn(N, 1, 8, 8)


def test_reduced_images_are_scored_and_counted_by_themselves():
    model, meter, pool = Convolution(), CostMeter(), Images()
    options = {"meter": meter, "pool": pool, "reference_loss": None}
    make_scorer(**options).score(model, Head(model, "head", "a test"), torch.arange(4))
    found = make_scorer(**options, image_size=2).score(model, Head(model, "head", "a test"), torch.arange(N))
    small = nn.functional.interpolate(pool.pixels, (2, 2), mode="bilinear", antialias=True)
    torch.testing.assert_close(found.logits, model(small)["logits"].detach())
    per_pixel, rest = 2 * D, 2 * D * C
    assert meter.forward_flops == {FULL_SIZE: 64 * per_pixel + rest, "2": 4 * per_pixel + rest}
    assert meter.work["score"].flops == 4 * meter.forward_flops[FULL_SIZE] + N * meter.forward_flops["2"]


def test_a_part_of_which_nothing_can_be_loaded_has_no_candidates():
    model = Model()
    scorer = make_scorer(pool=Holed(set(range(N))))
    found = scorer.score(model, Head(model, "head", "a test"), torch.arange(N))
    assert len(found) == 0 and found.tensors().keys() == {"indices"} and scorer.output_kind is None


@every_case(("returns", "kind"), [("output", "ModelOutput"), ("tuple", "tuple"), ("dict", "Mapping")])
def test_the_kind_of_the_models_output_is_remembered(returns, kind):
    model, scorer = Model(returns), make_scorer()
    scorer.score(model, Head(model, "head", "a test"), torch.arange(N))
    assert scorer.output_kind == kind


def test_a_failure_is_put_down_to_the_size_of_images_only_where_that_is_new():
    class Broken(Convolution):
        def forward(self, pixel_values, labels=None):
            raise RuntimeError("boom")

    model, options = Broken(), {"pool": Images(), "reference_loss": None, "image_size": 2}
    with pytest.raises(RuntimeError, match=r"^boom"):
        make_scorer(**options).score(model, Head(model, "head", "a test"), torch.arange(N))
    with pytest.raises(ValueError, match=r"scoring_image_size is 2, and Broken takes no images of that size .*boom"):
        make_scorer(**options, image_size_is_new=True).score(model, Head(model, "head", "a test"), torch.arange(N))


def test_nothing_of_a_batch_that_does_not_fit_is_held_while_memory_is_freed(monkeypatch):
    class Narrow(nn.Linear):
        def forward(self, embeddings):
            if len(embeddings) > 3:
                held.append(weakref.ref(embeddings))
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(embeddings)

    def clear(**options):
        gc.collect()
        freed.append(held[-1]() is None)

    held, freed = [], []
    monkeypatch.setattr("vecaf_hf.scoring.memory.clear_device_cache", clear)
    model = Model()
    model.head = Narrow(D, C)
    make_scorer().score(model, Head(model, "head", "a test"), torch.arange(N))
    assert freed == [True]
