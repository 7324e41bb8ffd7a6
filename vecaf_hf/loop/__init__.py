"""From a selection to the batches of a loop, and what a checkpoint keeps of it."""

from vecaf_hf.loop.record import LoopRecord, record_loop
from vecaf_hf.loop.sampler import LoopSampler, Stream
from vecaf_hf.loop.schedule import LoopSchedule, updates_over_pool
from vecaf_hf.loop.state import RunState

__all__ = [
    "LoopRecord",
    "LoopSampler",
    "LoopSchedule",
    "RunState",
    "Stream",
    "record_loop",
    "updates_over_pool",
]
