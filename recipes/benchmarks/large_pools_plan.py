"""What a selection in a pool of 10^8 or 10^9 samples would cost: formulas, and what they assume."""

from __future__ import annotations

import math

from vecaf_hf.selection import SelectionOptions
from vecaf_hf.selection.descent import batch_size, repulsion_every
from vecaf_hf.selection.figures import COVERAGE_SAMPLES
from vecaf_hf.selection.objective import KEPT_ELEMENTS, products_of_repulsion
from vecaf_hf.selection.similarity import ACCELERATOR_CHUNK_ELEMENTS, CHUNK_ELEMENTS

# Of a ViT-B/16: its embeddings, and FLOPs of a forward pass at 224 px as the cost meter counts them.
EMBEDDING, FORWARD_FLOPS = 768, 35_127_656_448
# Assumed, not measured: FLOP/s of one accelerator in forward and backward passes (bfloat16) and in selecting (float32),
# bytes/s that a machine reads, images/s that a core decodes and resizes.
MODEL_RATE, SELECTING_RATE, READING_RATE, DECODING_RATE = 100e12, 10e12, 1e9, 200
# Bytes of an accelerator that a selection may take.
MEMORY = 40e9
# LAION-400M at 256 px is 10 TB.
IMAGE_BYTES = 25_000
# Half-precision embedding, float32 loss, int64 position.
STORED_BYTES = 2 * EMBEDDING + 4 + 8


def cells_for(budget: int) -> int:
    """Cells C in which assigning (one product of the pool with C centres) and selecting (three with K / C centroids)
    cost the least together: the root of 3 K."""
    return max(1, round(math.sqrt(3 * budget)))


def selection_flops(size: int, budget: int, dimension: int, options: SelectionOptions | None = None) -> float:
    """What ODS counts when it takes all its steps: the start, their products with a part of the pool each, the
    repulsion, one look at the whole pool, and the coverage."""
    options = options or SelectionOptions()
    steps = options.selection_steps
    batch = batch_size(size, steps)
    repulsion = 0
    if options.diversity_weight > 0 and budget > 1:
        renewals = -(-steps // repulsion_every(budget, batch))
        # The last look takes the repulsion's value once more.
        repulsion = (renewals * products_of_repulsion(budget) + 1) * budget
    looks = size + (steps - 1) * batch + size
    return 2.0 * budget * dimension * (looks + repulsion + min(size, COVERAGE_SAMPLES))


def selection_bytes(size: int, budget: int, dimension: int, chunk: int = CHUNK_ELEMENTS) -> float:
    """Most memory of a selection: embeddings as stored (2 bytes) and as unit rows (4), and the larger of a block of
    similarities with what is taken out of it (9) and the centroids' own similarities with a block of exponentials."""
    similar = 4.0 * budget**2 if budget**2 <= KEPT_ELEMENTS else 0.0
    return 6.0 * size * dimension + max(9.0 * min(chunk, size * budget), similar + 12.0 * min(chunk, budget**2))


def fitting_cells(size: int, budget: int, width: float) -> int:
    """The fewest cells of which the largest, `width` times the mean one, is selected from in MEMORY."""
    if planned_bytes(size, budget) <= MEMORY:
        return 1
    return math.ceil(width * 6 * EMBEDDING * size / (MEMORY - 16 * ACCELERATOR_CHUNK_ELEMENTS))


def in_cells(size: int, budget: int, cells: int) -> float:
    """FLOPs of selecting in cells that are all alike."""
    return cells * selection_flops(size // cells, budget // cells, EMBEDDING)


def assigning(size: int, cells: int) -> float:
    """FLOPs of assigning samples to cells."""
    return 2.0 * size * cells * EMBEDDING if cells > 1 else 0.0


def planned_bytes(size: int, budget: int) -> float:
    """Memory of a selection on an accelerator."""
    return selection_bytes(size, budget, EMBEDDING, ACCELERATOR_CHUNK_ELEMENTS)


def model_seconds(samples: int, passes: int = 1) -> float:
    """Of one accelerator; a sample that is trained on takes three passes."""
    return passes * samples * FORWARD_FLOPS / MODEL_RATE
