"""A pool with a few images of other domains, whose captions say so: does a prompt find them (VeCAF's Figure 3)?"""

from __future__ import annotations

import datasets
import numpy as np

from pools.rare import DOMAIN, with_rare

# Corruption -> what is added to the captions of images under it.
DOMAINS = {"snow": "on a snowy day", "fog": "on a foggy day"}


def domains(dataset: datasets.Dataset, label: str, image: str, generator: np.random.Generator) -> datasets.Dataset:
    """A hundredth of the images in snow and another in fog, as their captions say: "a dress, on a snowy day".

    The column `domain` tells them. All others stay as they are. A sample without a caption gets none.

    Raises:
        ValueError: The dataset has no column `caption`, has a column `domain` already, or an image of those cannot be
            read.
    """
    return with_rare(dataset, image, DOMAIN, list(DOMAINS), generator, phrases=DOMAINS)
