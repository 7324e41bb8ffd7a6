"""The options of our recipes: those of the package, and what is made of the training split."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from datasets import Dataset
from mappings import read_mapping
from pools.hidden import HiddenOptions
from pools.making import POOLS, make_pool
from pools.rare import CAPTION
from restyling import read_style, with_restyled

import vecaf_hf.cli.options
from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.augmentation.options import CEAOptions
from vecaf_hf.cli.options import RecipeArguments
from vecaf_hf.cost import CostMeter
from vecaf_hf.validation import check_choice

logger = logging.getLogger(__name__)


@dataclass
class PoolArguments(RecipeArguments):
    """A recipe's options, those of its pool among them.

    Raises:
        ValueError: An option is out of its range or none of its choices.
    """

    pool: str = field(
        default="clean",
        metadata={
            "help": "What becomes of the training split: clean (as it is), long_tailed (class sizes fall a "
            "hundredfold), noisy (a fifth of the labels replaced), redundant (nine tenths repeat a twentieth of the "
            "images), domains (a hundredth in snow, another in fog, as the column `caption` then says) or hidden (a "
            "hundredth under each of four conditions, which nothing tells)."
        },
    )
    hidden: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "What the pool hidden hides: options of HiddenOptions in recipes/pools/hidden.py, as a mapping in "
            'YAML, as JSON on the command line, such as \'{"conditions": ["rotated", "fog"], "say": true}\'; `none` '
            "for their defaults."
        },
    )
    restyle: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "The pool gets each image a second time, restyled by a prompt (CLIPstyler): options of "
            "StyleOptions in recipes/styling/options.py, as a mapping in YAML, as JSON on the command line, such as "
            '\'{"prompt": "a snowy day"}\'; `none` for none. Without a seed, by the run\'s. Of several '
            "processes the others wait for the main one, as long as ddp_timeout says."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # The command line has no other way to say None.
        self.hidden = None if self.hidden == "none" else self.hidden
        self.restyle = None if self.restyle == "none" else self.restyle
        if self.restyle is not None:
            self.restyle = read_style(self.restyle)
        if self.hidden is not None:
            names = [one.name for one in fields(HiddenOptions)]
            self.hidden = read_mapping("hidden", self.hidden, names, '{"conditions": ["rotated", "fog"]}')
            self.hidden_options()
        check_choice("pool", self.pool, POOLS, or_callable=False)
        says = self.pool == "domains" or (self.pool == "hidden" and self.hidden_options().say)
        if says and self.text_encoder and not self.captioner and self.captions != CAPTION:
            logger.warning(
                "the pool %s tells %s in its column %r alone, and captions is %r: the text encoder reads nothing of "
                "them; set captions to %r",
                self.pool,
                "snow and fog" if self.pool == "domains" else "its conditions",
                *(CAPTION, self.captions, CAPTION),
            )

    def hidden_options(self) -> HiddenOptions:
        """What the pool `hidden` hides."""
        try:
            return HiddenOptions(**(self.hidden if isinstance(self.hidden, dict) else {}))
        except ValueError as error:
            raise ValueError(f"hidden: {error}") from error

    def pool_options(self) -> dict[str, Any]:
        """Of the pool by its name, for `make_pool`."""
        return {"options": self.hidden_options()} if self.pool == "hidden" else {}

    def build_pool(
        self, train: Dataset, label: str, image: str, args: VeCAFArguments
    ) -> tuple[Dataset, CostMeter | None]:
        """The pool of that name and, where there is a style, each of its images restyled too."""
        pool = make_pool(train, self.pool, label, image, self.split_seed, **self.pool_options())
        return with_restyled(pool, image, self.restyle, args) if isinstance(self.restyle, dict) else (pool, None)


Arguments = tuple[PoolArguments, CEAOptions, VeCAFArguments]


def parse(defaults: Mapping[str, Any], command_line: list[str] | None = None, **texts: str) -> Arguments:
    """The package's `parse`, with these options."""
    return cast(Arguments, vecaf_hf.cli.options.parse(defaults, command_line, PoolArguments, **texts))
