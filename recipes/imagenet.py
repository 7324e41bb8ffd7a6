"""ImageNet-1K in the paper's setting: 1 % per loop, 3 loops, 12,500 batches of 256 (Section 4.1).

What differs from the paper: one set of centroids in place of five (`--ensemble_size 5 --ensemble debias` has them), and
CEA as `vecaf_hf` does it, since Eq. 8 as printed fades with the number of selected samples and text embeddings that are
not aligned point nowhere (`--attention paper --alignment identity` is the letter).

    accelerate launch recipes/imagenet.py
    accelerate launch recipes/imagenet.py --config recipes/configs/quickstart.yaml

The Hub dataset asks for its terms to be accepted first (non-commercial research). Its labelled validation split is the
paper's test; 1 % of the training images are held out for evaluation during the run.
"""

from finetune import main

# SGD, cosine and the sizes of Section 4.1, shared by the paper's datasets.
PAPER = {
    "model_name_or_path": "facebook/dino-vitb16",
    "text_encoder": "openai/clip-vit-large-patch14",
    "strategy": "ods",
    "loss_weighting": "raw",
    "allocation": "global",
    "num_loops": 3,
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "learning_rate": 5e-4,
    "weight_decay": 1e-4,
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 0.0,
    "total_train_batch_size": 256,
    "per_device_eval_batch_size": 256,
    "dataloader_num_workers": 8,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "logging_steps": 50,
}

IMAGENET = PAPER | {
    "dataset_name": "ILSVRC/imagenet-1k",
    "test_split": "validation",
    "validation_fraction": 0.01,
    "selection_fraction": 0.01,
    "max_steps": 12_500,
    "output_dir": "runs/imagenet",
}

if __name__ == "__main__":
    main(IMAGENET)
