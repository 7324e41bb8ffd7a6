#!/usr/bin/env bash
# `take(n)` and `skip(n)` of a stream choose other samples by how many readers share it: a validation set leaks into training.
#
# Package:    datasets 5.2.0.
# Expected:   `take(n)` is the first n samples and `skip(n)` all others, which is how a stream is cut into a validation
#             and a training set. Readers that share the training set share what one reader would read.
# Happens:    Where a stream with several shards is divided among nodes, or among the workers of a DataLoader, each reader
#             takes, or skips, its part of n from its own shards: three at the beginning of its half instead of six at
#             the beginning. `take` and `skip` fit each other only where both are read by the same number of readers.
# Hurts:      Whoever trains on `skip(n)` with several processes or workers, and evaluates on `take(n)` with another number
#             of them: on the main process, in a notebook, or with workers for training alone. Scores are too good.
# Avoid:      Hold whole shards out (`stream.shard(...)`), or write the validation set into a file of its own, once.
#
# Observed, 20 samples in four shards of five, n = 6:
#   one reader takes          0 1 2 3 4 5
#   two readers skip all but  3 4 8 9 10 11 12 13 14 15 16 17 18 19
#   validated and trained on: 3 4
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" datasets==5.2.0

python - <<'PYTHON'
from datasets import Dataset
from datasets.distributed import split_dataset_by_node

stream = Dataset.from_dict({"number": list(range(20))}).to_iterable_dataset(num_shards=4)
validated = [row["number"] for row in stream.take(6)]
trained = sorted(
    row["number"] for rank in range(2) for row in split_dataset_by_node(stream.skip(6), rank, world_size=2)
)
print("one reader takes", validated)
print("two readers train on", trained)
print("both:", sorted({*validated} & {*trained}))
assert validated == [0, 1, 2, 3, 4, 5]
assert trained == [3, 4, *range(8, 20)]
PYTHON
