"""CLIPstyler (arXiv 2112.00374), the domain transfer that VeCAF is compared with: source images are restyled by a
prompt, and the model is finetuned on them.

One network is trained for the prompt (`train_style`) and then restyles all images (`restyled`). Finetuning is plain, on
the restyled images beside the source or instead of it, which VeCAF's paper leaves open:

    options = StyleOptions(prompt="It's a snowy day.")
    network = train_style(train, "image", options)
    snowy = restyled(train, "image", network)
    beside = datasets.concatenate_datasets([train, snowy])
"""

from styling.network import StyleNetwork
from styling.options import StyleOptions
from styling.restyling import restyled
from styling.training import train_style

__all__ = ["StyleNetwork", "StyleOptions", "restyled", "train_style"]
