"""What VeCAFTrainer overrides and calls in transformers' Trainer: an upgrade that changes it fails here, by name."""

import inspect
import re

from every_case import every_case
from transformers import Trainer, TrainerCallback

from vecaf_hf import VeCAFTrainer
from vecaf_hf.checkpoint.trainer import ResumingTrainer
from vecaf_hf.hub.trainer import PushingTrainer

# Names of the parameters after self, and whether each has a default.
SIGNATURES = {
    "train": "resume_from_checkpoint=, trial=, ignore_keys_for_eval=",
    "_evaluate": "trial, ignore_keys_for_eval, skip_scheduler=",
    "_load_callback_state": "",
    "_save": "output_dir=, state_dict=",
    "_save_rng_state": "output_dir",
    "_save_checkpoint": "model, trial",
    "_load_from_checkpoint": "resume_from_checkpoint, model=",
    "_load_best_model": "",
    "_finalize_training": "trial, num_train_samples, start_time",
    "_remove_unused_columns": "dataset, description=",
    "_get_collator_with_removed_columns": "data_collator, description=",
    "_get_output_dir": "trial",
    "set_initial_training_values": "args, dataloader",
    "training_step": "model, inputs, num_items_in_batch=",
    "get_batch_samples": "epoch_iterator, num_batches, device",
    "_maybe_log_save_evaluate": (
        "tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate="
    ),
    "compute_loss": "model, inputs, return_outputs=, num_items_in_batch=",
    "_get_num_items_in_batch": "batch_samples, device",
    "pop_callback": "callback",
    "remove_callback": "callback",
    "_wrap_model": "model, training=, dataloader=",
    "evaluation_loop": "dataloader, description, prediction_loss_only=, ignore_keys=, metric_key_prefix=",
    "get_train_dataloader": "",
    "_get_dataloader": "dataset, description, batch_size, sampler_fn=, is_training=, dataloader_key=",
    "_get_train_sampler": "train_dataset=",
    "_inner_training_loop": "batch_size=, args=, resume_from_checkpoint=, trial=, ignore_keys_for_eval=",
    "_init_training_state": "max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial",
    "_prepare_for_training": "max_steps, train_dataloader, resume_from_checkpoint",
    "create_model_card": (
        "language=, license=, tags=, model_name=, finetuned_from=, tasks=, dataset_tags=, dataset=, dataset_args="
    ),
    "init_hf_repo": "token=, private=",
    "save_model": "output_dir=, _internal_call=",
    "push_to_hub": "commit_message=, blocking=, token=, revision=, private=, kwargs",
    "_push_from_checkpoint": "checkpoint_folder",
    "_finish_current_push": "",
    "save_state": "",
    "log": "logs, start_time=",
    "add_callback": "callback",
    "__init__": (
        "model=, args=, data_collator=, train_dataset=, eval_dataset=, processing_class=, model_init=, "
        "compute_loss_func=, compute_metrics=, callbacks=, optimizers=, optimizer_cls_and_kwargs=, "
        "preprocess_logits_for_metrics="
    ),
}


def written(method) -> str:
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return ", ".join(p.name + ("" if p.default is p.empty else "=") for p in parameters)


@every_case("name", SIGNATURES)
def test_signature(name):
    assert written(getattr(Trainer, name)) == SIGNATURES[name]


OURS = {**vars(ResumingTrainer), **vars(PushingTrainer), **vars(VeCAFTrainer)}


def overridden() -> list[str]:
    return [name for name, value in OURS.items() if inspect.isfunction(value) and hasattr(Trainer, name)]


def test_whatever_has_a_name_of_trainers_is_in_the_table():
    """Else a method of ours that Trainer comes to have too would be called in its place, unnoticed."""
    # An attribute that scripts set, with what Trainer guesses where it is None.
    ours = {name for name in OURS if not name.startswith("__")} - {"loss_is_scaled_for_ga"}
    assert Trainer.loss_is_scaled_for_ga is None
    assert {name for name in ours if hasattr(Trainer, name)} <= SIGNATURES.keys(), "add it to SIGNATURES"


@every_case("name", [name for name in overridden() if name != "__init__"])
def test_an_override_takes_what_trainer_passes(name):
    theirs, ours = (inspect.signature(getattr(cls, name)) for cls in (Trainer, VeCAFTrainer))
    parameters = [p for p in theirs.parameters.values() if p.kind != p.VAR_KEYWORD]
    ours.bind(*parameters)
    given = {p.name: None for p in parameters[1:] if p.default is not p.empty}
    ours.bind(*(p for p in parameters if p.default is p.empty), **given)


def test_the_seven_training_values_in_their_order():
    documented = re.findall(r"- `(\w+)`", Trainer.set_initial_training_values.__doc__)
    assert documented == [
        "num_train_epochs",
        "num_update_steps_per_epoch",
        "num_examples",
        "num_train_samples",
        "total_train_batch_size",
        "steps_in_epoch",
        "max_steps",
    ]
    annotation = str(inspect.signature(Trainer.set_initial_training_values).return_annotation)
    assert annotation == "tuple[int, int, int, int, int, int | None, int]"
    # As Trainer takes them apart.
    source = inspect.getsource(Trainer)
    unpacked = r",\s+".join(documented) + r",\s+\) = self\.set_initial_training_values\(args, train_dataloader\)"
    assert re.search(unpacked, source)


def test_attributes_that_are_read():
    source = inspect.getsource(Trainer.__init__)
    for name in ("label_smoother", "compute_loss_func", "label_names", "data_collator", "train_dataset"):
        assert re.search(rf"self\.{name}\b.*=", source), name
    assert "self._train_batch_size" in inspect.getsource(Trainer)


def test_the_sum_of_losses_is_set_before_the_first_loop_begins():
    """A resumed run restores it there."""
    assert_in_order(
        inspect.getsource(Trainer._inner_training_loop),
        ["self._tr_loss = ", "self._globalstep_last_logged = ", "self.callback_handler.on_epoch_begin("],
    )


def test_a_checkpoint_is_marked_as_whole_after_all_else_and_before_older_ones_are_removed():
    assert_in_order(
        inspect.getsource(Trainer._save_checkpoint),
        [
            "self.save_model(",
            "self._save_optimizer_and_scheduler(",
            "self._save_rng_state(",
            "self.state.save_to_json(",
            "rotate_checkpoints(",
        ],
    )


def test_only_the_evaluation_on_start_skips_the_schedule():
    assert_in_order(inspect.getsource(Trainer), ["if args.eval_on_start:", "skip_scheduler=True"])


def test_the_objective_gets_what_ours_takes():
    """`compute_loss_func(outputs, labels, num_items_in_batch=...)`."""
    source = inspect.getsource(Trainer.compute_loss)
    assert re.search(r"self\.compute_loss_func\(\s*outputs,\s*labels,\s*num_items_in_batch=num_items_in_batch", source)


def assert_in_order(source: str, parts: list[str]) -> None:
    assert [source.count(part) for part in parts] == [1] * len(parts)
    assert sorted(parts, key=source.index) == parts


def test_the_order_in_which_a_loop_begins_and_ends():
    """Selection happens in on_epoch_begin: before the loader is iterated, after the last loop's evaluation."""
    assert_in_order(
        inspect.getsource(Trainer._inner_training_loop),
        [
            "self.get_train_dataloader()",
            "self.set_initial_training_values(",
            "self._prepare_for_training(",
            "self.callback_handler.on_epoch_begin(",
            "self._run_epoch(",
        ],
    )
    run_epoch = inspect.getsource(Trainer._run_epoch)
    assert_in_order(run_epoch, ["iter(train_dataloader)", "self.callback_handler.on_epoch_end("])
    # Evaluation and saving within an epoch; the last one is after its end.
    assert run_epoch.rindex("self._maybe_log_save_evaluate(") > run_epoch.index("self.callback_handler.on_epoch_end(")


@every_case("event", ["on_epoch_begin", "on_epoch_end", "on_step_begin", "on_train_end", "on_pre_optimizer_step"])
def test_callback_events(event):
    assert written(getattr(TrainerCallback, event)) == "args, state, control, kwargs"
