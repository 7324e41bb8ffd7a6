"""What is said of samples that cannot be loaded."""

import pytest
from datasets import Dataset, Features, Image, Value

from vecaf_hf.data.indexed import Unloadable
from vecaf_hf.data.ledger import LISTED, described, refuse


class Folder:
    """As torchvision's ImageFolder."""

    samples = (("cat/0.png", 0), ("dog/1.png", 1))


def test_files_are_named_where_they_can_be_told(tmp_path):
    files = [str(tmp_path / f"{index}.png") for index in range(2)]
    images = Dataset.from_dict({"picture": files}, features=Features({"picture": Image()}))
    loud = images.with_transform(lambda batch: 1 / 0)
    assert described(images, 1) == described(loud, 1) == f"sample 1 ({files[1]})"
    assert described(images.select([1, 0]), 0) == f"sample 0 ({files[1]})"
    assert described(Folder(), 1) == "sample 1 (dog/1.png)"
    nameless = [{"path": None, "bytes": b"x"}, None]
    assert described(Dataset.from_dict({"a": nameless}, features=Features({"a": Image()})), 0) == "sample 0"
    assert described(Dataset.from_dict({"a": nameless}, features=Features({"a": Image()})), 1) == "sample 1"
    for other in (Dataset.from_dict({"a": [1, 2]}, features=Features({"a": Value("int64")})), [1, 2], object()):
        assert described(other, 1) == "sample 1"


def test_nothing_to_refuse():
    refuse(Folder(), {}, "mend it")


def test_the_message_lists_samples_files_and_reasons():
    bad = {1: Unloadable("OSError: gone", "Traceback of 1"), 0: Unloadable("ValueError: odd", "Traceback of 0")}
    with pytest.raises(ValueError) as error:
        refuse(Folder(), bad, "Mend it")
    assert str(error.value) == (
        "cannot load sample 0 (cat/0.png): ValueError: odd; sample 1 (dog/1.png): OSError: gone. Mend it"
    )
    assert "Traceback of 0" in str(error.value.__cause__)


def test_a_long_list_is_cut():
    bad = {index: Unloadable("gone", "") for index in range(LISTED + 3)}
    with pytest.raises(ValueError, match=rf"sample {LISTED - 1}: gone \(and 3 more\)\."):
        refuse([], bad, "")
