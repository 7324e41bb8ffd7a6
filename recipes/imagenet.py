"""ImageNet-1K in the paper's setting: 1 % per loop, 3 loops, 12,500 batches of 256 (Section 4.1).

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
    "num_loops": 3,
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "learning_rate": 5e-4,
    "weight_decay": 1e-4,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 256,
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
