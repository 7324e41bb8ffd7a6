#!/usr/bin/env bash
# Tars of WebDataset that `datasets` streams cannot be read as Arrow tables or pandas frames of several samples.
#
# Packages:   datasets 5.2.0, Pillow 13.0.0, pandas 3.0.6.
# Expected:   `stream.with_format("arrow").iter(batch_size=...)` gives tables, as it does for Parquet files, JSON lines and
#             generators; the guide to streaming names no format of files for which it does not.
# Happens:    ArrowInvalid, "Schema at index 1 was different": within a batch one sample has its columns in the order of
#             the features, the next has `__key__` and `__url__` first, and tables are joined as they come. One sample at
#             a time, or rows in other formats, work.
# Hurts:      Whoever copies or filters web-scale image archives without decoding them, or reads their captions and
#             labels into pandas; the same lines work on the Parquet copy of the dataset.
# Avoid:      `batch_size=1` and join the tables with `pyarrow.concat_tables(..., promote_options="default")`.
#
# Observed, three tars of five samples, batches of three:
#   arrow, pandas:      ArrowInvalid
#   numpy, no format:   5 batches
#   arrow one by one:   15 tables
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" datasets==5.2.0 pillow==13.0.0 pandas==3.0.6

python - <<'PYTHON'
import io
import tarfile

import datasets
import pyarrow as pa
from PIL import Image

datasets.disable_progress_bars()
files = [f"{shard}.tar" for shard in range(3)]
for file in files:
    with tarfile.open(file, "w") as tar:
        for sample in range(5):
            picture = io.BytesIO()
            Image.new("L", (8, 8), 40 * sample).save(picture, "png")
            for kind, stored in (("png", picture.getvalue()), ("cls", b"1")):
                entry = tarfile.TarInfo(f"{sample}.{kind}")
                entry.size = len(stored)
                tar.addfile(entry, io.BytesIO(stored))


def batches(kind, size):
    stream = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True)
    try:
        return str(sum(1 for _ in stream.with_format(kind).iter(batch_size=size)))
    except pa.ArrowInvalid as error:
        assert "Schema at index 1 was different" in str(error)
        return "ArrowInvalid"


found = {(kind, size): batches(kind, size) for kind in ("arrow", "pandas", "numpy", None) for size in (3, 1)}
for (kind, size), what in found.items():
    print(f"{kind}, batches of {size}: {what}")
assert found["arrow", 3] == found["pandas", 3] == "ArrowInvalid"
assert found["numpy", 3] == found[None, 3] == "5"
assert found["arrow", 1] == "15"
PYTHON
