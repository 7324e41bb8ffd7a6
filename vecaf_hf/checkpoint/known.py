"""The private methods of Trainer that are overridden or called, as they are in the versions that were tried.

Public events and methods do all else. Why each of these is needed: docs/architecture.md.
"""

from __future__ import annotations

import inspect
import logging
from importlib.metadata import version
from typing import Any

logger = logging.getLogger(__name__)

# In transformers from the first to the last of these the table holds.
TRIED = ("5.3.0", "5.24.0")
CHECKPOINTS, PUSHES = "checkpoints and resuming from them", "pushes while a run trains"
COLUMNS, LEARNED = "leaving out columns that the model does not take", "what learns beside the model"
# Name -> the parameters after self (= where there is a default), and what may break where they are others.
KNOWN: dict[str, tuple[str, str]] = {
    "_init_training_state": (
        "max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial",
        CHECKPOINTS,
    ),
    "_save_checkpoint": ("model, trial", CHECKPOINTS),
    "_get_output_dir": ("trial", CHECKPOINTS),
    "_save_rng_state": ("output_dir", CHECKPOINTS),
    "_load_from_checkpoint": ("resume_from_checkpoint, model=", CHECKPOINTS),
    "_load_best_model": ("", CHECKPOINTS),
    "_push_from_checkpoint": ("checkpoint_folder", PUSHES),
    "_wrap_model": ("model, training=, dataloader=", LEARNED),
    "_remove_unused_columns": ("dataset, description=", COLUMNS),
    "_get_collator_with_removed_columns": ("data_collator, description=", COLUMNS),
    "_prepare_inputs": ("inputs", "trying a batch before the training"),
}


def parameters_of(method: Any) -> str:
    """The parameters after self, as in the table."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return ", ".join(each.name + ("" if each.default is each.empty else "=") for each in parameters)


def tell_of_differences(trainer: type) -> None:
    """Warn, when a trainer is made, where the installed Trainer is another one than those that were tried."""
    differing = {
        name: breaks
        for name, (parameters, breaks) in KNOWN.items()
        if not callable(method := getattr(trainer, name, None)) or parameters_of(method) != parameters
    }
    if differing:
        logger.warning(
            "vecaf_hf was tried with transformers %s to %s, and the Trainer of %s, which is installed, has another %s. "
            "What may break: %s. All else is as always",
            *TRIED,
            version("transformers"),
            ", ".join(differing),
            "; ".join(dict.fromkeys(differing.values())),
        )
