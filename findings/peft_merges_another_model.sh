#!/usr/bin/env bash
# Merging LoRA into BiT's convolutions gives another model.
#
# Packages:   peft 0.21.2, timm 1.0.31, transformers 5.23.0, torch 2.14.1.
# Expected:   PEFT's guide to LoRA has `merge_and_unload` for a standalone model without the adapter's latency. Its
#             outputs are those of the adapted model, up to rounding. `safe_merge=True` looks for broken adapters.
# Happens:    BiT standardizes the weights of each convolution when it uses them: mean 0, spread 1 for each
#             filter. Its layers are subclasses of Conv2d, so LoRA takes them. While it is beside such a layer, its
#             product is added to the output as it is. Merged, it is added to the stored weights and standardized with
#             them: other weights come out. Nothing warns, with `safe_merge` neither.
# Hurts:      LoRA on BiT (timm's `resnetv2_*_bit`, transformers' BitForImageClassification), wherever it is merged
#             to be saved, exported or served. The accuracy that is reported is that of the adapted model.
#             The one that is shipped was never evaluated.
# Avoid:      Keep the adapter of these models unmerged. After every merge, compare the outputs before and after on one
#             batch.
#
# Observed, small networks, 10 classes, the adapter alone trained by 40 steps; accuracy on the training samples:
#   BiT in transformers:       before 6%, adapted 98%, merged 30%
#   BiT in timm:               before 9%, adapted 99%, merged 29%
#   ResNet in transformers:    before 5%, adapted 100%, merged 100%
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" peft==0.21.2 timm==1.0.31 transformers==5.23.0 torch==2.14.1 \
    torchvision==0.29.1 numpy==2.4.6

python - 2>&1 <<'PYTHON'
from functools import partial

import torch
from peft import LoraConfig, get_peft_model
from timm.layers import GroupNormAct
from timm.models.resnetv2 import ResNetV2
from transformers import BitConfig, BitForImageClassification, ResNetConfig, ResNetForImageClassification, logging

logging.set_verbosity_error()
CLASSES, STEPS = 10, 40
torch.manual_seed(0)
labels = torch.arange(80) % CLASSES
pixels = torch.randn(CLASSES, 3, 32, 32)[labels] + 0.5 * torch.randn(80, 3, 32, 32)


def outputs_of(model):
    found = model(pixels)
    return getattr(found, "logits", found)


def accuracy(outputs):
    return (outputs.argmax(1) == labels).float().mean().item()


def run(what, model, targets):
    """The head stays as it is: all that is learned is in the convolutions' adapters."""
    torch.manual_seed(0)
    model = get_peft_model(model.eval(), LoraConfig(r=8, lora_alpha=16, target_modules=targets)).eval()
    with torch.no_grad():
        before = accuracy(outputs_of(model))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(outputs_of(model), labels).backward()
        optimizer.step()
    with torch.no_grad():
        adapted = outputs_of(model)
        merged = outputs_of(model.merge_and_unload(safe_merge=True).eval())
    apart = ((adapted - merged).abs().max() / adapted.abs().max()).item()
    found = before, accuracy(adapted), accuracy(merged), apart
    print("{}: before {:.0%}, adapted {:.0%}, merged {:.0%}; outputs apart by {:.1g}".format(what, *found))
    return found


sizes = {"embedding_size": 32, "hidden_sizes": [64, 64, 128, 128], "depths": [1, 1, 1, 1], "num_labels": CLASSES}
bit_of_timm = ResNetV2(
    (1, 1, 1, 1), (64, 64, 128, 128), CLASSES, stem_chs=32, norm_layer=partial(GroupNormAct, num_groups=8),
    zero_init_last=False,
)
torch.nn.init.normal_(bit_of_timm.head.fc.weight, std=0.1)
for what, model in (
    ("BiT in transformers", BitForImageClassification(BitConfig(num_groups=8, **sizes))),
    ("BiT in timm", bit_of_timm),
):
    before, adapted, merged, apart = run(what, model, r".*\.conv[123]")
    assert before < 0.5 and adapted > 0.9 and merged < 0.7 and apart > 0.1
resnet = ResNetForImageClassification(ResNetConfig(**sizes))
before, adapted, merged, apart = run("ResNet in transformers", resnet, r".*\.convolution")
assert before < 0.5 and adapted == merged > 0.9 and apart < 1e-3
PYTHON
