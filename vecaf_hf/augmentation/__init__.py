"""Text embeddings of captions, and moving image embeddings towards them."""

from vecaf_hf.augmentation.callback import CEACallback
from vecaf_hf.text.captioner import Captioner
from vecaf_hf.text.captioning import caption_dataset
from vecaf_hf.text.encoder import TextEncoder

__all__ = ["CEACallback", "Captioner", "TextEncoder", "caption_dataset"]
