"""The callback that users give a trainer for CEA: its options, its captions, and CEA of the run that is going on."""

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
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vecaf_hf.augmentation.augmenter import Augmenter
from vecaf_hf.augmentation.counted_map import CountedMap
from vecaf_hf.augmentation.options import BY_CLASS, CEAOptions
from vecaf_hf.augmentation.running import RunningCEA
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.stored_images import raw_images
from vecaf_hf.printable import listed
from vecaf_hf.selection import STRATEGIES, Strategy, find_strategy
from vecaf_hf.text.captioner import Captioner
from vecaf_hf.text.captioning import PoolCaptions
from vecaf_hf.text.captions import AUTO, LABEL_FIELD, TEMPLATE, Caption, find_captions
from vecaf_hf.text.domains import Domains
from vecaf_hf.text.encoder import TextEncoder
from vecaf_hf.text.pool_texts import PoolTexts
from vecaf_hf.validation import check_options


class CEACallback(TrainerCallback):
    """Cross-attentive Embedding Augmentation (Section 3.2) and its domain prompt (Section 3.3).

    In training mode the embedding that enters the head is moved towards its caption's text embedding; evaluation,
    inference and the saved checkpoint are the plain model. A sample without a caption trains as it is.

    Args:
        text_encoder: A Hub id, a local folder, or a `TextEncoder`.
        captions: A column of the training dataset, a list aligned with it, a template over class names, or "auto": by
            the captioner, or "a photo of a {label}" without one. Of a sample's several captions, a list, each loop
            draws one.
        captioner: With "auto", what captions the images of the dataset's `image_column`: a Hub id, a local folder, or a
            `Captioner`. `caption_when` says which images.
        **options: Fields of `CEAOptions`, for example `step_size=0.2`, `domain_prompt="It's a snowy day."` or a list of
            such sentences.

    Raises:
        ValueError: An option is not one of its choices, or needs a `domain_prompt` or captioner that is not given.
    """

    def __init__(
        self,
        text_encoder: str | TextEncoder,
        captions: str | Sequence[Caption] = TEMPLATE,
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
        self._read: PoolTexts | None = None
        self._running: RunningCEA | None = None

    @property
    def texts(self) -> PoolTexts:
        """The captions of the pool.

        Raises:
            RuntimeError: None have been read: a trainer does it when it is made.
        """
        if self._read is None:
            raise RuntimeError("no captions have been read: give the callback to a VeCAFTrainer with a train_dataset")
        return self._read

    @property
    def running(self) -> RunningCEA:
        """CEA of the run that is going on.

        Raises:
            RuntimeError: None is.
        """
        if self._running is None:
            raise RuntimeError("no run has begun: CEA moves embeddings inside train()")
        return self._running

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
        captions: list[Caption] | PoolCaptions
        if self.captioner is None:
            captions = find_captions(self.captions, dataset, labels, class_names)
        else:
            load = raw_images(dataset, column, "a captioner", "set image_column, or pass captions as a list")
            captions = PoolCaptions(self.captioner, load)
        self._labels = labels
        self._read = PoolTexts(self.encoder, captions, len(dataset), images)

    def prepare(
        self, head: nn.Module, dimension: int, accelerator: Accelerator, meter: CostMeter, loops: int = 1, seed: int = 0
    ) -> RunningCEA:
        """Encode the captions and set the hook on the head.

        Args:
            head: Takes embeddings of this dimension.
            dimension: d.
            accelerator: The processes that train together.
            meter: Counts texts, and what a learned map costs.
            loops: Of the run; with `seed` they say which domain prompt each sample goes by.
            seed: Of whatever is random.
        """
        options, texts = self.options, self.texts
        domains = Domains.deal(options.prompts, texts.size, loops, seed) if options.reads_prompted else None
        texts.begin(accelerator, meter, domains, loops, seed)
        prompts = texts.of_prompts(options.prompts) if self.has_affinity else None
        is_learned = options.toward == "learned_difference"
        mapping = CountedMap(dimension, len(options.prompts), seed, accelerator, meter) if is_learned else None
        augmenter = Augmenter(options, texts.table, dimension, self._labels, domains, mapping, seed)
        augmenter.to(accelerator.device)
        if options.alignment == "identity":
            augmenter.fit(texts.table.plain, torch.zeros(1, dimension))
        self.detach()
        self._running = RunningCEA(options, texts, augmenter, head, accelerator, prompts)
        return self._running

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Have the pool captioned, unless a checkpoint that the run resumes from has brought the captions."""
        if self.captioner is None:
            return
        running = self.running
        running.hides_progress = bool(args.disable_tqdm) or not running.accelerator.is_local_main_process
        if self.options.caption_when == "pool":
            running.caption(torch.arange(self.texts.size))

    def detach(self) -> None:
        """Take the hook off the head."""
        if self._running is not None:
            self._running.detach()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the plain model: take the hook off its head."""
        self.detach()

    # --- In a run ---

    def identity(self) -> dict[str, Any]:
        """Options, captions and encoder, in JSON values: a resumed run must share them."""
        # What a captioner made is in the checkpoint.
        captions = hashlib.sha256(json.dumps(self.texts.given).encode()).hexdigest()[:16]
        options = {f"cea.{name}": value for name, value in vars(self.options).items()}
        captioner = self.captioner.fingerprint[:16] if self.captioner else None
        encoder = self.encoder.fingerprint[:16]
        return {**options, "cea.captions": captions, "cea.captioner": captioner, "cea.text_encoder": encoder}

    @contextmanager
    def batch(self, indices: Tensor) -> Iterator[None]:
        """Inside the block, the batch that passes the head holds these samples of the pool."""
        with self.running.batch(indices):
            yield


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
