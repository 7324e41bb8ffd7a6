#!/usr/bin/env bash
# A LoRA adapter of a ResNet is saved without the batch statistics that its training changed.
#
# Packages:   peft 0.21.2, transformers 5.23.0, torch 2.14.1.
# Expected:   The guides say that the base model stays frozen, that the adapter's file holds what was trained, and that
#             `disable_adapter` gives the base model's outputs.
# Happens:    `requires_grad=False` does not stop BatchNorm: in training mode its running mean and variance follow the
#             new data, inside the frozen base. They are not in the adapter's file. The model is right in the session
#             that trained it; loaded again it has the old statistics. `disable_adapter` no longer gives the base model.
# Hurts:      LoRA on ResNet, EfficientNet, MobileNet, RegNet, most of all where the new images differ in brightness or
#             contrast from those of pretraining: medicine, satellites, microscopes.
# Avoid:      Put the BatchNorm layers into evaluation mode after each `model.train()`, or save them with the adapter:
#             `modules_to_save=["classifier", "normalization"]` (their name in transformers' ResNet).
#
# Observed, a small ResNet on 10 classes, images brighter than those before, accuracy:
#   LoRA on convolutions:            trained 1.00, loaded again 0.22
#   BatchNorm in evaluation mode:    trained 1.00, loaded again 1.00
#   BatchNorm in modules_to_save:    trained 1.00, loaded again 1.00
#   outputs with disable_adapter and those of the base model differ by 4.10 at most
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" peft==0.21.2 transformers==5.23.0 torch==2.14.1 numpy==2.4.6

python - <<'PYTHON'
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel, set_seed

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
set_seed(0)
ResNetModel(
    ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")
).save_pretrained("backbone")
centres = torch.randn(10, 3, 16, 16)


def drawn(number, generator):
    labels = torch.randint(0, 10, (number,), generator=generator)
    return 3 + 2 * (centres[labels] + 0.5 * torch.randn(number, 3, 16, 16, generator=generator)), labels


def base():
    set_seed(1)
    return ResNetForImageClassification.from_pretrained("backbone", num_labels=10)


def outputs(model):
    images, labels = drawn(500, torch.Generator().manual_seed(9))
    with torch.no_grad():
        return model.eval()(pixel_values=images).logits, labels


def accuracy(model):
    logits, labels = outputs(model)
    return (logits.argmax(1) == labels).float().mean().item()


def trained_and_loaded(name, saved=(), still=False):
    lora = LoraConfig(
        r=4, lora_alpha=8, target_modules=["convolution"], modules_to_save=["classifier", *saved]
    )
    model = get_peft_model(base(), lora).train()
    if still:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(80):
        images, labels = drawn(64, generator)
        model(pixel_values=images, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(name)
    trained, again = accuracy(model), accuracy(PeftModel.from_pretrained(base(), name))
    print(f"{name}: trained {trained:.2f}, loaded again {again:.2f}")
    return model, trained, again


model, trained, again = trained_and_loaded("plain")
assert trained > 0.95 and again < trained - 0.2
with model.disable_adapter():
    difference = (outputs(model)[0] - outputs(base())[0]).abs().max().item()
print(f"outputs with disable_adapter and those of the base model differ by {difference:.2f} at most")
assert difference > 0.1
_, trained, again = trained_and_loaded("evaluation-mode", still=True)
assert trained > 0.95 and again == trained
_, trained, again = trained_and_loaded("modules_to_save", saved=["normalization"])
assert trained > 0.95 and again == trained
PYTHON
