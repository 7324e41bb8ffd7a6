"""The options of CEA: `CEACallback(..., **options)` and the recipes' command line are both made of these fields."""

from __future__ import annotations

from dataclasses import dataclass, field

from vecaf_hf.augmentation.alignment import ALIGNMENTS
from vecaf_hf.augmentation.cea import ATTENTIONS
from vecaf_hf.validation import check_at_least, check_choice, check_choices, check_positive, whole

# Those that a domain prompt gives.
DOMAIN_DIRECTIONS = ("difference", "learned_difference", "random")
# Those that go by the texts of classes.
BY_CLASS = ("instance", "learned_difference")
DIRECTIONS = ("caption", "instance", *DOMAIN_DIRECTIONS)
PLACES = ("training", "selection", "attention")
CAPTION_TIMES = ("pool", "selected")
AFFINITIES = ("caption", "image")


@dataclass
class CEAOptions:
    """How CEA moves embeddings. All have defaults.

    Raises:
        ValueError: An option is out of its range or none of its choices, or needs another that is not given.
    """

    step_size: float = field(
        default=0.1,
        metadata={"help": "Eta of Eq. 9, the part of the way towards the caption: 0 moves nothing, 1 lands on it."},
    )
    attention: str = field(
        default="mean_one",
        metadata={
            "help": "Alpha of Eq. 8: mean_one has mean one over the selected samples, paper is the literal softmax "
            "(about 1/K), none is 1."
        },
    )
    alignment: str = field(
        default="ridge",
        metadata={
            "help": "How text embeddings come into the image embedding space: ridge, procrustes, dual (for CLIP and "
            "SigLIP: fitted on the encoder's own image embeddings), identity (the paper; sizes must agree)."
        },
    )
    toward: str = field(
        default="caption",
        metadata={
            "help": "Direction of the shift: caption (Eq. 9); difference, from the plain to the prompted caption; "
            "learned_difference, by a small network that learns it (LADS); random, one random line as long "
            "as difference, for control; instance, from the mean caption of the sample's class."
        },
    )
    act_on: list[str] = field(
        default_factory=lambda: ["training", "selection"],
        metadata={"help": "Which embeddings are moved: in training, of the candidates in selection, or both."},
    )
    domain_prompt: list[str] | None = field(
        default=None,
        metadata={
            "help": 'Sentence added to every caption, such as "It\'s a snowy day."; of several, each sample goes by '
            "another one in each loop."
        },
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
            "help": "Temperature tau of a factor exp(cos(x, t_prompt) / tau) on each sample's weight in ods and on "
            "its chance to be drawn by balanced and random; no factor if not set."
        },
    )
    affinity_by: str = field(
        default="caption",
        metadata={
            "help": "What is compared with the prompt for domain_affinity: caption, the sample's text embedding; "
            "image, its image embedding (strategy ods)."
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
            "help": "What a captioner captions: pool, every sample before the first selection; selected, those "
            "selected for the first time, when a loop begins."
        },
    )

    def __post_init__(self) -> None:
        check_choice("attention", self.attention, ATTENTIONS, or_callable=False)
        check_choice("alignment", self.alignment, ALIGNMENTS, or_callable=False)
        check_choice("toward", self.toward, DIRECTIONS, or_callable=False)
        check_choice("caption_when", self.caption_when, CAPTION_TIMES, or_callable=False)
        check_choice("affinity_by", self.affinity_by, AFFINITIES, or_callable=False)
        check_choices("act_on", self.act_on, PLACES[:2])
        check_choices("prompt_in", self.prompt_in, PLACES)
        if not self.act_on:
            raise ValueError("act_on is empty, so nothing would be moved: leave CEA out instead")
        check_at_least("step_size", self.step_size, 0)
        self.alignment_samples = whole("alignment_samples", self.alignment_samples, 2)
        if self.domain_affinity is not None:
            check_positive("domain_affinity", self.domain_affinity)
        elif self.affinity_by != AFFINITIES[0]:
            raise ValueError(f"affinity_by={self.affinity_by!r} needs a domain_affinity, the temperature")
        self._check_prompt()
        self._check_toward()
        if self.caption_when == "selected" and self.domain_affinity is not None:
            raise ValueError(
                'domain_affinity goes by captions, and with caption_when="selected" there are none '
                'before the first selection: set caption_when="pool"'
            )

    @property
    def prompts(self) -> list[str]:
        """The domain prompts; empty without."""
        return self.domain_prompt or []

    @property
    def reads_prompted(self) -> bool:
        """Whether anything goes by captions with a prompt."""
        places = self.act_on if self.attention == "none" else [*self.act_on, "attention"]
        return bool(self.prompts) and bool(set(places) & set(self.prompt_in))

    def _check_prompt(self) -> None:
        given = self.domain_prompt
        if given is None:
            if self.domain_affinity is not None:
                raise ValueError("domain_affinity needs a domain_prompt")
            return
        prompts = [given] if isinstance(given, str) else given
        if not isinstance(prompts, (list, tuple)) or not prompts or not all(map(_is_sentence, prompts)):
            raise ValueError(
                f"domain_prompt is {given!r}; it must be a sentence, a list of sentences, or None for no prompt"
            )
        words = [prompt for prompt in prompts if len(prompt.split()) == 1]
        if len(prompts) > 1 and words:
            raise ValueError(
                f"domain_prompt has {len(prompts)} prompts, and {words[0]!r} is a single word: put each sentence in "
                "quotes on a command line, and write it out"
            )
        self.domain_prompt = list(prompts)
        if self.domain_affinity is None and not self.reads_prompted:
            raise ValueError(
                f"domain_prompt is given, and nothing goes by it: prompt_in is {self.prompt_in!r}, act_on "
                f"{self.act_on!r} and attention {self.attention!r}; name a place of act_on in prompt_in, or set "
                "domain_affinity"
            )

    def _check_toward(self) -> None:
        if self.toward not in DOMAIN_DIRECTIONS:
            return
        if not self.prompts:
            raise ValueError(f'toward="{self.toward}" needs a domain_prompt')
        if not set(self.act_on) & set(self.prompt_in):
            raise ValueError(
                f'toward="{self.toward}" moves nothing where no prompt is: prompt_in is {self.prompt_in!r} and act_on '
                f"{self.act_on!r}; name a place of act_on in prompt_in"
            )


def _is_sentence(prompt: object) -> bool:
    return isinstance(prompt, str) and bool(prompt.strip())
