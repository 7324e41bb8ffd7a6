"""A caption for each sample, or the reason why there is none."""

import datasets
import pytest
import torch
from datasets import Features, Image, Value
from every_case import every_case

from vecaf_hf.text.captions import CaptionTable, caption_table, find_captions, texts_of, with_captions, with_prompt
from vecaf_hf.text.domains import Domains

NAMES = ["cat", "dog"]


class StubEncoder:
    """Embeds a text by its length and first letter, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def encode(self, texts):
        self.asked.append(list(texts))
        return torch.tensor([[float(len(text)), float(ord(text[0]))] for text in texts])


def find(captions, dataset=range(2), labels=None, names=NAMES):
    return find_captions(captions, dataset, labels, names)


def images_with(captions) -> datasets.Dataset:
    """A dataset whose images cannot be decoded."""
    features = Features({"image": Image(), "caption": Value("string")})
    broken = [{"bytes": b"no image", "path": None} for _ in captions]
    return datasets.Dataset.from_dict({"image": broken, "caption": captions}, features=features)


# --- From a column ---


def never(_):
    raise AssertionError("the transform was called")


@every_case("transform", [None, never])
def test_a_column_is_read_without_transform_or_decoding(transform):
    dataset = images_with(["a cat", None, "a dog"])
    if transform:
        dataset = dataset.with_transform(transform)
    assert find("caption", dataset) == ["a cat", None, "a dog"]


def test_a_selected_or_formatted_dataset_keeps_its_order():
    dataset = images_with(["a", "b", "c"]).select([2, 0]).with_format("torch")
    assert find("caption", dataset) == ["c", "a"]


def test_a_missing_column_names_those_there_are():
    with pytest.raises(ValueError, match="no column 'captoin'; its columns are image, caption"):
        find("captoin", images_with(["a"]))


def test_a_column_of_a_dataset_without_columns():
    dataset = torch.utils.data.TensorDataset(torch.zeros(2))
    with pytest.raises(ValueError, match=r"captions='caption' names a column.*TensorDataset.*pass a list"):
        find("caption", dataset)


# --- From a list ---


def test_a_list_or_tuple_aligned_with_the_pool():
    assert find(["a cat", None]) == ["a cat", None]
    assert find(("a cat", "a {label}")) == ["a cat", "a {label}"]


@every_case("blank", [None, "", "  ", "\n\t"])
def test_a_missing_empty_or_blank_caption_is_none(blank):
    assert find(["a cat", blank]) == ["a cat", None]
    assert find("caption", images_with(["a cat", blank])) == ["a cat", None]


@every_case("captions", [[], ["a"], ["a", "b", "c"]])
def test_a_list_of_another_length(captions):
    with pytest.raises(ValueError, match=f"captions has {len(captions)} entries .* of 2 samples"):
        find(captions)


@every_case("bad", [3, 1.5, {"a cat"}, b"a cat"])
def test_a_caption_that_is_no_text_names_its_sample(bad):
    with pytest.raises(ValueError, match=f"caption of sample 1 is a {type(bad).__name__}, not text"):
        find(["a cat", bad])


def test_a_column_that_is_no_text_names_its_sample():
    with pytest.raises(ValueError, match="caption of sample 0 is a int, not text"):
        find("number", datasets.Dataset.from_dict({"number": [7, 8]}))


# --- From a template ---


def test_a_template_over_class_names():
    found = find("a {label}, not a { or %s", labels=torch.tensor([1, 0, 1]), dataset=range(3))
    assert found == ["a dog, not a { or %s", "a cat, not a { or %s", "a dog, not a { or %s"]


def test_a_template_without_labels():
    with pytest.raises(ValueError, match=r"'a {label}' needs one class per sample.*name it with label_column"):
        find("a {label}", labels=None)


def test_a_label_without_a_name():
    with pytest.raises(ValueError, match="label 2 of sample 1 has no name: there are 2 class names"):
        find("a {label}", labels=torch.tensor([0, 2]))


@every_case("label", [-1, -99])
def test_a_negative_label_is_not_counted_from_the_end(label):
    with pytest.raises(ValueError, match=rf"label {label} of sample 1 has no name: there are 2 class names.*id2label"):
        find("a {label}", labels=torch.tensor([0, label]))


def test_classes_that_a_config_only_numbers_have_no_names():
    with pytest.raises(ValueError, match=r"needs names of classes.* only LABEL_0 and so on: give it an id2label"):
        find("a {label}", labels=torch.tensor([0, 1]), names=["LABEL_0", "LABEL_1"])


def test_a_template_without_its_field_is_no_column():
    with pytest.raises(ValueError, match=r"captions='a {lable}' is no column, and a template .* has {label}"):
        find("a {lable}", images_with(["a"]))


@every_case("captions", [[None, None], ["", " "]])
def test_a_pool_in_which_no_caption_is_left(captions):
    with pytest.raises(ValueError, match=r"no sample .* has a caption: all 2 are missing, empty or blank"):
        find(captions)


# --- Their embeddings ---


def test_texts_are_of_the_captions_given_and_else_of_the_column_caption():
    dataset = images_with(["a dog", None])
    assert texts_of(None, dataset, None, []) == ["a dog", None]
    assert texts_of([("a cat", "asleep"), ""], dataset, None, []) == ["a cat / asleep", None]
    assert texts_of("a {label}", dataset, torch.tensor([1, 0]), NAMES) == [f"a {NAMES[1]}", f"a {NAMES[0]}"]
    assert texts_of(None, dataset.remove_columns("caption"), None, []) is texts_of(None, range(2), None, []) is None


def test_each_distinct_caption_is_encoded_once():
    encoder = StubEncoder()
    table = caption_table(["dog", None, "a cat", "dog"], None, encoder)
    assert encoder.asked == [["dog", "a cat"]]
    assert table.rows.tolist() == [0, -1, 1, 0]
    assert table.missing == 1
    assert table.prompted is table.plain
    assert table.captioned(torch.tensor([3, 1])).tolist() == [True, False]
    assert torch.equal(table.of(torch.tensor([3, 2]), prompted=False), table.plain[[0, 1]])


def test_prompted_captions_stand_beside_the_plain_ones():
    encoder = StubEncoder()
    table = caption_table(["dog", "a cat", "dog"], Domains.deal(["It's foggy."], 3, 5, 0), encoder)
    assert encoder.asked == [["dog", "a cat"], ["dog. It's foggy.", "a cat. It's foggy."]]
    assert table.plain.shape == table.prompted.shape == (2, 2)
    rows = torch.tensor([2, 1])
    assert torch.equal(table.of(rows, prompted=True), table.prompted[[0, 1]])
    assert torch.equal(table.of(rows, prompted=False), table.plain[[0, 1]])


PROMPTS = ["It snows.", "It rains!", "It is foggy."]


@every_case("loops", [1, 2, 3, 5])
def test_only_pairs_of_caption_and_prompt_that_occur_are_encoded(loops):
    """Sample by sample and loop by loop, the text is the sample's own with the prompt that it was dealt."""
    encoder, captions = StubEncoder(), ["dog", None, "a cat", "dog", "bird", None, "a cat", "ant"]
    domains = Domains.deal(PROMPTS, len(captions), loops, seed=3)
    table = caption_table(captions, domains, encoder)
    expected = {
        (caption, PROMPTS[int(domains.in_loop(loop)[index])])
        for loop in range(loops)
        for index, caption in enumerate(captions)
        if caption
    }
    plain, prompted = encoder.asked
    assert plain == ["dog", "a cat", "bird", "ant"]
    assert sorted(prompted) == sorted(with_prompt(*pair) for pair in expected)
    for loop in range(loops):
        for index, caption in enumerate(captions):
            if caption is not None:
                text = with_prompt(caption, PROMPTS[int(domains.in_loop(loop)[index])])
                found = table.of(torch.tensor([index]), prompted=True, loop=loop)[0]
                torch.testing.assert_close(found, table.prompted[prompted.index(text)])
    texts, rows = table.texts(prompted=True, loop=0)
    assert (rows < 0).nonzero()[:, 0].tolist() == [1, 5] and int(rows.max()) < len(texts)


def test_captions_that_come_in_rounds_have_the_prompts_of_their_samples():
    captions, encoder = ["dog", "a cat", None, "ant", "bird"], StubEncoder()
    domains = Domains.deal(PROMPTS, 5, 2, seed=1)
    whole = caption_table(captions, domains, encoder)
    table = CaptionTable.empty(5, 2)
    for part in ([3, 2], [0], [1, 4]):
        table = with_captions(table, torch.tensor(part), [captions[index] for index in part], domains, encoder)
    indices = torch.tensor([0, 1, 3, 4])
    for loop in range(3):
        for prompted in (False, True):
            found, expected = (one.of(indices, prompted, loop) for one in (table, whole))
            torch.testing.assert_close(found, expected)
    assert table.rows[2] == -1 and bool((table.prompted_rows[:, 2] == -1).all())


def test_a_pool_without_any_caption():
    with pytest.raises(ValueError, match="no sample of the training dataset has a caption"):
        caption_table([None, None], None, StubEncoder())


def test_an_embedding_that_is_not_finite_names_its_caption():
    class Overflows(StubEncoder):
        def encode(self, texts):
            return super().encode(texts) * torch.tensor([[torch.inf if "cat" in text else 1.0] for text in texts])

    with pytest.raises(ValueError, match=r"embedding of 'a cat' is not finite \(1 of 2 distinct captions\)"):
        caption_table(["dog", "a cat", "dog"], None, Overflows())


def test_a_sample_without_a_caption_has_some_finite_text():
    table = CaptionTable(torch.tensor([-1, 0]), torch.ones(1, 3), torch.ones(1, 3), torch.tensor([[-1, 0]]))
    assert table.of(torch.tensor([0]), prompted=True).shape == (1, 3)


@every_case(
    ("caption", "expected"),
    [
        ("a cat", "a cat. It snows."),
        ("a cat.", "a cat. It snows."),
        ("a cat! ", "a cat! It snows."),
        ("is it a cat?", "is it a cat? It snows."),
        (" a cat\n", "a cat. It snows."),
        (".", ". It snows."),
    ],
)
def test_the_prompt_is_a_sentence_behind_the_caption(caption, expected):
    assert with_prompt(caption, " It snows. ") == expected
