"""What strategies learn of their own beside the model: `LEARNERS`, strategy -> what learns its `learned_scores`.

Learners know nothing of Trainer. `teaching.py` gives them what they need of a run.
"""

from vecaf_hf.learners.learn_loss import LearnLoss
from vecaf_hf.learners.learner import Learner
from vecaf_hf.learners.ta_vaal import TAVAAL

LEARNERS: dict[str, type[Learner]] = {"learn_loss": LearnLoss, "ta_vaal": TAVAAL}

__all__ = ["LEARNERS", "TAVAAL", "LearnLoss", "Learner"]
