"""What the current model thinks of each sample of the pool."""

from vecaf_hf.scoring.head import find_head
from vecaf_hf.scoring.scorer import PoolScorer

__all__ = ["PoolScorer", "find_head"]
