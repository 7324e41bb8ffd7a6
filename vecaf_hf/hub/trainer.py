"""A Trainer whose pushes lose nothing: what fails on the way to the Hub ends no training, and can be pushed again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress

from vecaf_hf.checkpoint.trainer import ResumingTrainer
from vecaf_hf.hub.files import addition, checkpoint_in, documents_in, linked, model_in
from vecaf_hf.hub.push import WAITS, PushError, make_repository, push, push_run
from vecaf_hf.reporting.card import CARD, keys_given, read_card

logger = logging.getLogger(__name__)

# In the run's folder, while a push is on its way: second names of a checkpoint's files.
ON_THE_WAY = ".pushing"


class PushingTrainer(ResumingTrainer):
    """Pushes as Trainer does, when `hub_strategy` says, with a card each time and without pickled arguments."""

    push_in_progress: Any = None
    hub_model_id: Any

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Trainer's repository, made before the training: a wrong token or name shows then. A Hub that cannot be
        reached keeps from no training: the repository is made with the first push that comes through."""
        if not self.is_world_process_zero():
            return
        # Of a run that was killed while it pushed.
        shutil.rmtree(Path(str(self.args.output_dir)) / ON_THE_WAY, ignore_errors=True)
        try:
            # Nobody waits for a busy Hub before the first step: the first push tries again, patiently.
            self.hub_model_id = self._make_repository(token, private, waits=())
        except PushError as error:
            if error.permanent:
                raise
            logger.warning("%s. The run goes on, and tries again when it pushes", error)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Trainer's, whose push may fail: what a script does next, such as saving its metrics, is done all the same."""
        super().save_model(output_dir, _internal_call=True)
        if self.args.push_to_hub and not _internal_call:
            self._told.clear()  # Nothing comes after it that would push again.
            with self._going_on("the model is saved"):
                self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save model and card in `output_dir`, and push them; `kwargs` are those of `create_model_card`.

        Returns:
            The commit (CommitInfo), with `blocking=False` a Future of it; None in all processes but the main one.

        Raises:
            PushError: It did not arrive. The message says why, and how to push again.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        tags = kwargs.pop("tags", None) or []
        tags = [*([tags] if isinstance(tags, str) else tags), *(getattr(self.model, "model_tags", None) or [])]
        self.create_model_card(tags=tags or None, **kwargs)
        if self.push_in_progress is not None:
            self.push_in_progress.wait_until_done()
        job = partial(
            push_run,
            str(self.args.output_dir),
            repo_id=self.hub_model_id,
            token=token or self.args.hub_token,
            private=private,
            revision=revision,
            commit_message=commit_message or "End of training",
            given=keys_given(kwargs),
        )
        return job() if blocking else self._pusher.submit(job)

    def _push_from_checkpoint(self, checkpoint_folder: str, *args: Any, **kwargs: Any) -> None:
        """Trainer's push in the middle of training, from the checkpoint itself and in one commit."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        running = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if running and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        by_steps = self.args.save_strategy == SaveStrategy.STEPS
        point = f"step {self.state.global_step}" if by_steps else f"epoch {int(self.state.epoch or 0)}"
        with self._going_on("training goes on"):
            self.create_model_card()
            job: Any = self._pusher.submit(self._push_files, point, *self._held(Path(checkpoint_folder)))
            # They come one after the other: when the last one is done, all are.
            self.push_in_progress = PushInProgress([job])  # type: ignore[arg-type]

    def _held(self, checkpoint: Path) -> tuple[list[CommitOperationAdd], str | None, Path]:
        """The checkpoint's files and the card as they are now, whatever becomes of them; and the folder of links."""
        output = Path(str(self.args.output_dir))
        files = model_in(checkpoint)
        if self.args.hub_strategy != HubStrategy.EVERY_SAVE:
            files |= checkpoint_in(checkpoint, HubStrategy(self.args.hub_strategy))
        links = output / ON_THE_WAY / checkpoint.name
        shutil.rmtree(links, ignore_errors=True)
        files = documents_in(output) | linked(files, links)
        folders = {str(output), str(output.absolute())}
        additions = [addition(place, path, folders) for place, path in files.items() if place != CARD]
        return additions, read_card(output), links

    def _push_files(self, point: str, additions: list[CommitOperationAdd], card: str | None, links: Path) -> None:
        """In the background: a failure is told in the log, and the next save pushes again."""
        try:
            with self._going_on("training goes on, and its next save pushes again"):
                self.hub_model_id = self.hub_model_id or self._make_repository()
                push(
                    self.hub_model_id,
                    additions,
                    card,
                    token=self.args.hub_token,
                    revision=self.args.hub_revision,
                    commit_message=f"Training in progress, {point}",
                )
                self._told.clear()
        finally:
            shutil.rmtree(links, ignore_errors=True)

    def _make_repository(
        self, token: str | None = None, private: bool | None = None, waits: Sequence[int] = WAITS
    ) -> str:
        return make_repository(
            self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name,
            token or self.args.hub_token,
            self.args.hub_private_repo if private is None else private,
            waits,
        )

    @cached_property
    def _pusher(self) -> ThreadPoolExecutor:
        """One push after the other."""
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")

    @cached_property
    def _told(self) -> set[str]:
        return set()

    @contextmanager
    def _going_on(self, consolation: str) -> Iterator[None]:
        """Errors inside the block become a warning, one for each kind until a push arrives, and the run goes on."""
        try:
            yield
        except Exception as error:
            kind = error.kind if isinstance(error, PushError) else type(error).__name__
            if kind not in self._told:
                self._told.add(kind)
                logger.warning("%s. %s", error, consolation)
