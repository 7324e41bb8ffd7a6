"""Image classifiers of transformers from tiny configs: weights are random, nothing is downloaded."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel, set_seed

IMAGE_SIZE = 32
# Of a transformer over patches.
PATCHES = {
    "image_size": IMAGE_SIZE,
    "patch_size": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
WINDOWS = {
    "image_size": IMAGE_SIZE,
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
}
DUAL = {"vision_config": PATCHES, "text_config": {**PATCHES, "vocab_size": 20, "projection_dim": 16}}
FOUR = {"depths": [1, 1, 1, 1]}

TINY: dict[str, dict[str, Any]] = {
    "vit": PATCHES,
    "vit_msn": PATCHES,
    "deit": {**PATCHES, "architectures": ["DeiTForImageClassification"]},
    "dinov2": PATCHES,
    "dinov2_with_registers": PATCHES,
    "ijepa": PATCHES,
    "beit": PATCHES,
    "data2vec-vision": PATCHES,
    "clip": DUAL,
    "metaclip_2": DUAL,
    "siglip": DUAL,
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "donut-swin": WINDOWS,
    "focalnet": {
        "image_size": IMAGE_SIZE,
        "embed_dim": 8,
        "depths": [1, 1],
        "focal_levels": [1, 1],
        "focal_windows": [3, 3],
    },
    "hiera": {
        "image_size": [IMAGE_SIZE, IMAGE_SIZE],
        "embed_dim": 8,
        "depths": [1, 1, 1],
        "num_heads": [1, 1, 2],
        "query_stride": [2, 2],
        "num_query_pool": 2,
        "masked_unit_size": [4, 4],
    },
    "resnet": {"embedding_size": 8, "layer_type": "basic", **STAGES},
    "regnet": {"embedding_size": 8, "groups_width": 8, "hidden_sizes": [8, 16, 16, 16], **FOUR},
    "bit": {"embedding_size": 32, "num_groups": 8, "hidden_sizes": [32, 64], "depths": [1, 1]},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "convnextv2": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "efficientnet": {"image_size": IMAGE_SIZE, "width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320},
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": IMAGE_SIZE},
    "mobilenet_v2": {"depth_multiplier": 0.25, "image_size": IMAGE_SIZE},
    "mobilevit": {
        "image_size": IMAGE_SIZE,
        "hidden_sizes": [16, 16, 16],
        "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 32],
        "num_attention_heads": 2,
    },
    "poolformer": {"hidden_sizes": [8, 8, 16, 16], **FOUR},
    "pvt": {"image_size": IMAGE_SIZE, "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 1, 1], **FOUR},
    "pvt_v2": {"image_size": 64, "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 1, 1], **FOUR},
    "segformer": {
        "hidden_sizes": [8, 8, 16, 16],
        "num_attention_heads": [1, 1, 1, 1],
        "decoder_hidden_size": 16,
        **FOUR,
    },
    "swiftformer": {"embed_dims": [8, 8, 16, 16], **FOUR},
}


def tiny_classifier(kind: str, **options: Any) -> PreTrainedModel:
    """Of ten classes; the same weights each time."""
    set_seed(0)
    config = AutoConfig.for_model(kind, **TINY[kind])
    config.num_labels = 10
    for name, value in options.items():
        setattr(config, name, value)
    return AutoModelForImageClassification.from_config(config)
