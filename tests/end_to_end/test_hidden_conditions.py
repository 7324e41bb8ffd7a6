"""Nothing that selects or trains knows the hidden condition of a sample: not by any strategy, nor in any batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from pools.hidden import HiddenOptions
from pools.making import make_pool
from pools.rare import CONDITION
from transformers import PreTrainedModel

from vecaf_hf import VeCAFTrainer
from vecaf_hf.cli.building import with_images
from vecaf_hf.learners import ta_vaal

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published VAE is for a GPU."""
    monkeypatch.setattr(ta_vaal, "CHANNELS", (4, 4, 8, 8))


@pytest.fixture(scope="module")
def pool(fashion: Dataset) -> Dataset:
    """80 images, eight of them under each of two conditions."""
    options = HiddenOptions(conditions=["inverted", "rotated"], part=0.1)
    return make_pool(fashion.select(range(80)), "hidden", "label", "image", 0, options=options)


def to_tensor(picture: Any) -> torch.Tensor:
    """[3, 32, 32]."""
    grey = torch.from_numpy(np.array(picture.convert("L").resize((32, 32)))).float()
    return (grey / 127.5 - 1).expand(3, -1, -1)


def with_conditions(pool: Dataset, names: list[str]) -> Dataset:
    """The pool, whose samples are said to be under other conditions."""
    return pool.remove_columns(CONDITION).add_column(CONDITION, names)


# Of each kind: by nothing, by the model's scores, by training's losses, after a first training, by a learner.
SOME = ["random", "ods", "rho_loss", "loss_balanced", "jtt", "learn_loss"]


@pytest.mark.parametrize("strategy", SOME)
def test_no_strategy_selects_by_it(
    make_vit: MakeModel, make_trainer: MakeTrainer, pool: Dataset, strategy: str
) -> None:
    options = {"strategy": strategy, "selection_budget": 12, "max_steps": 4, "learning_rate": 0.01}
    names = pool[CONDITION][:]
    assert names != names[::-1]
    runs = []
    for told in (names, names[::-1]):
        shown = with_images(with_conditions(pool, told), to_tensor, "image", "label")
        trainer = make_trainer(make_vit(), pool=shown, **options)
        trainer.train()
        runs.append(trainer)
    one, other = runs
    for mine, its in zip(one.selection_history, other.selection_history, strict=True):
        assert torch.equal(mine.indices, its.indices) and mine.info == its.info
    for name, values in one.model.state_dict().items():
        assert torch.equal(values, other.model.state_dict()[name]), name


def test_no_batch_holds_it(
    make_vit: MakeModel, make_trainer: MakeTrainer, pool: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: set[str] = set()
    step = VeCAFTrainer.training_step

    def watched(self: VeCAFTrainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        held.update(inputs)
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(VeCAFTrainer, "training_step", watched)
    trainer = make_trainer(make_vit(), pool=with_images(pool, to_tensor, "image", "label"), strategy="ods")
    trainer.train()
    assert held == {"pixel_values", "labels"}
    for batch in trainer.pool.scoring_loader(range(80)):
        assert CONDITION not in batch and "pixel_values" in batch
