#!/usr/bin/env bash
# Runs with seeds 42 and 43 go through the data in the same orders, one epoch apart.
#
# Packages:   transformers 5.23.0, accelerate 1.15.0, torch 2.14.1.
# Expected:   The reference to TrainingArguments calls `seed` the random seed that is set at the start of training, and
#             `DistributedSampler` has a seed for its shuffling. Runs with seeds 42, 43 and 44 see independent orders;
#             their spread is taken for that of training.
# Happens:    The order of an epoch is drawn with the seed plus the epoch's number, in accelerate's sampler, which
#             Trainer uses, and in torch's DistributedSampler. So the second epoch of seed 42 is the first of seed 43.
#             Of three runs of E epochs, 3 E orders are read, but only E + 2 of them are different.
# Hurts:      Whoever reports a mean and a spread over seeds 0, 1, 2, or averages such runs: batches are shared between
#             runs, so that the spread over orders is smaller than it looks. Ten epochs: 12 orders in place of 30.
# Avoid:      Seeds farther apart than there are epochs: 1000, 2000, 3000.
#
# Observed, 3 epochs over 12 samples:
#   Trainer:               orders of seed 42 in epochs 2, 3 = those of seed 43 in epochs 1, 2: True
#   Trainer:               of 9 orders of seeds 42, 43, 44 are different: 5; of seeds 1000, 2000, 3000: 9
#   DistributedSampler:    of 9 orders of seeds 42, 43, 44 are different: 5; of seeds 1000, 2000, 3000: 9
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" \
    transformers==5.23.0 accelerate==1.15.0 torch==2.14.1 numpy==2.4.6

python - 2>&1 <<'PYTHON'
import torch
from torch.utils.data import Dataset, DistributedSampler
from transformers import PrinterCallback, Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

EPOCHS, SAMPLES = 3, 12
seen = []


class Blank(Dataset):
    def __len__(self):
        return SAMPLES

    def __getitem__(self, place):
        seen.append(place)
        return {"pixel_values": torch.zeros(3, 8, 8), "labels": place % 2}


def orders_of_trainer(seed):
    seen.clear()
    config = ViTConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=8
    )
    options = TrainingArguments(
        "out", seed=seed, num_train_epochs=EPOCHS, per_device_train_batch_size=4, save_strategy="no", report_to=[],
        use_cpu=True, disable_tqdm=True, logging_strategy="no",
    )
    trainer = Trainer(ViTForImageClassification(config), options, train_dataset=Blank())
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [tuple(seen[epoch * SAMPLES : (epoch + 1) * SAMPLES]) for epoch in range(EPOCHS)]


def orders_of_sampler(seed):
    sampler = DistributedSampler(range(SAMPLES), num_replicas=1, rank=0, seed=seed)
    orders = []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        orders.append(tuple(sampler))
    return orders


def different(orders_of, seeds):
    return len({order for seed in seeds for order in orders_of(seed)})


shared = orders_of_trainer(42)[1:] == orders_of_trainer(43)[:-1]
print("Trainer: orders of seed 42 in epochs 2, 3 = those of seed 43 in epochs 1, 2:", shared)
assert shared
for name, orders_of in {"Trainer": orders_of_trainer, "DistributedSampler": orders_of_sampler}.items():
    near, far = different(orders_of, (42, 43, 44)), different(orders_of, (1000, 2000, 3000))
    print(f"{name}: of 9 orders of seeds 42, 43, 44 are different: {near}; of seeds 1000, 2000, 3000: {far}")
    assert (near, far) == (5, 9)
PYTHON
