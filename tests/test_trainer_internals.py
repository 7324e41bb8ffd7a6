"""What VeCAFTrainer overrides and calls in transformers' Trainer: an upgrade that changes it fails here, by name."""

import inspect
import re
from pathlib import Path

import transformers
from every_case import every_case
from transformers import Trainer, TrainerCallback

from vecaf_hf import VeCAFTrainer
from vecaf_hf.checkpoint.known import CHECKPOINTS, KNOWN, PUSHES, parameters_of, tell_of_differences
from vecaf_hf.checkpoint.trainer import ResumingTrainer
from vecaf_hf.hub.trainer import PushingTrainer

# Public ones; names of the parameters after self, and whether each has a default. Where versions differ, all of them.
PUBLIC = {
    "train": ["resume_from_checkpoint=, trial=, ignore_keys_for_eval="],
    "evaluate": ["eval_dataset=, ignore_keys=, metric_key_prefix="],
    "set_initial_training_values": ["args, dataloader"],
    "training_step": ["model, inputs, num_items_in_batch="],
    "get_batch_samples": ["epoch_iterator, num_batches, device"],
    "compute_loss": ["model, inputs, return_outputs=, num_items_in_batch="],
    "pop_callback": ["callback"],
    "remove_callback": ["callback"],
    "evaluation_loop": ["dataloader, description, prediction_loss_only=, ignore_keys=, metric_key_prefix="],
    "get_train_dataloader": [""],
    "create_model_card": [
        "language=, license=, tags=, model_name=, finetuned_from=, tasks=, dataset_tags=, dataset=, dataset_args="
    ],
    "init_hf_repo": ["token=", "token=, private="],
    "save_model": ["output_dir=, _internal_call="],
    "push_to_hub": [
        "commit_message=, blocking=, token=, revision=, kwargs",
        "commit_message=, blocking=, token=, revision=, private=, kwargs",
    ],
    "save_state": [""],
    "log": ["logs, start_time="],
    "add_callback": ["callback"],
    "__init__": [
        "model=, args=, data_collator=, train_dataset=, eval_dataset=, processing_class=, model_init=, "
        "compute_loss_func=, compute_metrics=, callbacks=, optimizers=, optimizer_cls_and_kwargs=, "
        "preprocess_logits_for_metrics="
    ],
}
# With the private ones, of which users are told.
SIGNATURES = {**PUBLIC, **{name: [parameters] for name, (parameters, _) in KNOWN.items()}}


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


OURS = {**vars(ResumingTrainer), **vars(PushingTrainer), **vars(VeCAFTrainer)}


@every_case("name", SIGNATURES)
def test_signature(name):
    assert parameters_of(getattr(Trainer, name)) in SIGNATURES[name]


def test_the_private_methods_in_use_are_those_that_are_known():
    """Whatever begins with one underscore, has a name of Trainer's, and is overridden or called in the package."""
    package = Path(inspect.getfile(VeCAFTrainer)).parent
    called = set(re.findall(r"(?:self|super\(\)|trainer)\.(_[a-z]\w*)\(", "".join(map(read, package.rglob("*.py")))))
    private = {name for name in called | OURS.keys() if re.match(r"_[a-z]", name) and hasattr(Trainer, name)}
    assert private == KNOWN.keys()


def test_each_is_told_of_in_the_page_of_how_the_package_is_built():
    page = read(Path(__file__).parents[1] / "docs" / "architecture.md")
    assert re.findall(r"^\| `(_\w+)` \|", page, re.M) == list(KNOWN)


class Other(Trainer):
    def _push_from_checkpoint(self, checkpoint_folder, wait):
        pass

    _load_best_model = property()


def test_another_trainer_is_told_of_when_one_is_made(caplog):
    tell_of_differences(Trainer)
    assert not caplog.messages
    tell_of_differences(Other)
    (told,) = caplog.messages
    assert transformers.__version__ in told and "another _load_best_model, _push_from_checkpoint" in told
    assert f"What may break: {CHECKPOINTS}; {PUSHES}." in told


@every_case("name", sorted({name for name in KNOWN if name in vars(ResumingTrainer) | vars(PushingTrainer)}))
def test_what_trainer_comes_to_pass_is_passed_on(name):
    """An override breaks by no argument that it does not know."""
    kinds = {each.kind for each in inspect.signature(getattr(VeCAFTrainer, name)).parameters.values()}
    assert {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds


def overridden() -> list[str]:
    return [name for name, value in OURS.items() if inspect.isfunction(value) and hasattr(Trainer, name)]


def test_whatever_has_a_name_of_trainers_is_in_the_table():
    """Else a method of ours that Trainer comes to have too would be called in its place, unnoticed."""
    # An attribute that scripts set, with what Trainer guesses where it is None.
    ours = {name for name in OURS if not name.startswith("__")} - {"loss_is_scaled_for_ga"}
    assert getattr(Trainer, "loss_is_scaled_for_ga", None) is None
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
    assert parameters_of(getattr(TrainerCallback, event)) == "args, state, control, kwargs"
