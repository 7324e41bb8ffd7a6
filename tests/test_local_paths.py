"""What is a path of this machine and what only looks like one."""

import json

from every_case import every_case

from vecaf_hf.hub.files import addition
from vecaf_hf.reporting.local_paths import is_local_path, without_paths, without_places


@every_case("text", ["/data/x", "~/x", "./x", "../x", "C:\\x", "C:/x", "a\\b", "tests"])
def test_paths(text):
    assert is_local_path(text)


@every_case("text", ["google/vit-base-patch16-224", "resnet18", "timm/resnet18.a1_in1k"])
def test_ids(text):
    assert not is_local_path(text)


@every_case(
    ("text", "left"),
    [
        ("/home/me/run/checkpoint-4", "checkpoint-4"),
        ("cannot identify image file '/data/a b/17.png'", None),
        ("[Errno 2] No such file or directory: '/data/cats/17.png'", "[Errno 2] No such file or directory: '17.png'"),
        ("at C:\\Users\\me\\17.png, line 3", "at 17.png, line 3"),
        ("/home/me/my run/checkpoint-4", "checkpoint-4"),
        ("C:/Users/me/my run", "my run"),
        ("file:///home/me/x.png", "x.png"),
        ("no '/home/me/a b/x.png' there", "no 'x.png' there"),
        ("no `/home/me/x.png`", "no `x.png`"),
        ("path:/home/me/x.png, at C:/Users/me/y.png", "path:x.png, at y.png"),
        ("runs/one/checkpoint-4", "checkpoint-4"),
        ("runs/one", "one"),
        ("runs/oneself", "runs/oneself"),
        ("see https://hf.co/a/b or google/vit", "see https://hf.co/a/b or google/vit"),
        ("1/2 of all, and/or none", "1/2 of all, and/or none"),
    ],
)
def test_texts(text, left):
    found = without_paths({"a": [text, 1, None]}, {"runs/one"})["a"]
    assert found[1:] == [1, None]
    assert "/data" not in found[0] if left is None else found[0] == left


def test_configs_keep_names_of_classes(tmp_path):
    config = {
        "_name_or_path": "/data/base",
        "backbone": {"name_or_path": "google/vit", "file": str(tmp_path)},
        "id2label": {"0": "/m/01g317", "1": "C:\\"},
        "label_names": ["/m/01g317"],
    }
    assert without_places(config) == {
        "backbone": {"name_or_path": "google/vit"},
        "id2label": config["id2label"],
        "label_names": ["/m/01g317"],
    }


def test_a_file_with_nothing_to_hide_is_committed_as_it_is(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"id2label":   {"0": "/m/0"}}')
    with addition("config.json", path, {str(tmp_path)}).as_file() as file:
        assert file.read() == path.read_bytes()
    path.write_text(json.dumps({"name_or_path": str(tmp_path), "a": 1}))
    with addition("config.json", path, {str(tmp_path)}).as_file() as file:
        assert json.loads(file.read()) == {"a": 1}
