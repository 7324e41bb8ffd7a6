"""CEA while a run goes on: what pulls at whom, at a loop boundary and in a training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vecaf_hf.augmentation.augmenter import Augmenter, Texts
from vecaf_hf.augmentation.options import CEAOptions
from vecaf_hf.scoring.head import Hook, flat
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.text.pool_texts import PoolTexts

# Samples that the log's figure of the shift is taken on.
FIGURE_SAMPLES = 4096


class RunningCEA:
    """Moves the candidates of a selection, and in training what enters the head.

    Args:
        options: What to do.
        pool_texts: The captions, encoded.
        augmenter: Moves embeddings.
        head: Takes embeddings; a hook on it moves those of a training batch until `detach`.
        accelerator: The processes that train together.
        prompts: The domain prompts where they weigh the selection, else None. [D, d_t].

    Attributes:
        hides_progress: Whether captioning shows no bar.
    """

    def __init__(
        self,
        options: CEAOptions,
        pool_texts: PoolTexts,
        augmenter: Augmenter,
        head: nn.Module,
        accelerator: Accelerator,
        prompts: Tensor | None,
    ) -> None:
        self.options, self.pool_texts, self.augmenter = options, pool_texts, augmenter
        self.accelerator, self._prompts = accelerator, prompts
        self.hides_progress = True
        self._batch: Tensor | None = None
        self._passed, self._attached = False, True
        # Of the loop's selected samples: their texts, and each sample's row in these, -1 for others. [N].
        self.held = Texts.none()
        self.position = torch.full((pool_texts.size,), -1, device=accelerator.device)
        self._hook = head.register_forward_pre_hook(Hook(self._move_head_input))

    @property
    def has_affinity(self) -> bool:
        """Whether candidates are given their affinity to the domains."""
        return self._prompts is not None

    def detach(self) -> None:
        """Take the hook off the head: the plain model is left."""
        self._hook.remove()
        self._attached = False

    def caption(self, indices: Tensor) -> None:
        """Have these samples captioned, and go by their captions from now on. LongTensor [n]."""
        self.augmenter.take(self.pool_texts.caption(indices, self.hides_progress))

    # --- At a loop boundary ---

    def enter_loop(self, loop: int) -> None:
        """The boundary at which this loop begins is reached: samples go by its domain prompts from now on."""
        self.augmenter.loop = loop

    def before_selection(self, candidates: Candidates, go_by_logits: bool = False) -> Candidates:
        """Refit the alignment on the candidates, and return them as the selection should see them: where it goes by
        logits, which are those of plain embeddings, unmoved; so are they as long as none has been captioned. Those that
        have not been scored have their affinity to the domains at most."""
        if not candidates.has_embeddings:
            return candidates if self._prompts is None else self.augmenter.with_affinity(candidates, self._prompts)
        if self.options.caption_when == "selected" and not self.augmenter.table.captioned(candidates.indices).any():
            return candidates
        self._fit(candidates)
        if self._prompts is not None:
            candidates = self.augmenter.with_affinity(candidates, self._prompts)
        moves = "selection" in self.options.act_on and not go_by_logits
        return self.augmenter.augment(candidates) if moves else candidates

    def begin_loop(self, selected: Candidates, refit: bool) -> dict[str, float]:
        """Settle what pulls at the selected samples in this loop; returns figures for the log.

        Args:
            selected: The selected samples with their plain embeddings.
            refit: Fit the alignment on them first, where there were no candidates to fit it on.
        """
        if self.options.caption_when == "selected":
            self.caption(selected.indices)
            # Candidates had fewer captions, or none.
            refit = bool(self.augmenter.table.captioned(selected.indices).any())
        if refit:
            self._fit(selected)
        augmenter = self.augmenter
        texts = augmenter.texts(selected, "training")
        self._hold(selected.indices, texts)
        shown = torch.arange(len(selected))[:FIGURE_SAMPLES]
        with torch.no_grad():
            embeddings = selected.given("embeddings")[shown].float().to(self.accelerator.device)
            shift = (augmenter.moved(embeddings, texts.take(shown).to(embeddings.device)) - embeddings).norm(dim=1)
        return {
            "cea_alpha_max": float(texts.alpha.max()),
            "cea_relative_shift": float((shift / embeddings.norm(dim=1).clamp(min=1e-12)).mean()),
            "cea_missing_captions": self.pool_texts.missing,
            "cea_truncated_captions": self.pool_texts.encoder.truncated,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """What a run that resumes inside a loop needs, and the captions that were made."""
        held = (self.position >= 0).nonzero().squeeze(1)
        tensors = {
            "weight": self.augmenter.aligner.weight.detach(),
            "bias": self.augmenter.aligner.bias.detach(),
            "indices": held,
            **vars(self.held.take(self.position[held])),
            **({} if self.augmenter.mapping is None else self.augmenter.mapping.state_dict()),
            **self.pool_texts.state_dict(),
        }
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.augmenter.take(self.pool_texts.load_state_dict(state))
        self.augmenter.aligner.set(state["weight"], state["bias"])
        if self.augmenter.mapping is not None:
            self.augmenter.mapping.load_state_dict(state)
        self._hold(state["indices"], Texts(**{name: state[name] for name in Texts.__dataclass_fields__}))

    def _fit(self, candidates: Candidates) -> None:
        augmenter = self.augmenter
        rows = augmenter.alignment_rows(candidates)
        if len(rows) == 0:
            # None has a caption: all train as they are, whatever the alignment.
            return
        sources = augmenter.table.of(candidates.indices[rows], prompted=False, loop=augmenter.loop)
        if self.options.alignment == "dual":
            sources = self.pool_texts.of_images(candidates.indices[rows])
        shown = candidates.take(rows).whole()
        augmenter.fit(sources, shown.given("embeddings").float())
        augmenter.fit_map(shown)

    def _hold(self, indices: Tensor, texts: Texts) -> None:
        device = self.accelerator.device
        self.position = torch.full((self.pool_texts.size,), -1, device=device)
        self.position[indices.to(device)] = torch.arange(len(indices), device=device)
        self.held = texts.to(device)

    # --- In a training step ---

    @contextmanager
    def batch(self, indices: Tensor) -> Iterator[None]:
        """Inside the block, the batch that passes the head holds these samples of the pool.

        Raises:
            ValueError: Nothing has passed it, or other samples.
        """
        self._batch, self._passed = indices, not self._attached
        try:
            yield
            if not self._passed:
                raise ValueError("CEA acts on what enters the head, and nothing did: compute_loss must call the model")
        finally:
            self._batch = None

    @torch.compiler.disable
    def _move_head_input(self, head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        self._passed = True
        if self._batch is None or not head.training or "training" not in self.options.act_on:
            return None
        embeddings = flat(inputs[0])
        if len(embeddings) != len(self._batch):
            raise ValueError(
                f"CEA moves the embeddings of a batch of {len(self._batch)}, and {len(embeddings)} enter the head: "
                "compute_loss must call the model on the batch as it comes"
            )
        texts = self.held.take(self.position[self._batch])
        # In float32 whatever autocast does: the shift is small beside the embedding.
        with torch.autocast(embeddings.device.type, enabled=False):
            moved = self.augmenter.moved(embeddings.float(), texts)
        return (moved.to(inputs[0].dtype).reshape(inputs[0].shape), *inputs[1:])
