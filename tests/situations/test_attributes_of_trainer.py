"""What VeCAFTrainer keeps of its own has no name that Trainer, or an integration of it, uses for something else."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import transformers
from transformers import PreTrainedModel, Trainer

from vecaf_hf import VeCAFTrainer

FOLDER = Path(inspect.getfile(transformers)).parent


def test_no_name_is_used_twice(
    make_vit: Callable[..., PreTrainedModel], make_trainer: Callable[..., VeCAFTrainer]
) -> None:
    trainer = make_trainer(make_vit())
    plain = Trainer(model=make_vit(), args=trainer.args)
    ours = vars(trainer).keys() - vars(plain).keys()
    kinds = [kind for kind in VeCAFTrainer.mro() if kind.__module__.startswith("vecaf_hf.")]
    ours |= {name for kind in kinds for name in vars(kind) if not hasattr(plain, name)}
    texts = [path.read_text() for path in (*FOLDER.glob("trainer*.py"), *FOLDER.glob("integrations/*.py"))]
    used = {name for text in texts for name in re.findall(r"\b(?:self|trainer)\.(\w+)", text)}
    assert {"scorer", "loop", "meter"} <= ours and "objective" in used
    # Trainer's own, which it sets where it pushes.
    assert ours & used <= {"push_in_progress"}
