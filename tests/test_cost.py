"""Seconds booked once, FLOPs as counted by hand."""

import json

import pytest
import timm
import torch
from every_case import every_case
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from vecaf_hf.cost import FULL_SIZE, KINDS, TRAINING_FACTOR, CostMeter


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until the test moves it."""

    class Clock:
        now = 100.0

        def passes(self, seconds):
            self.now += seconds

    made = Clock()
    monkeypatch.setattr("vecaf_hf.cost.time.perf_counter", lambda: made.now)
    return made


def seconds(meter: CostMeter) -> dict[str, float]:
    return {kind: work.seconds for kind, work in meter.work.items() if work.seconds}


def test_a_block_inside_another_books_on_its_own_kind_alone(clock):
    meter = CostMeter()
    clock.passes(50)  # before anything runs
    with meter.timed("train"):
        clock.passes(1)
        with meter.timed("score"):
            clock.passes(2)
            with meter.timed("select"):
                clock.passes(4)
            clock.passes(8)
        clock.passes(16)
    clock.passes(50)
    with meter.timed("score"):
        clock.passes(32)
    assert seconds(meter) == {"train": 17, "score": 42, "select": 4}


def test_the_same_kind_inside_itself_is_booked_once(clock):
    meter = CostMeter()
    with meter.timed("score"), meter.timed("score"):
        clock.passes(3)
    assert seconds(meter) == {"score": 3}


def test_a_block_that_fails_is_booked_and_closed(clock):
    meter = CostMeter()
    with meter.timed("train"):
        with pytest.raises(KeyError), meter.timed("score"):
            clock.passes(2)
            raise KeyError
        clock.passes(1)
    assert seconds(meter) == {"score": 2, "train": 1}


def test_start_and_stop_are_a_block(clock):
    meter = CostMeter()
    meter.start("train")
    clock.passes(2)
    with meter.timed("evaluate"):
        clock.passes(3)
    meter.stop()
    clock.passes(9)
    assert seconds(meter) == {"train": 2, "evaluate": 3}


def test_a_state_taken_inside_a_block_counts_up_to_then(clock):
    meter = CostMeter()
    meter.start("train")
    clock.passes(2)
    assert meter.state_dict()["work"]["train"]["seconds"] == 2
    clock.passes(3)
    meter.stop()
    assert seconds(meter) == {"train": 5}


def flops_of(layer: nn.Module, inputs: torch.Tensor) -> float:
    meter = CostMeter()
    with meter.forward("score", len(inputs)), torch.inference_mode():
        layer(inputs)
    assert (meter.work["score"].samples, meter.work["score"].flops) == (
        len(inputs),
        len(inputs) * meter.forward_flops[FULL_SIZE],
    )
    return meter.forward_flops[FULL_SIZE]


def test_flops_of_a_linear_layer_and_a_convolution():
    assert flops_of(nn.Linear(7, 5), torch.zeros(6, 7)) == 2 * 7 * 5
    # Each of 4 x 4 x 4 outputs sums 3 x 3 x 3 products.
    convolution = nn.Conv2d(3, 4, kernel_size=3, padding=1, stride=2)
    assert flops_of(convolution, torch.zeros(2, 3, 8, 8)) == 2 * (4 * 4 * 4) * (3 * 3 * 3)


def test_flops_of_attention():
    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    # Scores and values, each 5 x 5 x 8 products in 2 heads.
    assert flops_of(Attention(), torch.zeros(3, 2, 5, 8)) == 2 * 2 * (2 * 5 * 5 * 8)


# --- Whole models, counted by hand ---


@pytest.fixture(scope="module")
def vit() -> ViTForImageClassification:
    sizes = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 20}
    config = ViTConfig(image_size=32, patch_size=8, num_labels=7, **sizes)
    return ViTForImageClassification(config).eval()


def vit_products() -> int:
    """Multiplications with an addition, of one image."""
    width, layers, mlp, classes = 12, 3, 20, 7
    patches = (32 // 8) ** 2
    tokens = patches + 1  # and the class token
    patch_embedding = patches * (3 * 8 * 8) * width
    query_key_value = 3 * tokens * width * width
    # The heads share the width.
    scores, values = tokens * tokens * width, tokens * tokens * width
    projection = tokens * width * width
    expansion_and_contraction = 2 * tokens * width * mlp
    layer = query_key_value + scores + values + projection + expansion_and_contraction
    head = width * classes
    return patch_embedding + layers * layer + head


def test_flops_of_a_vit(vit):
    assert flops_of(vit, torch.zeros(5, 3, 32, 32)) == 2 * vit_products()


def test_training_counts_as_three_forwards_and_takes_about_as_many(vit):
    images, meter = torch.zeros(5, 3, 32, 32), CostMeter()
    with meter.forward("score", 5), torch.inference_mode():
        vit(images)
    meter.add_training(5)
    assert meter.work["train"].flops == 3 * 5 * 2 * vit_products()
    with meter.measured("select"):
        vit(images, labels=torch.zeros(5, dtype=torch.long)).loss.backward()
    vit.zero_grad()
    # No gradient of the images.
    patch_embedding = 16 * (3 * 8 * 8) * 12
    assert meter.work["select"].flops == meter.work["train"].flops - 5 * 2 * patch_embedding


# Of EfficientNet-Lite0 (Tan and Le 2019, Table 1; without squeeze and excitation): kernel, stride of the first block,
# expansion, channels, blocks.
STAGES = [
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
]


def lite0_products(side: int) -> int:
    """Multiplications with an addition, of one square image."""
    side = -(-side // 2)
    stem = side * side * (3 * 3) * 3 * 32
    total, channels = stem, 32
    for kernel, stride, expansion, out, blocks in STAGES:
        for block in range(blocks):
            wide = expansion * channels
            if expansion > 1:
                total += side * side * channels * wide
            if block == 0:
                side = -(-side // stride)
            depthwise = side * side * kernel * kernel * wide
            projection = side * side * wide * out
            total += depthwise + projection
            channels = out
    last_convolution = side * side * 320 * 1280
    classifier = 1280 * 1000
    return total + last_convolution + classifier


@every_case(("side", "images"), [(64, 3), (75, 1), (224, 1)])
def test_flops_of_a_convolutional_network(side, images):
    model = timm.create_model("efficientnet_lite0", pretrained=False).eval()
    assert flops_of(model, torch.zeros(images, 3, side, side)) == 2 * lite0_products(side)


def test_the_convolutional_networks_published_figure():
    """0.4 GMACs at 224 pixels, in timm's table."""
    assert round(lite0_products(224) / 1e9, 1) == 0.4


def test_only_the_first_forward_is_measured_and_processes_count():
    meter = CostMeter()
    with meter.forward("score", samples=6):
        nn.Linear(7, 5)(torch.zeros(6, 7))
    with meter.forward("score", samples=4, processes=3):
        pass
    assert meter.forward_flops == {FULL_SIZE: 70}
    assert (meter.work["score"].samples, meter.work["score"].flops) == (6 + 12, 70 * 18)


def test_each_size_of_images_is_measured_and_training_counts_at_full_size():
    meter, convolution = CostMeter(), nn.Conv2d(3, 4, kernel_size=1)
    small, full = 2 * 4 * 3 * 2 * 2, 2 * 4 * 3 * 8 * 8
    with meter.forward("score", 2, processes=2, size="2"):
        convolution(torch.zeros(2, 3, 2, 2))
    with meter.forward("score", 5):
        convolution(torch.zeros(5, 3, 8, 8))
    with meter.forward("score", 3, size="2"):
        pass
    meter.add_training(6)
    meter.add_forwards("evaluate", 7)
    assert meter.forward_flops == {"2": small, FULL_SIZE: full}
    assert (meter.work["score"].samples, meter.work["score"].flops) == (4 + 5 + 3, 7 * small + 5 * full)
    assert meter.work["train"].flops == TRAINING_FACTOR * 6 * full
    assert meter.work["evaluate"].flops == 7 * full


def test_a_pass_of_another_network_counts_by_its_name_and_factor():
    meter = CostMeter()
    for _ in range(2):
        with meter.forward("auxiliary", 6, processes=2, size="predictor", factor=TRAINING_FACTOR):
            nn.Linear(7, 5)(torch.zeros(6, 7))
    assert meter.forward_flops == {"predictor": 70}
    assert (meter.work["auxiliary"].samples, meter.work["auxiliary"].flops) == (24, 3 * 24 * 70)


def test_a_forward_that_fails_is_neither_counted_nor_measured():
    meter = CostMeter()
    with pytest.raises(torch.OutOfMemoryError), meter.forward("score", 6):
        nn.Linear(7, 5)(torch.zeros(6, 7))
        raise torch.OutOfMemoryError
    assert meter.work["score"].samples == 0 and not meter.forward_flops[FULL_SIZE]


def test_a_pass_counts_by_what_was_measured():
    meter = CostMeter()
    meter.forward_flops[FULL_SIZE] = 11.0
    meter.add_forwards("score", 3)
    meter.add_forwards("score", 4)
    meter.add_forwards("evaluate", 2)
    meter.add_training(5)
    meter.add("select", samples=1, flops=0.5)
    found = {kind: (work.samples, work.flops) for kind, work in meter.work.items()}
    assert found == {
        "score": (7, 77),
        "select": (1, 0.5),
        "caption": (0, 0),
        "encode_text": (0, 0),
        "auxiliary": (0, 0),
        "train": (5, TRAINING_FACTOR * 55),
        "evaluate": (2, 22),
    }


def test_another_meters_work_is_counted_too(clock):
    meter, other = CostMeter(), CostMeter()
    meter.add("auxiliary", 3, 1.0)
    other.add("auxiliary", 2, 5.0)
    with other.timed("auxiliary"):
        clock.passes(4)
    meter.add_work(other)
    assert vars(meter.work["auxiliary"]) == {"samples": 3 + 2, "flops": 1 + 5, "seconds": 4}
    assert vars(other.work["auxiliary"]) == {"samples": 2, "flops": 5, "seconds": 4}


def test_a_measured_block_books_seconds_and_flops(clock):
    meter = CostMeter()
    with meter.measured("encode_text"):
        nn.Linear(7, 5)(torch.zeros(6, 7))
        clock.passes(2)
    work = meter.work["encode_text"]
    assert (work.seconds, work.flops, work.samples) == (2, 6 * 2 * 7 * 5, 0)


def test_forgetting_keeps_what_was_measured(clock):
    meter = CostMeter()
    meter.forward_flops[FULL_SIZE] = 11.0
    with meter.timed("train"):
        clock.passes(1)
    meter.add_forwards("score", 3)
    meter.forget_work()
    assert meter.forward_flops[FULL_SIZE] == 11 and not seconds(meter)
    assert all(work.samples == work.flops == 0 for work in meter.work.values())


def test_state_round_trip_through_json(clock):
    meter = CostMeter()
    meter.forward_flops[FULL_SIZE] = 11.0
    with meter.timed("train"):
        clock.passes(1.5)
    meter.add_training(3)
    resumed = CostMeter()
    resumed.load_state_dict(json.loads(json.dumps(meter.state_dict())))
    assert resumed.state_dict() == meter.state_dict() and resumed.work.keys() == KINDS.keys()
    resumed.add_forwards("score", 2)
    with resumed.timed("train"):
        clock.passes(2)
    assert resumed.work["train"].seconds == 3.5 and resumed.work["score"].flops == 22
    assert meter.work["score"].flops == 0


def test_a_state_from_before_a_kind_existed():
    meter = CostMeter()
    meter.load_state_dict({"work": {"train": {"samples": 3, "flops": 1.0, "seconds": 2.0}}, "forward_flops": {}})
    assert meter.work["train"].samples == 3 and meter.work["score"].samples == 0
