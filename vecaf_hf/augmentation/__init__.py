"""Text embeddings of captions, and moving image embeddings towards them."""

from vecaf_hf.augmentation.callback import CEACallback
from vecaf_hf.augmentation.text_encoder import TextEncoder

__all__ = ["CEACallback", "TextEncoder"]
