"""The callback that applies CEA in a run: to what enters the head in training, and to the candidates of the next
selection."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from vecaf_hf.augmentation.augmenter import Augmenter, Texts
from vecaf_hf.augmentation.counted_map import CountedMap
from vecaf_hf.augmentation.options import BY_CLASS, CEAOptions
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.stored_images import raw_images
from vecaf_hf.learners.beside_model import LearnsBesideModel
from vecaf_hf.printable import listed
from vecaf_hf.scoring.head import flat
from vecaf_hf.selection import STRATEGIES, Strategy, find_strategy
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.text.captioner import Captioner
from vecaf_hf.text.captioning import PoolCaptions
from vecaf_hf.text.captions import AUTO, LABEL_FIELD, TEMPLATE, find_captions
from vecaf_hf.text.domains import Domains
from vecaf_hf.text.encoder import TextEncoder
from vecaf_hf.text.pool_texts import PoolTexts
from vecaf_hf.validation import check_options

# Samples that the log's figure of the shift is taken on.
FIGURE_SAMPLES = 4096


class CEACallback(LearnsBesideModel):
    """Cross-attentive Embedding Augmentation (Section 3.2) and its domain prompt (Section 3.3).

    In training mode the embedding that enters the head is moved towards its caption's text embedding; evaluation,
    inference and the saved checkpoint are the plain model. A sample without a caption trains as it is.

    Args:
        text_encoder: A Hub id, a local folder, or a `TextEncoder`.
        captions: A column of the training dataset, a list aligned with it, a template over class names, or "auto": by
            the captioner, or "a photo of a {label}" without one.
        captioner: With "auto", what captions the images of the dataset's `image_column`: a Hub id, a local folder, or a
            `Captioner`. `caption_when` says which images.
        **options: Fields of `CEAOptions`, for example `step_size=0.2`, `domain_prompt="It's a snowy day."` or a list of
            such sentences.

    Raises:
        ValueError: An option is not one of its choices, or needs a `domain_prompt` or captioner that is not given.
    """

    # An alignment is fitted, not regularised.
    decays = False

    def __init__(
        self,
        text_encoder: str | TextEncoder,
        captions: str | Sequence[str | None] = TEMPLATE,
        captioner: str | Captioner | None = None,
        **options: Any,
    ) -> None:
        own = [*signature(CEACallback).parameters][:-1]
        check_options("CEACallback", options, [*own, *CEAOptions.__dataclass_fields__])
        if not isinstance(captions, Iterable):
            raise ValueError(
                f"captions is a {type(captions).__name__}; it must be a column's name, a list with one caption per "
                'sample, "auto", or a template such as "a photo of a {label}"'
            )
        self.options = CEAOptions(**options)
        if captioner is not None and not (isinstance(captions, str) and captions == AUTO):
            raise ValueError(f"a captioner is given beside captions={captions!r:.80}: set captions={AUTO!r}")
        if captioner is None and self.options.caption_when != "pool":
            raise ValueError(f"caption_when={self.options.caption_when!r} is for a captioner, and none is given")
        if captioner is not None and not isinstance(captioner, Captioner):
            captioner = Captioner(captioner)
        self.captioner = captioner
        self.encoder = text_encoder if isinstance(text_encoder, TextEncoder) else TextEncoder(text_encoder)
        self.captions = captions
        self.augmenter: Augmenter | None = None
        self._pool: PoolTexts | None = None
        self._hides_progress = True
        self._hook: Any = None
        self._position: Tensor | None = None  # [N], row of a sample in _texts
        self._texts: Texts | None = None  # of the loop's selected samples
        self._batch: Tensor | None = None
        self._prompts: Tensor | None = None  # [D, d_t], where they weigh the selection

    @property
    def has_affinity(self) -> bool:
        """Whether candidates are given their affinity to the domains."""
        return self.options.domain_affinity is not None

    @property
    def is_captioned_by_class(self) -> bool:
        """Whether all samples of a class have the same caption, made of its name."""
        if not isinstance(self.captions, str) or self.captioner is not None:
            return False
        return self.captions == AUTO or LABEL_FIELD in self.captions

    def apart(self, dataset: Any, labels: Tensor | None, class_names: Sequence[str]) -> CEACallback | None:
        """Another one like this, to look with; None where it would have to caption the pool, which is to pay."""
        if self.captioner is not None:
            return None
        other = CEACallback(self.encoder, self.captions, **vars(self.options))
        other.read_captions(dataset, labels, class_names)
        return other

    # --- Before training ---

    def read_captions(self, dataset: Any, labels: Tensor | None, class_names: Sequence[str]) -> None:
        """Find every sample's caption, and whatever else the options need, without encoding anything.

        Raises:
            ValueError: What is wrong with the captions (`find_captions`); or the options need labels, raw images or
                an image tower that are not there.
        """
        column, images = self.options.image_column, None
        if self.options.toward in BY_CLASS and labels is None:
            raise ValueError(
                f'toward="{self.options.toward}" needs one class per sample, and no labels can be read: set '
                "label_column"
            )
        if self.options.alignment == "dual":
            images = raw_images(dataset, column, 'alignment="dual"', 'set image_column, or use alignment="ridge"')
            if not self.encoder.is_dual:
                raise ValueError(
                    f'alignment="dual" needs an encoder of texts and images, and {self.encoder.name_or_path!r} has no '
                    'image tower: use alignment="ridge", or CLIP or SigLIP'
                )
        captions: list[str | None] | PoolCaptions
        if self.captioner is None:
            captions = find_captions(self.captions, dataset, labels, class_names)
        else:
            load = raw_images(dataset, column, "a captioner", "set image_column, or pass captions as a list")
            captions = PoolCaptions(self.captioner, load)
        self._labels = labels
        self._pool = PoolTexts(self.encoder, captions, len(dataset), images)

    def prepare(
        self, head: nn.Module, dimension: int, accelerator: Accelerator, meter: CostMeter, loops: int = 1, seed: int = 0
    ) -> None:
        """Encode the captions and set the hook on the head.

        Args:
            head: Takes embeddings of this dimension.
            dimension: d.
            accelerator: The processes that train together.
            meter: Counts texts, and what a learned map costs.
            loops: Of the run; with `seed` they say which domain prompt each sample goes by.
            seed: Of whatever is random.
        """
        options, pool = self.options, self._pool
        assert pool is not None
        self._accelerator, self._texts = accelerator, None
        self._check_learned(accelerator)
        domains = Domains.deal(options.prompts, pool.size, loops, seed) if options.reads_prompted else None
        pool.begin(accelerator, meter, domains)
        self._prompts = pool.of_prompts(options.prompts) if self.has_affinity else None
        is_learned = options.toward == "learned_difference"
        mapping = CountedMap(dimension, len(options.prompts), seed, accelerator, meter) if is_learned else None
        self.augmenter = Augmenter(options, pool.table, dimension, self._labels, domains, mapping, seed)
        self.augmenter.to(accelerator.device)
        if self.options.alignment == "identity":
            self.augmenter.fit(pool.table.plain, torch.zeros(1, dimension))
        self.detach()
        self._hook = head.register_forward_pre_hook(self._move_head_input)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Have the pool captioned, unless a checkpoint that the run resumes from has brought the captions."""
        if self.captioner is None:
            return
        assert self._pool is not None
        self._hides_progress = bool(args.disable_tqdm) or not self._accelerator.is_local_main_process
        if self.options.caption_when == "pool":
            self._caption(torch.arange(self._pool.size))

    def _caption(self, indices: Tensor) -> None:
        assert self._pool is not None and self.augmenter is not None
        self.augmenter.take(self._pool.caption(indices, self._hides_progress))

    def _check_learned(self, accelerator: Accelerator) -> None:
        fp16 = accelerator.mixed_precision == "fp16"
        if self.options.alignment == "learned" and fp16 and accelerator.num_processes > 1:
            raise ValueError('alignment="learned" on several processes does not go with fp16: use bf16')

    def detach(self) -> None:
        """Take the hook off the head."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the plain model: take the hook off its head."""
        self.detach()

    # --- At a loop boundary ---

    def enter_loop(self, loop: int) -> None:
        """The boundary at which this loop begins is reached: samples go by its domain prompts from now on."""
        assert self.augmenter is not None
        self.augmenter.loop = loop

    def before_selection(self, candidates: Candidates, go_by_logits: bool = False) -> Candidates:
        """Refit the alignment on the candidates, and return them as the selection should see them: where it goes by
        logits, which are those of plain embeddings, unmoved; so are they as long as none has been captioned. Those that
        have not been scored have their affinity to the domains at most."""
        assert self.augmenter is not None
        if candidates.embeddings is None:
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
        assert self.augmenter is not None
        if self.options.caption_when == "selected":
            self._caption(selected.indices)
            # Candidates had fewer captions, or none.
            refit = bool(self.augmenter.table.captioned(selected.indices).any())
        if refit:
            self._fit(selected)
        augmenter, pool = self.augmenter, self._pool
        assert augmenter is not None and pool is not None and selected.embeddings is not None
        texts = augmenter.texts(selected, "training")
        self._hold(selected.indices, texts)
        shown = torch.arange(len(selected))[:FIGURE_SAMPLES]
        with torch.no_grad():
            embeddings = selected.embeddings[shown].to(self._accelerator.device)
            shift = (augmenter.moved(embeddings, texts.take(shown).to(embeddings.device)) - embeddings).norm(dim=1)
        return {
            "cea_alpha_max": float(texts.alpha.max()),
            "cea_relative_shift": float((shift / embeddings.norm(dim=1).clamp(min=1e-12)).mean()),
            "cea_missing_captions": pool.missing,
            "cea_truncated_captions": self.encoder.truncated,
        }

    def identity(self) -> dict[str, Any]:
        """Options, captions and encoder, in JSON values: a resumed run must share them."""
        assert self._pool is not None
        # What a captioner made is in the checkpoint.
        captions = hashlib.sha256(json.dumps(self._pool.given).encode()).hexdigest()[:16]
        options = {f"cea.{name}": value for name, value in vars(self.options).items()}
        captioner = self.captioner.fingerprint[:16] if self.captioner else None
        encoder = self.encoder.fingerprint[:16]
        return {**options, "cea.captions": captions, "cea.captioner": captioner, "cea.text_encoder": encoder}

    def state_dict(self) -> dict[str, Tensor]:
        """What a run that resumes inside a loop needs, and the captions that were made."""
        assert self.augmenter is not None and self._pool is not None
        assert self._position is not None and self._texts is not None
        held = (self._position >= 0).nonzero().squeeze(1)
        tensors = {
            "weight": self.augmenter.aligner.weight.detach(),
            "bias": self.augmenter.aligner.bias.detach(),
            "indices": held,
            **vars(self._texts.take(self._position[held])),
            **({} if self.augmenter.mapping is None else self.augmenter.mapping.state_dict()),
            **self._pool.state_dict(),
        }
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        assert self.augmenter is not None and self._pool is not None
        self.augmenter.take(self._pool.load_state_dict(state))
        self.augmenter.aligner.set(state["weight"], state["bias"])
        self.augmenter.fitted = True
        if self.augmenter.mapping is not None:
            self.augmenter.mapping.load_state_dict(state)
        self._hold(state["indices"], Texts(**{name: state[name] for name in Texts.__dataclass_fields__}))

    def _fit(self, candidates: Candidates) -> None:
        augmenter, pool = self.augmenter, self._pool
        assert augmenter is not None and pool is not None and candidates.embeddings is not None
        rows = augmenter.alignment_rows(candidates)
        if len(rows) == 0:
            raise ValueError(
                "none of the candidates has a caption to fit the alignment on: score more of the pool (rescore, "
                "scoring_fraction)"
            )
        sources = augmenter.table.of(candidates.indices[rows], prompted=False)
        if self.options.alignment == "dual":
            sources = pool.of_images(candidates.indices[rows])
        augmenter.fit(sources, candidates.embeddings[rows])
        augmenter.fit_map(candidates.take(rows))

    def _hold(self, indices: Tensor, texts: Texts) -> None:
        assert self._pool is not None
        device = self._accelerator.device
        self._position = torch.full((self._pool.size,), -1, device=device)
        self._position[indices.to(device)] = torch.arange(len(indices), device=device)
        self._texts = texts.to(device)

    # --- In a training step ---

    @contextmanager
    def batch(self, indices: Tensor) -> Iterator[None]:
        """Inside the block, the batch that passes the head holds these samples of the pool."""
        self._batch = indices
        try:
            yield
        finally:
            self._batch = None

    @torch.compiler.disable
    def _move_head_input(self, head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._batch is None or not head.training or "training" not in self.options.act_on:
            return None
        assert self.augmenter is not None and self._texts is not None and self._position is not None
        embeddings = flat(inputs[0])
        texts = self._texts.take(self._position[self._batch])
        # In float32 whatever autocast does: the shift is small beside the embedding.
        with torch.autocast(embeddings.device.type, enabled=False):
            moved = self.augmenter.moved(embeddings.float(), texts)
        return (moved.to(inputs[0].dtype).reshape(inputs[0].shape), *inputs[1:])

    def learned_parameters(self) -> list[nn.Parameter]:
        """What is trained with the model: the alignment, where that is learned."""
        if self.augmenter is None:
            return []
        return [parameter for parameter in self.augmenter.aligner.parameters() if parameter.requires_grad]


def find_cea(callbacks: Iterable[object], strategy_name: Any) -> CEACallback | None:
    """A run's CEACallback among its callbacks, or None.

    Raises:
        ValueError: There are two, or the strategy heeds nothing of what the callback would do.
    """
    found = [callback for callback in callbacks if isinstance(callback, CEACallback)]
    if len(found) > 1:
        raise ValueError("there are two CEACallbacks: keep one")
    if not found:
        return None
    (cea,), strategy = found, find_strategy(strategy_name)
    if cea.has_affinity:
        _check_affinity(cea, strategy, strategy_name)
    moves = "embeddings" in strategy.reads and "logits" not in strategy.needs
    if cea.options.act_on == ["selection"] and not moves:
        raise ValueError(
            f"act_on is ['selection'], and strategy {strategy_name!r} does not go by moved embeddings, so "
            "nothing would be moved: add 'training', or leave CEA out"
        )
    return cea


def _check_affinity(cea: CEACallback, strategy: Strategy, name: Any) -> None:
    if "relevance" not in strategy.reads:
        heeding = listed(repr(other) for other, one in STRATEGIES.items() if "relevance" in one.reads)
        raise ValueError(
            f"domain_affinity acts on what {heeding} weigh or draw by, and strategy {name!r} does "
            "neither: choose one of these, or leave domain_affinity unset"
        )
    if cea.options.affinity_by == "image" and not strategy.needs_forward:
        raise ValueError(
            f"affinity_by is 'image', and strategy {name!r} scores no images: set "
            "affinity_by='caption' or strategy='ods'"
        )
    if cea.options.affinity_by == "caption" and cea.is_captioned_by_class:
        raise ValueError(
            f"domain_affinity goes by captions, and captions={cea.captions!r} is the same for all samples of a "
            "class: give captions of the images, or set affinity_by='image' with strategy='ods'"
        )
