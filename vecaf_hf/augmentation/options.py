"""The options of CEA: `CEACallback(..., **options)` and the recipes' command line are both made of these fields."""

from __future__ import annotations

from dataclasses import dataclass, field

from vecaf_hf.augmentation.alignment import ALIGNMENTS
from vecaf_hf.augmentation.cea import ATTENTIONS
from vecaf_hf.validation import check_at_least, check_choice, check_choices, check_positive, whole

DIRECTIONS = ("caption", "difference", "instance")
PLACES = ("training", "selection", "attention")
CAPTION_TIMES = ("pool", "selected")


@dataclass
class CEAOptions:
    """How CEA moves embeddings. All have defaults.

    Raises:
        ValueError: An option is out of its range or none of its choices, or needs another that is not given.
    """

    step_size: float = field(
        default=0.1,
        metadata={
            "help": "Eta of Eq. 9, the part of the way towards the caption: 0 moves nothing, 1 lands on it. Measured "
            "at 0.1 and 0.3: captions of the class or the instance do no better than those of other images."
        },
    )
    attention: str = field(
        default="mean_one",
        metadata={
            "help": "Alpha of Eq. 8: mean_one has mean one over the selected samples, paper is the literal softmax "
            "(about 1/K), none is 1. Measured: no difference beyond the noise."
        },
    )
    alignment: str = field(
        default="ridge",
        metadata={
            "help": "How text embeddings come into the image embedding space: ridge, procrustes, learned (trained "
            "with the model), dual (for CLIP and SigLIP: fitted on the encoder's own image embeddings), identity (the "
            "paper; sizes must agree). Refitted at each loop boundary, except learned. Measured: learned is some 5 "
            "points worse, procrustes and ridge are alike."
        },
    )
    toward: str = field(
        default="caption",
        metadata={
            "help": "Direction of the shift: caption (Eq. 9); difference, from the plain to the prompted caption, so "
            "that only the domain is left; instance, from the mean caption of the sample's class, so that the class is "
            "not given away."
        },
    )
    act_on: list[str] = field(
        default_factory=lambda: ["training", "selection"],
        metadata={
            "help": "Which embeddings are moved: in training, of the candidates in selection, or both. Candidates of "
            "margin, entropy, el2n and badge stay as they are: these go by logits, which are those of plain "
            "embeddings, as are those that a callable is given beside moved ones."
        },
    )
    domain_prompt: str | None = field(
        default=None, metadata={"help": 'Sentence added to every caption, such as "It\'s a snowy day.".'}
    )
    prompt_in: list[str] = field(
        default_factory=lambda: list(PLACES),
        metadata={
            "help": "Where the prompted caption takes the plain one's place: the shift in training, the shift of "
            "candidates in selection, the scores of attention."
        },
    )
    domain_affinity: float | None = field(
        default=None,
        metadata={
            "help": "Temperature tau of a factor exp(cos(e, t_prompt) / tau) on selection weights; none if not set."
        },
    )
    alignment_samples: int = field(default=10_000, metadata={"help": "Most samples that an alignment is fitted on."})
    image_column: str = field(
        default="image",
        metadata={"help": "The dataset's column of images, read by a captioner, by alignment dual and by the recipes."},
    )
    caption_when: str = field(
        default="pool",
        metadata={
            "help": "What a captioner captions, and when: pool, every sample before the first selection; selected, at "
            "each loop boundary those selected for the first time. Candidates that were never selected then have no "
            "caption and are not moved in selection, and the first selection is of plain embeddings."
        },
    )

    def __post_init__(self) -> None:
        check_choice("attention", self.attention, ATTENTIONS, or_callable=False)
        check_choice("alignment", self.alignment, ALIGNMENTS, or_callable=False)
        check_choice("toward", self.toward, DIRECTIONS, or_callable=False)
        check_choice("caption_when", self.caption_when, CAPTION_TIMES, or_callable=False)
        check_choices("act_on", self.act_on, PLACES[:2])
        check_choices("prompt_in", self.prompt_in, PLACES)
        if not self.act_on:
            raise ValueError("act_on is empty, so nothing would be moved: leave CEA out instead")
        check_at_least("step_size", self.step_size, 0)
        self.alignment_samples = whole("alignment_samples", self.alignment_samples, 2)
        if self.domain_affinity is not None:
            check_positive("domain_affinity", self.domain_affinity)
        self._check_prompt()
        if self.caption_when == "selected" and self.domain_affinity is not None:
            raise ValueError(
                'domain_affinity goes by an alignment to captions, and with caption_when="selected" there are none '
                'before the first selection: set caption_when="pool"'
            )

    def _check_prompt(self) -> None:
        if self.domain_prompt is not None and not (isinstance(self.domain_prompt, str) and self.domain_prompt.strip()):
            raise ValueError(f"domain_prompt is {self.domain_prompt!r}; it must be a sentence, or None for no prompt")
        if self.domain_prompt is None and (self.toward == "difference" or self.domain_affinity is not None):
            raise ValueError('toward="difference" and domain_affinity need a domain_prompt')
