#!/usr/bin/env bash
# LoRA on `out_proj` of torch's MultiheadAttention is counted as trainable, and never trained.
#
# Packages:   peft 0.21.2, torchvision 0.29.1, transformers 5.23.0, torch 2.14.1.
# Expected:   The reference to LoraConfig says that the named layers, or with "all-linear" all linear layers, get an
#             adapter, which is then trained; `print_trainable_parameters` counts them.
# Happens:    MultiheadAttention reads the weight of its `out_proj` itself and never calls that layer, so the adapter
#             around it is passed by: no gradient, no effect, and it is saved all the same. Its `in_proj` is no layer
#             and gets nothing. On torchvision's ViT, attention is then not adapted at all; on SigLIP, whose encoder has
#             an attention of its own, the pooling head. Nothing warns.
# Hurts:      LoRA on torchvision's or OpenCLIP's ViT, and on SigLIP by ["q_proj", "v_proj", "out_proj"]: fewer parameters
#             are trained than a report says, and a comparison of methods at equal parameters is off. With
#             DistributedDataParallel the run stops, as parameters got no gradient.
#             With `out_proj` alone, `backward` raises an error (PEFT's issue 2200).
# Avoid:      Name the attention itself, such as "self_attention" of torchvision's ViT: PEFT then adapts both projections.
#             For SigLIP, `exclude_modules=".*head.attention.out_proj"`.
#
# Observed, a small ViT of two layers and one of SigLIP; parameters counted as trainable, and those with a gradient:
#   torchvision, "all-linear":                         2188 counted, 1676 with a gradient
#   torchvision, ["self_attention", "mlp.0", "mlp.3"]: 3072 counted, 3072 with a gradient
#   SigLIP, ["q_proj", "v_proj", "out_proj"]:          1792 counted, 1536 with a gradient
#   SigLIP, its pooling head excluded:                 1536 counted, 1536 with a gradient
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" peft==0.21.2 torchvision==0.29.1 transformers==5.23.0 torch==2.14.1 \
    numpy==2.4.6

python - 2>&1 <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from torchvision.models import VisionTransformer
from transformers import SiglipVisionConfig, SiglipVisionModel


def vit():
    model = VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=3)
    torch.nn.init.normal_(model.heads.head.weight)  # It begins at zero, which lets no gradient through.
    return model


def siglip():
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
        )
    )


def counted(what, model, targets, **options):
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, **options))
    output = model(torch.randn(2, 3, 32, 32))
    getattr(output, "pooler_output", output).square().sum().backward()
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    without = [name for name, weight in trainable.items() if weight.grad is None]
    count = sum(weight.numel() for weight in trainable.values())
    moved = count - sum(trainable[name].numel() for name in without)
    print(f"{what}: {count} counted, {moved} with a gradient")
    return count, moved, without


count, moved, without = counted('torchvision, "all-linear"', vit(), "all-linear")
assert moved < count and all("out_proj" in name for name in without)
count, moved, _ = counted("torchvision, the attention itself", vit(), ["self_attention", "mlp.0", "mlp.3"])
assert moved == count
standard = ["q_proj", "v_proj", "out_proj"]
count, moved, without = counted(f"SigLIP, {standard}", siglip(), standard)
assert moved < count and len(without) == 2 and all("head.attention.out_proj" in name for name in without)
count, moved, _ = counted("SigLIP, pooling head excluded", siglip(), standard, exclude_modules=".*head.attention.out_proj")
assert moved == count
PYTHON
