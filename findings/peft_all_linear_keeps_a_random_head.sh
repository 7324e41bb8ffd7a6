#!/usr/bin/env bash
# LoRA on "all-linear" of an image classifier leaves the new head's random part out of the saved adapter.
#
# Packages:   peft 0.21.2, transformers 5.23.0, torch 2.14.1.
# Expected:   The reference to LoraConfig says of "all-linear" that it takes all linear layers, without the output layer
#             if the model is a PreTrainedModel. The classifier of ViTForImageClassification is its output layer.
# Happens:    Only models of text with output embeddings, and those of the task SEQ_CLS, have their head left out. The new
#             classifier of an image model gets LoRA like any layer: its random weights are frozen, and are not in the
#             adapter's file. In the session that trained it, all is well. Loaded again on the backbone, the adapter
#             meets other random weights. Nothing warns. (With few classes and long training, little may be lost.)
# Hurts:      Whoever finetunes ViT, DINO, Swin, SigLIP for classes with LoRA and saves the adapter: the run's own
#             evaluation is right, and every later one is wrong.
# Avoid:      `modules_to_save=["classifier"]`, which also keeps "all-linear" away from it.
#
# Observed, a small ViT on 100 classes, accuracy:
#   "all-linear":                      trained 0.81, loaded again 0.36
#   and modules_to_save of the head:   trained 1.00, loaded again 1.00
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" peft==0.21.2 transformers==5.23.0 torch==2.14.1 numpy==2.4.6

python - <<'PYTHON'
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import ViTConfig, ViTForImageClassification, ViTModel, set_seed

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
set_seed(0)
config = ViTConfig(
    hidden_size=192, intermediate_size=192, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
)
ViTModel(config).save_pretrained("backbone")
centres = torch.randn(100, 3, 16, 16)


def drawn(number, generator):
    labels = torch.randint(0, 100, (number,), generator=generator)
    return centres[labels] + 0.5 * torch.randn(number, 3, 16, 16, generator=generator), labels


def backbone_with_new_head(seed):
    set_seed(seed)
    return ViTForImageClassification.from_pretrained("backbone", num_labels=100)


def accuracy(model):
    images, labels = drawn(500, torch.Generator().manual_seed(9))
    with torch.no_grad():
        return (model.eval()(pixel_values=images).logits.argmax(1) == labels).float().mean().item()


def trained_and_loaded(name, **options):
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **options)
    model = get_peft_model(backbone_with_new_head(1), lora)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        images, labels = drawn(64, generator)
        model.train()(pixel_values=images, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(name)
    trained, again = accuracy(model), accuracy(PeftModel.from_pretrained(backbone_with_new_head(2), name))
    print(f"{name}: trained {trained:.2f}, loaded again {again:.2f}")
    return trained, again


trained, again = trained_and_loaded("all-linear")
assert trained > 0.5 and again < trained - 0.1
trained, again = trained_and_loaded("all-linear-and-head", modules_to_save=["classifier"])
assert trained > 0.5 and again == trained
PYTHON
