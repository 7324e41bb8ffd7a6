"""What strategies learn of their own beside the model. Knows nothing of Trainer but in `teaching.py`, nor of how a
selection is made."""

from vecaf_hf.learners.learn_loss import LearnLoss
from vecaf_hf.learners.learner import Learner
from vecaf_hf.learners.ta_vaal import TAVAAL

__all__ = ["TAVAAL", "LearnLoss", "Learner"]
