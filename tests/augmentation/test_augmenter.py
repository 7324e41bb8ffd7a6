"""The augmenter against a loop over samples, and the callback's hook on a small head."""

import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import product

import datasets
import pytest
import torch
from accelerate import Accelerator
from every_case import every_case
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn.functional import normalize

from vecaf_hf.augmentation import CEACallback, TextEncoder, augmenter
from vecaf_hf.augmentation.alignment import ridge
from vecaf_hf.augmentation.augmenter import Augmenter
from vecaf_hf.augmentation.cea import domain_affinity
from vecaf_hf.augmentation.counted_map import CountedMap
from vecaf_hf.augmentation.domain_map import STEPS
from vecaf_hf.augmentation.options import CEAOptions
from vecaf_hf.cost import CostMeter
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.text.captions import CaptionTable
from vecaf_hf.text.domains import Domains

N, D, DT = 12, 5, 3
ROWS = torch.tensor([0, 1, -1, 2, 0, 3, -1, 4, 1, 2, 3, 0])
LABELS = torch.tensor([0, 1, 2, 0, 0, 1, 2, 1, 1, 0, 1, 0])
PROMPT = "It snows."
PROMPTS = [PROMPT, "It rains.", "It is foggy."]


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_table() -> CaptionTable:
    """Of five captions; each stands with the first prompt in one loop and with the second in the next."""
    return CaptionTable(
        ROWS, randn(5, DT, seed=1), randn(10, DT, seed=2), torch.stack([ROWS, torch.where(ROWS < 0, -1, ROWS + 5)])
    )


def make_candidates(indices: list[int] | None = None) -> Candidates:
    indices = indices or [7, 2, 0, 4, 11, 9, 6, 3]
    return Candidates(torch.tensor(indices), embeddings=4 * randn(N, D, seed=3)[indices])


def make_augmenter(**options) -> Augmenter:
    domains = Domains.deal(PROMPTS, N, 3, seed=0)
    mapping = None
    if options.get("toward") == "learned_difference":
        mapping = CountedMap(D, len(PROMPTS), 0, Accelerator(cpu=True), CostMeter())
    made = Augmenter(CEAOptions(domain_prompt=PROMPTS, **options), make_table(), D, LABELS, domains, mapping, seed=6)
    made.aligner.set(randn(D, DT, seed=4), randn(D, seed=5))
    return made


# --- Brute force ---


def align(text: torch.Tensor) -> torch.Tensor:
    return randn(D, DT, seed=4).double() @ text.double() + randn(D, seed=5).double()


def class_mean(label: int) -> torch.Tensor:
    """Mean text of the class's captioned samples in the whole pool."""
    table = make_table()
    texts = [table.plain[ROWS[i]] for i in range(N) if LABELS[i] == label and ROWS[i] >= 0]
    return sum(texts) / len(texts) if texts else torch.zeros(DT)


def by_hand(candidates: Candidates, place: str, made: Augmenter) -> torch.Tensor:
    """Eq. 8 and 9, sample by sample, in float64."""
    table, embeddings, options = make_table(), candidates.embeddings.double(), made.options
    prompted = table.prompted[5 * (made.loop % 2) :]
    captioned = [r for r, i in enumerate(candidates.indices.tolist()) if ROWS[i] >= 0]
    scores = {}
    for r in captioned:
        source = prompted if "attention" in options.prompt_in else table.plain
        text = align(source[ROWS[candidates.indices[r]]])
        e = embeddings[r]
        scores[r] = math.exp(float(e @ text / (e.norm() * text.norm())))
    moved = embeddings.clone()
    for r in captioned:
        index, e = int(candidates.indices[r]), embeddings[r]
        source = prompted if place in options.prompt_in else table.plain
        target = align(source[ROWS[index]])
        ratio = e.norm() / target.norm()
        if options.toward == "caption":
            direction = target * ratio - e
        else:
            plain = table.plain[ROWS[index]]
            reference = align(class_mean(int(LABELS[index])) if options.toward == "instance" else plain)
            direction = (target - reference) * ratio
            if options.toward == "random":
                direction = direction.norm() * made.line.double()
        share = scores[r] / sum(scores.values())
        alpha = {
            "none": 1.0,
            "paper": share,
            "mean_one": min(len(captioned) * share, 1 / options.step_size),
        }[options.attention]
        moved[r] = e + options.step_size * alpha * direction
    return moved.float()


EVERYWHERE = ["training", "selection", "attention"]


@every_case(
    ("toward", "prompt_in"),
    [
        *product(["caption", "instance"], [[], ["selection"], ["attention"], EVERYWHERE]),
        *product(["difference", "random"], [["selection"], ["training"], EVERYWHERE]),
    ],
)
@every_case("attention", ["mean_one", "paper", "none"])
@every_case("step_size", [0.2, 0.9])
def test_augment_is_equations_8_and_9_sample_by_sample(toward, attention, prompt_in, step_size):
    made = make_augmenter(
        toward=toward, attention=attention, prompt_in=prompt_in, step_size=step_size, domain_affinity=0.1
    )
    candidates, made.loop = make_candidates(), 3
    found = made.augment(candidates)
    torch.testing.assert_close(found.embeddings, by_hand(candidates, "selection", made), rtol=1e-5, atol=1e-5)
    assert torch.equal(found.indices, candidates.indices)
    missing = ROWS[candidates.indices] < 0
    assert int(missing.sum()) == 2
    assert torch.equal(found.embeddings[missing], candidates.embeddings[missing])


@every_case("prompt_in", [["training"], ["selection"]])
@every_case("place", ["training", "selection"])
def test_the_prompt_acts_only_where_it_should(place, prompt_in):
    made, candidates = make_augmenter(prompt_in=prompt_in), make_candidates()
    texts = made.texts(candidates, place)
    captioned = make_table().captioned(candidates.indices)
    expected = make_table().of(candidates.indices, prompted=place in prompt_in)
    assert torch.equal(texts.targets[texts.target_rows][captioned], expected[captioned])
    moved = made.moved(candidates.embeddings, texts).detach()
    torch.testing.assert_close(moved, by_hand(candidates, place, made), rtol=1e-5, atol=1e-5)


@given(chunk=st.integers(1, 9), order=st.permutations(range(N)))
@settings(deadline=None, max_examples=25)
def test_chunks_and_order_change_nothing(chunk, order):
    made = make_augmenter(toward="instance")
    whole = made.augment(make_candidates(list(range(N)))).embeddings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augmenter, "CHUNK_ROWS", chunk)
        found = made.augment(make_candidates(list(order))).embeddings
    torch.testing.assert_close(found, whole[list(order)], rtol=1e-5, atol=1e-5)


def test_candidates_without_any_caption_stay_as_they_are():
    candidates = make_candidates([2, 6])
    assert torch.equal(make_augmenter().augment(candidates).embeddings, candidates.embeddings)


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(one.double() @ other.double() / (one.double().norm() * other.double().norm()))


@every_case("domains", [1, 3])
def test_affinity_is_relative_to_the_nearest_aligned_prompt(domains):
    made = make_augmenter(domain_affinity=0.5, affinity_by="image")
    candidates, texts = make_candidates(), randn(domains, DT, seed=8)
    found = made.with_affinity(candidates, texts)
    cosines = [max(cosine(e, align(text)) for text in texts) for e in candidates.embeddings]
    expected = torch.tensor([math.exp((one - max(cosines)) / 0.5) for one in cosines]).double()
    torch.testing.assert_close(found.relevance, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.embeddings, candidates.embeddings)


@every_case("scored", [True, False])
def test_affinity_by_caption_is_that_of_the_plain_text(scored):
    made, texts = make_augmenter(domain_affinity=0.5), randn(2, DT, seed=8)
    candidates = make_candidates() if scored else replace(make_candidates(), embeddings=None)
    found, plain = made.with_affinity(candidates, texts), make_table().plain
    cosines = {
        int(index): max(cosine(plain[ROWS[index]], text) for text in texts)
        for index in candidates.indices
        if ROWS[index] >= 0
    }
    mean = sum(cosines.values()) / len(cosines)
    expected = [
        math.exp((cosines.get(index, mean) - max(cosines.values())) / 0.5) for index in candidates.indices.tolist()
    ]
    torch.testing.assert_close(found.relevance, torch.tensor(expected).double(), rtol=1e-5, atol=1e-6)
    assert found.embeddings is candidates.embeddings


def shift(made: Augmenter, candidates: Candidates) -> torch.Tensor:
    return made.augment(candidates).embeddings - candidates.embeddings


def test_the_random_shift_is_as_long_as_the_differences_and_one_direction_for_all():
    candidates = make_candidates()
    difference, control = (shift(make_augmenter(toward=toward), candidates) for toward in ("difference", "random"))
    torch.testing.assert_close(control.norm(dim=1), difference.norm(dim=1), rtol=1e-4, atol=1e-5)
    captioned = make_table().captioned(candidates.indices)
    directions = normalize(control[captioned], dim=1)
    torch.testing.assert_close(directions, directions[:1].expand_as(directions), rtol=0, atol=1e-4)
    assert float((normalize(difference[captioned], dim=1) @ directions[0]).max()) < 0.99


def test_the_random_direction_is_the_seeds():
    options = CEAOptions(domain_prompt=PROMPT, toward="random")
    lines = [Augmenter(options, make_table(), D, None, seed=seed).line for seed in (1, 1, 2)]
    assert torch.equal(lines[0], lines[1]) and not torch.equal(lines[0], lines[2])
    assert float(lines[0].norm()) == pytest.approx(1)


def fit_map(made: Augmenter, loop: int) -> None:
    made.loop = loop
    made.fit_map(make_candidates([i for i in range(N) if ROWS[i] >= 0]))


def test_a_learned_map_moves_each_sample_into_its_own_domain():
    made, candidates = make_augmenter(toward="learned_difference", attention="none", step_size=0.4), make_candidates()
    fit_map(made, 1)
    expected = candidates.embeddings.clone()
    for row, index in enumerate(candidates.indices.tolist()):
        if ROWS[index] >= 0:
            e = candidates.embeddings[row]
            goal = made.mapping.network(e[None], made._domains.in_loop(1)[[index]])[0]
            expected[row] = e + 0.4 * (goal * e.norm() - e)
    torch.testing.assert_close(made.augment(candidates).embeddings, expected, rtol=1e-4, atol=1e-4)


def test_a_learned_map_acts_where_the_prompt_does():
    made, candidates = make_augmenter(toward="learned_difference", prompt_in=["training"]), make_candidates()
    fit_map(made, 0)
    assert not shift(made, candidates).any()
    assert made.texts(candidates, "training").alpha.any()


def test_a_class_without_captions_is_not_among_those_that_a_learned_map_keeps_apart():
    made, given = make_augmenter(toward="learned_difference"), []
    # The class in the middle has none.
    labels = torch.tensor([0, 2, 1])[LABELS]
    made._labels, made.mapping.fit = labels, lambda known, loop: given.append(known)
    made.take(make_table())
    fit_map(made, 0)
    classes, of_samples = given[0].classes, given[0].labels
    captioned = ROWS >= 0
    assert torch.equal(of_samples, labels[captioned] // 2)
    for found, label in zip(classes, (0, 2), strict=True):
        texts = make_table().plain[ROWS[captioned & (labels == label)]]
        torch.testing.assert_close(found, align(texts.double().mean(0)).float(), rtol=1e-4, atol=1e-5)


def test_affinity_keeps_the_order_of_samples_far_from_the_prompt():
    found = domain_affinity(torch.tensor([0.9, 0.4, 0.3, 0.2]), 0.004)
    assert found.tolist() == pytest.approx([1.0, *(math.exp(-0.1 * k / 0.004) for k in (5, 6, 7))], rel=1e-3)


def test_a_learned_map_is_its_data_its_seed_and_its_loop():
    states = []
    for loop in (0, 2, 0):
        made = make_augmenter(toward="learned_difference")
        torch.manual_seed(len(states))
        before = torch.get_rng_state()
        fit_map(made, loop)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(made.mapping.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[2][name]), name
    assert not torch.equal(states[0]["map.out.weight"], states[1]["map.out.weight"])


def test_alignment_rows_are_captioned_and_spread_evenly():
    assert make_augmenter().alignment_rows(make_candidates()).tolist() == [0, 2, 3, 4, 5, 7]
    assert make_augmenter(alignment_samples=2).alignment_rows(make_candidates()).tolist() == [0, 7]
    assert make_augmenter(alignment_samples=3).alignment_rows(make_candidates()).tolist() == [0, 3, 7]
    assert make_augmenter().alignment_rows(make_candidates([2, 6])).tolist() == []


@every_case("toward", ["instance", "learned_difference"])
def test_classes_that_are_not_there_are_told_before_anything_is_encoded(toward):
    callback = CEACallback(StubEncoder(), ["a", "b"], toward=toward, domain_prompt=PROMPT)
    with pytest.raises(ValueError, match=rf'"{toward}" needs one class per sample.*set label_column'):
        callback.read_captions(range(2), None, [])
    assert callback.encoder.forwards == 0


@every_case("toward", ["difference", "instance", "random"])
def test_texts_of_some_samples_hold_each_distinct_text_once(toward):
    made, candidates = make_augmenter(toward=toward), make_candidates()
    whole = made.texts(candidates, "training")
    assert len(whole.targets) < len(candidates) and 0 < len(whole.references) < len(candidates)
    rows = torch.tensor([5, 0])
    for part in (rows, slice(1, 4)):
        moved = made.moved(candidates.embeddings[part], whole.take(part))
        assert torch.equal(moved, made.moved(candidates.embeddings, whole)[part])


# --- Options ---


@every_case(
    ("options", "message"),
    [
        (
            {"attention": "mean-one"},
            "attention is 'mean-one' .did you mean 'mean_one'..; choose one of mean_one, paper",
        ),
        ({"attention": len}, "attention is .*len"),
        ({"alignment": "rigde"}, "alignment is 'rigde' .did you mean 'ridge'"),
        ({"toward": "captions"}, "toward is 'captions' .did you mean 'caption'"),
        ({"act_on": ["trainig"]}, "act_on is 'trainig' .did you mean 'training'"),
        ({"act_on": ["attention"]}, "act_on is 'attention'; choose one of training, selection$"),
        ({"prompt_in": ["selections"]}, "prompt_in is 'selections' .did you mean 'selection'"),
        ({"step_size": -0.1}, "step_size is -0.1; it must be at least 0"),
        ({"step_size": math.inf}, "step_size is inf; it must be at least 0 and finite"),
        ({"step_size": math.nan}, "step_size is nan"),
        ({"alignment_samples": 1}, "alignment_samples is 1; it must be at least 2"),
        ({"domain_affinity": 0.0, "domain_prompt": PROMPT}, "domain_affinity is 0.0; it must be positive"),
        ({"domain_affinity": 0.1}, "domain_affinity needs a domain_prompt"),
        ({"affinity_by": "image"}, "affinity_by='image' needs a domain_affinity"),
        *(
            ({"toward": toward}, f'toward="{toward}" needs a domain_prompt')
            for toward in ("difference", "learned_difference", "random")
        ),
        *(
            ({"domain_prompt": prompt}, "it must be a sentence, a list of sentences, or None")
            for prompt in ("", " ", 3, [], ["It snows.", " "], ["It snows.", None], {"It snows."})
        ),
        *(
            ({"domain_prompt": PROMPT, **options}, "domain_prompt is given, and nothing goes by it: prompt_in is")
            for options in (
                {"prompt_in": []},
                {"prompt_in": ["selection"], "act_on": ["training"]},
                {"prompt_in": ["attention"], "attention": "none"},
            )
        ),
        *(
            (
                {"domain_prompt": PROMPT, "toward": toward, "prompt_in": ["attention"]},
                rf'toward="{toward}" moves nothing where no prompt is: prompt_in is .* name a place of act_on',
            )
            for toward in ("difference", "learned_difference", "random")
        ),
        ({"domain_prompt": ["It", "snows."]}, r"domain_prompt has 2 prompts, and 'It' is a single word: .* quotes"),
    ],
)
def test_an_option_without_meaning_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        CEACallback(StubEncoder(), **options)


# --- The callback ---


class StubEncoder(TextEncoder):
    """Texts embedded by their hash; counts forwards as a TextEncoder does."""

    is_dual, name_or_path = False, "stub"

    def __init__(self):
        self.device, self.forwards, self.truncated = None, 0, 0

    def release(self):
        pass

    def encode(self, texts):
        self.forwards += len(texts)
        seeds = [sum(ord(letter) * (place + 1) for place, letter in enumerate(text)) for text in texts]
        return torch.stack([randn(DT, seed=seed) for seed in seeds])


class DualStub(StubEncoder):
    is_dual = True


def make_head() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(D, 4))


def make_callback(head: nn.Module, captions=None, **options) -> CEACallback:
    callback = CEACallback(
        StubEncoder(), captions or [f"caption {i % 5}" if i != 2 else None for i in range(N)], **options
    )
    callback.read_captions(range(N), LABELS, ["x", "y", "z"])
    callback.prepare(head, D, Accelerator(cpu=True), CostMeter())
    return callback


def passed(head: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What the layer behind the hook sees."""
    seen = []
    handle = head[0].register_forward_hook(lambda module, args, output: seen.append(output))
    head(inputs)
    handle.remove()
    return seen[0]


def in_training(callback: CEACallback, candidates: Candidates, embeddings: torch.Tensor) -> torch.Tensor:
    texts = callback.running.augmenter.texts(candidates, "training")
    return callback.running.augmenter.moved(embeddings, texts).detach()


@pytest.fixture
def run():
    """A head in training mode, its callback in the first loop, and the loop's selected samples."""
    head = make_head().train()
    callback = make_callback(head)
    selected = make_candidates()
    callback.running.begin_loop(selected, refit=True)
    return head, callback, selected


def test_the_batch_that_enters_the_head_in_training_is_moved(run):
    head, callback, selected = run
    rows = torch.tensor([5, 0, 1])
    inputs = 4 * randn(3, D, seed=9)
    with callback.batch(selected.indices[rows]):
        found = passed(head, inputs)
    # Its alpha was settled when the loop began, over all selected samples; the embedding is today's.
    texts = callback.running.augmenter.texts(selected, "training").take(rows)
    torch.testing.assert_close(found, callback.running.augmenter.moved(inputs, texts))
    assert torch.equal(found[2], inputs[2])  # sample 2 has no caption
    assert not torch.equal(found[0], inputs[0])


@pytest.mark.parametrize(
    ("training", "inside", "moved"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_only_in_training_mode_and_inside_a_batch(run, training, inside, moved):
    head, callback, selected = run
    head.train(training)
    inputs = randn(len(selected), D, seed=9)
    with callback.batch(selected.indices) if inside else nullcontext():
        assert torch.equal(passed(head, inputs), inputs) is not moved


def test_after_a_batch_that_failed_nothing_is_moved(run):
    head, callback, selected = run
    inputs = randn(len(selected), D, seed=9)
    with pytest.raises(KeyError), callback.batch(selected.indices):
        raise KeyError
    assert torch.equal(passed(head, inputs), inputs)


def test_maps_of_one_pixel_keep_their_shape(run):
    head, callback, selected = run
    inputs = randn(len(selected), D, seed=9)
    seen = []
    head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with callback.batch(selected.indices):
        flat = passed(head, inputs)
        maps = passed(head, inputs[:, :, None, None])
    assert [tuple(x.shape) for x in seen] == [(8, D), (8, D, 1, 1)]
    assert torch.equal(flat, maps)


def test_a_bf16_input_is_moved_in_float32_and_stays_bf16(run):
    head, callback, selected = run
    inputs = randn(len(selected), D, seed=9).bfloat16()
    with callback.batch(selected.indices), torch.autocast("cpu", torch.bfloat16):
        found = passed(head.bfloat16(), inputs)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, in_training(callback, selected, inputs.float()).bfloat16())


def test_without_training_in_act_on_the_head_is_left_alone():
    head, selected = make_head().train(), make_candidates()
    callback = make_callback(head, act_on=["selection"])
    callback.running.begin_loop(selected, refit=True)
    with callback.batch(selected.indices):
        assert torch.equal(passed(head, selected.embeddings), selected.embeddings)
    assert not torch.equal(callback.running.before_selection(selected).embeddings, selected.embeddings)


def test_without_selection_in_act_on_candidates_are_left_alone():
    callback, candidates = make_callback(make_head(), act_on=["training"]), make_candidates()
    assert callback.running.before_selection(candidates) is candidates


def test_candidates_of_a_selection_by_logits_are_left_alone():
    """The logits of moved embeddings would be others."""
    callback = make_callback(make_head())
    candidates, aligner = make_candidates(), callback.running.augmenter.aligner
    unfitted = aligner.weight.clone()
    assert torch.equal(
        callback.running.before_selection(candidates, go_by_logits=True).embeddings, candidates.embeddings
    )
    assert not torch.equal(aligner.weight, unfitted)
    assert not torch.equal(callback.running.before_selection(candidates).embeddings, candidates.embeddings)


def test_the_alignment_is_fitted_on_the_captions_of_its_loop():
    """Of several captions of a sample, another one is drawn in each."""
    callback = make_callback(make_head(), [(f"caption {i}", f"words {i}") for i in range(N)])
    running = callback.prepare(make_head(), D, Accelerator(cpu=True), CostMeter(), loops=3, seed=1)
    candidates, fitted = make_candidates(), []
    running.augmenter.fit = lambda sources, embeddings: fitted.append(sources)
    for loop in range(3):
        running.enter_loop(loop)
        running.before_selection(candidates)
        assert torch.equal(fitted[loop], running.augmenter.table.of(candidates.indices, prompted=False, loop=loop))
    assert not torch.equal(fitted[0], fitted[1])


def test_affinity_comes_with_a_selection():
    callback = make_callback(make_head(), domain_prompt=PROMPTS, domain_affinity=0.3)
    candidates = callback.running.before_selection(make_candidates())
    assert candidates.relevance is not None and float(candidates.relevance.max()) == 1
    unscored = callback.running.before_selection(replace(make_candidates(), embeddings=None))
    assert unscored.relevance is not None and len(unscored.relevance.unique()) > 3


def test_candidates_that_are_not_scored_are_left_alone():
    candidates = replace(make_candidates(), embeddings=None)
    assert make_callback(make_head(), domain_prompt=PROMPT).running.before_selection(candidates) is candidates


def test_the_hook_goes_with_the_end_of_training(run):
    head, callback, selected = run
    callback.on_train_end(None, None, None)
    with callback.batch(selected.indices):
        assert torch.equal(passed(head, selected.embeddings), selected.embeddings)


def test_preparing_again_leaves_one_hook_and_encodes_nothing_anew():
    head, meter = make_head(), CostMeter()
    callback = make_callback(head)
    assert callback.encoder.forwards == 5
    callback.prepare(head, D, Accelerator(cpu=True), meter)
    assert len(head._forward_pre_hooks) == 1
    assert callback.encoder.forwards == 5 and meter.work["encode_text"].samples == 0


def test_texts_are_counted_where_they_are_encoded():
    callback, meter = CEACallback(StubEncoder(), ["a", "b", "a"], domain_prompt=PROMPT), CostMeter()
    callback.read_captions(range(3), None, [])
    callback.prepare(make_head(), D, Accelerator(cpu=True), meter)
    assert meter.work["encode_text"].samples == 4


@every_case(
    ("options", "texts"),
    [
        ({}, 2 * 2),
        ({"domain_affinity": 0.1}, 2 * 2 + 1),
        ({"prompt_in": [], "domain_affinity": 0.1}, 2 + 1),
        ({"prompt_in": ["selection"], "act_on": ["training"], "domain_affinity": 0.1}, 2 + 1),
        ({"prompt_in": ["attention"], "attention": "none", "domain_affinity": 0.1}, 2 + 1),
        ({"prompt_in": ["attention"]}, 2 * 2),
    ],
)
def test_no_text_is_encoded_that_nothing_goes_by(options, texts):
    callback, meter = CEACallback(StubEncoder(), ["a", "b", "a"], domain_prompt=PROMPT, **options), CostMeter()
    callback.read_captions(range(3), None, [])
    callback.prepare(make_head(), D, Accelerator(cpu=True), meter)
    assert meter.work["encode_text"].samples == texts


def test_another_seed_deals_the_prompts_out_anew():
    callback = CEACallback(StubEncoder(), [f"caption {i}" for i in range(N)], domain_prompt=PROMPTS)
    callback.read_captions(range(N), None, [])

    def texts(loop: int, seed: int) -> torch.Tensor:
        callback.prepare(make_head(), D, Accelerator(cpu=True), CostMeter(), loops=4, seed=seed)
        callback.running.enter_loop(loop)
        return callback.running.augmenter.table.of(torch.arange(N), prompted=True, loop=callback.running.augmenter.loop)

    first, second, other = texts(0, 0), texts(1, 0), texts(0, 1)
    assert bool((first != second).any(dim=1).all())
    assert 0 < int((first != other).any(dim=1).sum()) < N
    assert torch.equal(texts(3, 0), first)


def test_figures_of_a_loop(run):
    _, callback, selected = run
    figures = callback.running.begin_loop(selected, refit=False)
    moved = in_training(callback, selected, selected.embeddings)
    shift = (moved - selected.embeddings).norm(dim=1) / selected.embeddings.norm(dim=1)
    assert figures["cea_relative_shift"] == pytest.approx(float(shift.mean()))
    assert figures["cea_alpha_max"] == pytest.approx(float(callback.running.held.alpha.max()))
    assert figures["cea_missing_captions"] == 1 and figures["cea_truncated_captions"] == 0


@every_case(
    "options",
    [
        {},
        {"toward": "difference", "domain_prompt": PROMPT},
        {"toward": "instance"},
        {"toward": "random", "domain_prompt": PROMPTS},
        {"toward": "learned_difference", "domain_prompt": PROMPTS},
    ],
)
def test_a_resumed_loop_moves_its_batches_alike(options):
    head, selected = make_head().train(), make_candidates()
    callback = make_callback(head, **options)
    callback.running.begin_loop(selected, refit=True)
    resumed_head = make_head().train()
    resumed = make_callback(resumed_head, **options)
    resumed.running.load_state_dict(callback.running.state_dict())
    for rows in (torch.tensor([3, 1]), torch.arange(8)):
        inputs = randn(len(rows), D, seed=9)
        with callback.batch(selected.indices[rows]), resumed.batch(selected.indices[rows]):
            assert torch.equal(passed(head, inputs), passed(resumed_head, inputs))
    for name, tensor in callback.running.state_dict().items():
        assert torch.equal(resumed.running.state_dict()[name], tensor), name


def test_what_a_learned_map_does_is_counted_and_its_gradient_is_the_embeddings():
    head, selected = make_head().train(), make_candidates()
    callback = make_callback(head, toward="learned_difference", domain_prompt=PROMPTS)
    meter = callback.running.augmenter.mapping.meter
    callback.running.begin_loop(selected, refit=True)
    network, captioned = callback.running.augmenter.mapping.network, len(selected) - 1
    per_sample = 2 * (network.hidden.weight.numel() + network.out.weight.numel())
    fitted = STEPS * captioned
    assert meter.work["auxiliary"].samples == fitted + len(selected)
    before = meter.work["auxiliary"].flops
    # Forward, and back to the weights of both layers and to what is hidden, not to the embeddings.
    training = 3 * per_sample - 2 * network.hidden.weight.numel()
    # And the classes' logits: forward, and back to the mapped embeddings.
    training += 2 * 2 * D * (int(LABELS.max()) + 1)
    assert before == fitted * training + len(selected) * per_sample
    inputs = selected.embeddings.clone().requires_grad_()
    with callback.batch(selected.indices):
        head(inputs).square().sum().backward()
    assert meter.work["auxiliary"].samples == fitted + 2 * len(selected)
    assert meter.work["auxiliary"].flops - before == 2 * len(selected) * per_sample
    assert meter.work["auxiliary"].seconds > 0
    assert inputs.grad is not None and all(parameter.grad is None for parameter in network.parameters())


def test_identity_needs_no_candidates_and_refuses_other_sizes():
    with pytest.raises(ValueError, match=f'"identity".* {DT} and {D}'):
        make_callback(make_head(), alignment="identity")
    callback = CEACallback(StubEncoder(), ["a", "b"], alignment="identity")
    callback.read_captions(range(2), None, [])
    callback.prepare(make_head(), DT, Accelerator(cpu=True), CostMeter())
    assert torch.equal(callback.running.augmenter.aligner(torch.eye(DT)), torch.eye(DT))


def test_candidates_without_captions_stay_where_they_are():
    callback, candidates = make_callback(make_head()), make_candidates([2])
    assert torch.equal(callback.running.before_selection(candidates).embeddings, candidates.embeddings)


def test_a_dual_alignment_is_fitted_on_the_encoders_embeddings_of_raw_images():
    shades = [20 * index for index in range(N)]
    images = [Image.new("L", (2, 2), shade) for shade in shades]
    features = datasets.Features({"image": datasets.Image()})
    dataset = datasets.Dataset.from_dict({"image": images}, features=features).with_transform(len)
    callback = CEACallback(DualStub(), [f"caption {shade}" for shade in shades], alignment="dual")
    callback.read_captions(dataset, None, [])
    callback.prepare(make_head(), D, Accelerator(cpu=True), CostMeter())
    asked = []

    def encode_images(images, total):
        images = list(images)
        assert len(images) == total
        assert all(image.mode == "RGB" for image in images)
        asked.extend(image.getpixel((0, 0))[0] for image in images)
        return torch.stack([randn(DT, seed=image.getpixel((0, 0))[0]) for image in images])

    callback.encoder.encode_images = encode_images
    candidates = make_candidates()
    callback.running.before_selection(candidates)
    callback.running.before_selection(candidates)  # Each image is encoded once.
    assert asked == [shades[index] for index in candidates.indices.tolist()]
    encoded = torch.stack([randn(DT, seed=shade) for shade in asked])
    weight, bias = ridge(normalize(encoded, dim=1), candidates.embeddings)
    torch.testing.assert_close(callback.running.augmenter.aligner.weight, weight)
    torch.testing.assert_close(callback.running.augmenter.aligner.bias, bias)


@every_case("dataset", [range(2), datasets.Dataset.from_dict({"picture": [1, 2]})])
def test_a_dual_alignment_without_raw_images(dataset):
    callback = CEACallback(DualStub(), ["a", "b"], alignment="dual")
    with pytest.raises(ValueError, match=r"raw images from the column 'image' .* set image_column"):
        callback.read_captions(dataset, None, [])


def test_a_dual_alignment_without_an_image_tower():
    features = datasets.Features({"x": datasets.Image()})
    dataset = datasets.Dataset.from_dict({"x": [Image.new("L", (2, 2)), Image.new("L", (2, 2))]}, features=features)
    callback = CEACallback(StubEncoder(), ["a", "b"], alignment="dual", image_column="x")
    with pytest.raises(ValueError, match="'stub' has no image tower"):
        callback.read_captions(dataset, None, [])
