"""What strategies learn of their own beside the model. Knows nothing of Trainer nor of how a selection is made, but for
`teaching.py`, which sits between them; the registry of strategies imports the learners, never that."""

from vecaf_hf.learners.learn_loss import LearnLoss
from vecaf_hf.learners.learner import Learner
from vecaf_hf.learners.ta_vaal import TAVAAL

__all__ = ["TAVAAL", "LearnLoss", "Learner"]
