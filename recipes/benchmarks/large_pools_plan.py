"""What a boundary would cost in a pool of 10^8 or 10^9 samples: formulas, and what they assume."""

from __future__ import annotations

from vecaf_hf.selection import SelectionOptions
from vecaf_hf.selection.descent import WEAK, batch_size, repulsion_every
from vecaf_hf.selection.figures import COVERAGE_SAMPLES
from vecaf_hf.selection.objective import products_of_repulsion
from vecaf_hf.selection.starts import seen_by_start

# Of a ViT-B/16: its embeddings, and FLOPs of a forward pass at 224 px as the cost meter counts them.
EMBEDDING, FORWARD_FLOPS = 768, 35_127_656_448
# Assumed, not measured: FLOP/s of one accelerator in forward and backward passes (bfloat16) and in selecting (float32),
# bytes/s that a machine reads, images/s that a core decodes and resizes.
MODEL_RATE, SELECTING_RATE, READING_RATE, DECODING_RATE = 100e12, 10e12, 1e9, 200
# LAION-400M at 256 px is 10 TB.
IMAGE_BYTES = 25_000
CLASSES = 1000


def selection_flops(size: int, budget: int, dimension: int, options: SelectionOptions | None = None) -> float:
    """What ODS counts when it takes all its steps: the start, their products with a part of the pool each, the
    repulsion, one look at the whole pool, and the coverage."""
    options = options or SelectionOptions()
    steps, seen = options.selection_steps, seen_by_start(size, budget)
    batch = batch_size(size, size - seen, steps)
    repulsion = 0
    if options.diversity_weight > 0 and budget > 1:
        is_weak = seen < size and options.diversity_weight < WEAK
        renewals = -(-steps // repulsion_every(budget, batch, is_weak))
        # The last look takes the repulsion's value once more.
        repulsion = (renewals * products_of_repulsion(budget) + 1) * budget
    looks = seen + (steps - 1) * batch + size
    return 2.0 * budget * dimension * (looks + repulsion + min(size, COVERAGE_SAMPLES))


def by_class(size: int, budget: int, dimension: int, classes: int) -> float:
    """The same of classes that are all alike."""
    return classes * selection_flops(size // classes, max(1, budget // classes), dimension)


def model_seconds(samples: int, passes: int = 1) -> float:
    """Of one accelerator; a sample that is trained on takes three passes."""
    return passes * samples * FORWARD_FLOPS / MODEL_RATE
