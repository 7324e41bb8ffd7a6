"""`Candidates` checks itself and names the sample that is wrong."""

from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from every_case import every_case

from vecaf_hf.selection.candidates import Candidates, LinearHead


def make(**changes) -> Candidates:
    values = {
        "indices": torch.tensor([8, 2, 5, 11]),
        "embeddings": torch.arange(12.0).reshape(4, 3),
        "losses": torch.tensor([0.0, 1.0, 2.0, 3.0]),
        "labels": torch.tensor([1, 0, 1, 2]),
        "logits": torch.arange(8.0).reshape(4, 2),
        "relevance": torch.tensor([1.0, 0.5, 0.0, 2.0]),
        "selected": torch.tensor([False, True, False, True]),
        "irreducible": torch.tensor([0.5, -0.5, 0.0, 1.0]),
        "training_losses": torch.tensor([0.5, 1.5, 0.0, 1.0]),
        "learned_scores": torch.tensor([-0.5, 1.5, 0.0, 1.0]),
        "head": LinearHead(torch.arange(6.0).reshape(2, 3), torch.tensor([0.5, -0.5])),
        "progress": 0.5,
    }
    return Candidates(**(values | changes))


def assert_equal(first: Candidates, second: Candidates) -> None:
    for field in fields(Candidates):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, float):
            a, b = torch.tensor(a), torch.tensor(b)
        if isinstance(a, LinearHead):
            a, b = torch.cat([a.weight, a.bias[:, None]], 1), torch.cat([b.weight, b.bias[:, None]], 1)
        assert a is b or torch.equal(a, b), field.name


def test_everything_but_the_indices_is_optional():
    bare = Candidates(torch.tensor([4, 2]))
    assert len(bare) == 2
    given = {"indices", "processes"}
    assert all(getattr(bare, field.name) is None for field in fields(Candidates) if field.name not in given)
    assert bare.in_pool_order().indices.tolist() == [2, 4]
    assert len(Candidates(torch.zeros(0, dtype=torch.long), losses=torch.zeros(0))) == 0


@every_case(
    ("changes", "message"),
    [
        ({"indices": torch.tensor([8.0, 2.0, 5.0, 11.0])}, r"indices must be a LongTensor \[M\]"),
        ({"indices": torch.tensor([[8, 2, 5, 11]])}, r"indices must be a LongTensor \[M\]"),
        ({"indices": torch.tensor([8, 2, 8, 11])}, "indices must be distinct"),
        ({"embeddings": torch.zeros(4)}, "embeddings must have 2 dimension"),
        ({"embeddings": torch.zeros(3, 3)}, r"embeddings must have .* 4 rows, got torch.float32 \[3, 3\]"),
        ({"losses": torch.zeros(4, 1)}, "losses must have 1 dimension"),
        ({"losses": torch.zeros(5)}, "losses must have .* 4 rows"),
        ({"labels": torch.zeros(3)}, "labels has 3 rows for 4 samples"),
        ({"logits": torch.zeros(4)}, "logits must have 2 dimension"),
        ({"relevance": torch.zeros(4, 2)}, "relevance must have 1 dimension"),
        ({"irreducible": torch.zeros(3)}, "irreducible must have .* 4 rows"),
        ({"selected": torch.zeros(3, dtype=torch.bool)}, "selected must have .* 4 rows"),
        ({"selected": torch.zeros(4)}, r"selected must be a BoolTensor \[M\], got torch.float32 \[4\]"),
        ({"embeddings": torch.zeros(4, 2)}, r"the head takes 3 features, and embeddings are torch.float32 \[4, 2\]"),
    ],
)
def test_shapes_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@every_case("bad", [float("nan"), float("inf"), float("-inf")])
@every_case("name", ["embeddings", "losses", "logits", "relevance", "irreducible", "learned_scores"])
def test_values_that_are_not_finite_name_the_samples_index_in_the_pool(name, bad):
    values = getattr(make(), name).clone()
    values[2] = bad
    with pytest.raises(ValueError, match=rf"^{name} of sample 5 is not finite \(1 such samples\)"):
        make(**{name: values})


def test_a_loss_that_training_has_not_seen_is_not_a_number_and_no_other_may_be():
    unseen = torch.tensor([torch.nan, 1.0, torch.nan, 2.0])
    assert make(training_losses=unseen).training_losses is unseen
    assert len(make(training_losses=torch.full((4,), torch.nan))) == 4
    for bad in (torch.inf, -torch.inf):
        unseen = torch.tensor([torch.nan, 1.0, bad, 2.0])
        with pytest.raises(ValueError, match=r"^training_losses of sample 5 is not finite \(1 such samples\)"):
            make(training_losses=unseen)


def test_infinities_that_cancel_are_found_and_counted():
    embeddings = torch.zeros(4, 3)
    embeddings[1, 0], embeddings[1, 1], embeddings[3, 0] = torch.inf, torch.inf, -torch.inf
    with pytest.raises(ValueError, match=r"embeddings of sample 2 is not finite \(2 such samples\)"):
        make(embeddings=embeddings)


def test_a_sum_that_overflows_is_no_error():
    assert len(make(embeddings=torch.full((4, 3), 6e4, dtype=torch.float16))) == 4
    assert len(make(losses=torch.full((4,), 3e38))) == 4


@every_case("name", ["losses", "relevance"])
def test_negative_values_name_the_samples_index_in_the_pool(name):
    values = torch.tensor([0.0, 1.0, 1.0, -0.25])
    with pytest.raises(ValueError, match=rf"^{name} of sample 11 is -0.25"):
        make(**{name: values})


def test_embeddings_and_logits_may_be_negative():
    assert len(make(embeddings=-torch.ones(4, 3), logits=-torch.ones(4, 2))) == 4


def test_labels_may_be_multi_label_targets():
    assert make(labels=torch.zeros(4, 7)).labels.shape == (4, 7)


def test_take_rows_or_a_mask():
    taken = make().take(torch.tensor([3, 1]))
    assert taken.indices.tolist() == [11, 2]
    assert taken.labels.tolist() == [2, 0]
    assert taken.embeddings.tolist() == [[9, 10, 11], [3, 4, 5]]
    assert_equal(make().take(torch.tensor([False, True, False, True])), make().take(torch.tensor([1, 3])))
    assert make(relevance=None).take(torch.tensor([0])).relevance is None


def test_pool_order():
    ordered = make().in_pool_order()
    assert ordered.indices.tolist() == [2, 5, 8, 11]
    assert_equal(ordered, make().take(torch.tensor([1, 2, 0, 3])))
    assert ordered.in_pool_order() is ordered
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        assert_equal(make().take(torch.tensor(order)).in_pool_order(), ordered)


def test_to_moves_every_field():
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        moved = make(relevance=None).to(device)
        assert moved.embeddings.device.type == moved.indices.device.type == device
        assert_equal(moved.to("cpu"), make(relevance=None))


def test_is_frozen():
    with pytest.raises(FrozenInstanceError):
        make().losses = torch.zeros(4)


def test_a_linear_head_gives_the_logits_of_its_layer():
    layer = torch.nn.Linear(3, 2)
    head = LinearHead(layer.weight.detach(), layer.bias.detach())
    torch.testing.assert_close(head.logits(make().embeddings), layer(make().embeddings).detach())
    assert make(head=head).take(torch.tensor([1])).head is head


@every_case(("weight", "bias"), [((2, 3), (3,)), ((2, 3), (2, 1)), ((2,), (2,))])
def test_a_linear_head_of_another_shape_is_refused(weight, bias):
    with pytest.raises(ValueError, match=r"a linear head has a weight \[C, d\] and a bias \[C\]"):
        LinearHead(torch.zeros(weight), torch.zeros(bias))
