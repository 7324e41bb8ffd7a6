#!/usr/bin/env bash
# SigLIP's text embeddings by sentence-transformers depend on the other texts of the batch.
#
# Versions: sentence-transformers 6.2.0, transformers 5.23.0, torch 2.14.1.
# Expected: one text has one embedding, alone or beside others, as with every encoder that masks its padding.
# Seen: SigLIP was trained on texts padded to its full window, without a mask, and pools the last position
#   (transformers' page of SigLIP asks for padding="max_length"). sentence-transformers loads a SigLIP checkpoint
#   without complaint and pads to the longest text of the batch. So a short text alone is pooled at its own last
#   token, beside a longer one at a padding token, and at full length it is a third vector. Below, with a tiny model
#   of random weights: the cosine of the same text, alone and beside a longer one, is far from 1, and neither is the
#   embedding that the model was trained to give.
# Whom it hurts: who ranks images by prompts, or aligns captions to images, with a SigLIP id in sentence-transformers.
# Instead: processing_kwargs={"text": {"padding": "max_length"}}, which gives the trained embedding (shown below).
# The same was mended in vLLM (pull request 51157).
#
# Observed, a tiny SigLIP, cosines:
#   the same text, alone and beside a longer one: 0.494
#   as trained, and alone: 0.658; and beside a longer one: 0.901; and with processing_kwargs: 1.0
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" sentence-transformers==6.2.0 transformers==5.23.0 torch==2.14.1 pillow==13.0.0

python - siglip 2> /dev/null <<'PYTHON'
import sys

import torch
import transformers as tf
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors

folder, window = sys.argv[1], 12
words = ["<pad>", "<unk>", "</s>", "a", "photo", "of", "dog", "on", "the", "beach", "in", "winter"]
backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
tokenizer = tf.PreTrainedTokenizerFast(
    tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=window,
    model_input_names=["input_ids"],  # As the published checkpoints have it: no mask.
)
sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
text = {**sizes, "vocab_size": len(words), "max_position_embeddings": window, "projection_size": 32}
torch.manual_seed(0)
model = tf.SiglipModel(
    tf.SiglipConfig(text_config=text, vision_config={**sizes, "image_size": 16, "patch_size": 8})
).eval()
for parameter in model.parameters():  # Larger than at the start of a training, as trained weights are.
    if parameter.dim() > 1:
        torch.nn.init.normal_(parameter, std=0.3)
for part in (model, tokenizer, tf.SiglipImageProcessor(size={"height": 16, "width": 16})):
    part.save_pretrained(folder)

short, long = "dog", "a photo of a dog on the beach in winter"
tokens = tokenizer([short], padding="max_length", return_tensors="pt")
with torch.no_grad():
    trained = model.get_text_features(input_ids=tokens["input_ids"])
trained = getattr(trained, "pooler_output", trained)[0]

def cosine(one, other):
    return round(float(torch.nn.functional.cosine_similarity(one, other, dim=0)), 3)

encoder = SentenceTransformer(folder, device="cpu")
alone = encoder.encode([short], convert_to_tensor=True)[0]
beside = encoder.encode([short, long], convert_to_tensor=True)[0]
padded = SentenceTransformer(folder, device="cpu")
padded[0].processing_kwargs = {"text": {"padding": "max_length"}}
full = padded.encode([short, long], convert_to_tensor=True)[0]
print("the same text, alone and beside a longer one:", cosine(alone, beside))
print("as trained, and alone:", cosine(trained, alone))
print("as trained, and beside a longer one:", cosine(trained, beside))
print("as trained, and with processing_kwargs:", cosine(trained, full))
assert cosine(alone, beside) < 0.95 and cosine(trained, alone) < 0.95 and cosine(trained, beside) < 0.95
assert cosine(trained, full) > 0.999
PYTHON
