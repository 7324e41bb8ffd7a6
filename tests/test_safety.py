"""No code that runs what a file says, no pickle, and no token in anything that a run leaves behind."""

from __future__ import annotations

import ast
import io
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import transformers
import yaml
from every_case import every_case
from transformers.trainer_pt_utils import safe_globals

from vecaf_hf import CEACallback
from vecaf_hf.reporting import summarise, write_plots
from vecaf_hf.reporting.markdown import escaped
from vecaf_hf.reporting.summary import WIDEST_CELL

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("vecaf_hf/**/*.py"), *ROOT.glob("recipes/**/*.py"), *ROOT.glob("setup.py")])
TOKEN = "hf_NobodyMayReadThis"

# --- What the code does not do ---

# ruff finds the rest: rules S, and the modules and functions that pyproject.toml bans.
CALLS = {"compile": "runs text", "__import__": "loads what data names"}
KEYWORDS = {"allow_pickle", "trust_remote_code"}


def dangers(source: str) -> Iterator[str]:
    """What a module does that no module of ours may, as `line: what`."""
    for node in ast.walk(ast.parse(source)):
        for danger in dangers_of(node):
            yield f"{node.lineno}: {danger}"


def dangers_of(node: Any) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and "pickle" in node.attr:
        yield f"uses {node.attr}"
    elif isinstance(node, ast.Call):
        yield from dangers_of_call(node)
    elif isinstance(node, (ast.FunctionDef, ast.Lambda)):
        given = node.args
        defaults = [*zip(reversed(given.args), reversed(given.defaults), strict=False)]
        defaults += zip(given.kwonlyargs, given.kw_defaults, strict=True)
        yield from (f"{arg.arg} by default" for arg, value in defaults if arg.arg in KEYWORDS and is_true(value))


def dangers_of_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    # By its bare name: `re.compile` and `torch.compile` compile no Python.
    if called in CALLS:
        yield f"{called} {CALLS[called]}"
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    yield from (f"{called} with {name}" for name in KEYWORDS & given.keys() if is_true(given[name]))
    if called == "torch.load" and not is_true(given.get("weights_only")):
        yield f"{called} without weights_only=True"


def is_true(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def test_the_sources_are_found():
    assert {"trainer.py", "encoder.py", "finetune.py", "local_models.py"} <= {path.name for path in SOURCES}


@every_case("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_does_nothing_dangerous(path):
    assert list(dangers(path.read_text(encoding="utf-8"))) == []


@every_case("path", sorted(ROOT.glob("recipes/**/*.yaml")), ids=lambda path: path.name)
def test_a_recipes_options_trust_no_code(path):
    assert not yaml.safe_load(path.read_text()).get("trust_remote_code")


@every_case(
    "source",
    [
        "frame.to_pickle(path)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "def load(name, *, trust_remote_code: bool = True): pass",
        "def load(name, trust_remote_code=True, other=1): pass",
        "compile(text, '', 'exec')",
        "__import__(name)",
    ],
)
def test_dangers_are_recognised(source):
    assert list(dangers(source))


@every_case(
    "source",
    [
        '"""Not a pickle."""  # nor here',
        "torch.load(path, weights_only=True)",
        "re.compile(text)",
        "torch.compile(model)",
        "AutoModel.from_pretrained(name, trust_remote_code=self.trust_remote_code)",
        "def load(name, trust_remote_code: bool = False): pass",
    ],
)
def test_what_is_not_dangerous_is_not_recognised(source):
    assert list(dangers(source)) == []


# --- Tokens ---


@pytest.fixture
def told(monkeypatch, capfd) -> Callable[[], str]:
    """All that was logged or printed while every logger talks as much as it can."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", TOKEN)
    stream = io.StringIO()
    handler, root, before = logging.StreamHandler(stream), logging.getLogger(), logging.getLogger().level
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_debug()
    transformers.logging.enable_propagation()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lambda: stream.getvalue() + "".join(capfd.readouterr())
    root.removeHandler(handler)
    root.setLevel(before)
    transformers.logging.disable_propagation()
    transformers.logging.set_verbosity(verbosity)


def holding(folder: Path, content: bytes) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path.relative_to(folder)) for path in files if content in path.read_bytes()]


def test_a_run_leaves_no_token_behind(make_vit, make_trainer, text_encoder, told, tmp_path):
    torch.manual_seed(0)
    trainer = make_trainer(
        make_vit(),
        callbacks=[CEACallback(text_encoder)],
        hub_token=TOKEN,
        hub_model_id="somebody/model",
        save_strategy="steps",
        save_steps=4,
        eval_strategy="epoch",
        log_level="debug",
    )
    trainer.train()
    folder = Path(trainer.args.output_dir)
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card(dataset="fashion")
    print(summarise(trainer.report, trainer.evaluate(), write_plots(trainer.report, folder / "plots")))
    print(trainer.args, repr(trainer.args))
    logging.getLogger("user").warning("arguments: %s", trainer.args)
    said = told()
    assert "VeCAFArguments" in said and "Saving model checkpoint" in said
    assert TOKEN not in said
    assert {"README.md", "trainer_state.json", "plots", "checkpoint-8"} <= {path.name for path in folder.iterdir()}
    # What the search can find it does find.
    (tmp_path / "witness").write_bytes(b"\x80\x04" + TOKEN.encode())
    assert holding(tmp_path, TOKEN.encode()) == ["witness"]


def test_a_run_leaves_no_pickle_but_the_optimizers(make_vit, make_trainer):
    """Trainer writes the states of optimizer, schedule and generators so, and reads them with `weights_only`."""
    trainer = make_trainer(make_vit(), save_strategy="steps", save_steps=4)
    trainer.train()
    trainer.save_model()
    folder = Path(trainer.args.output_dir)
    files = [path for path in folder.rglob("*") if path.is_file()]
    # torch.save's archives, and pickle itself.
    pickled = [path for path in files if path.read_bytes()[:2] in (b"PK", *(bytes([0x80, n]) for n in range(2, 6)))]
    assert {path.name for path in pickled} == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    for path in pickled:
        with safe_globals():
            torch.load(path, weights_only=True)


class Gate(BaseHTTPRequestHandler):
    """A Hub on which everything is gated or missing."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Gate.asked.append(self.headers.get("Authorization", ""))
        missing = "missing" in self.path
        self.send_response(404 if missing else 403)
        self.send_header("X-Error-Code", "RepoNotFound" if missing else "GatedRepo")
        self.send_header("X-Error-Message", "No entry \x1b[31m for you")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def gated_hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Gate)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_encoder_that_cannot_be_had_does_not_tell_the_token(gated_hub, tmp_path):
    script = """
        import logging, traceback
        logging.basicConfig(level=logging.DEBUG)
        from vecaf_hf import TextEncoder
        for name in ("somebody/gated", "somebody/missing"):
            try:
                TextEncoder(name)
            except ValueError as error:
                print("REFUSED", error)
                traceback.print_exc()
    """
    environment = {**os.environ, "HF_ENDPOINT": gated_hub, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path)}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    refused = [line for line in done.stdout.splitlines() if line.startswith("REFUSED")]
    assert len(refused) == 2, done.stderr
    for name, line in zip(("gated", "missing"), refused, strict=True):
        assert f"'somebody/{name}'" in line and "hf auth login" in line
        assert "check the spelling" in line and "local folder" in line
        assert line.isprintable()
    assert f"Bearer {TOKEN}" in Gate.asked, "the token was not even used"
    assert TOKEN not in done.stdout + done.stderr
    assert not holding(tmp_path, TOKEN.encode())


# --- Names from data ---

NASTY = ["two\nlines", "\x1b[2Jred", "a|b `c`", "---", "$\\frac", "\u202eevil", "../../up", "W" * 300, "<b>", "\r\x00"]


def test_names_of_classes_and_folders_break_nothing(make_trainer, make_vit, text_encoder, caplog, tmp_path):
    names = [*NASTY, "absent \x1b[31m"]
    model = make_vit()
    model.classifier, model.num_labels = torch.nn.Linear(16, len(names)), len(names)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: label for label, name in enumerate(names)}
    output = tmp_path / "run \x1b[2J\n---\n|`"
    trainer = make_trainer(
        model,
        callbacks=[CEACallback(text_encoder)],
        output_dir=str(output),
        save_strategy="steps",
        save_steps=8,
    )
    trainer.train()
    trainer.create_model_card()
    summary = summarise(trainer.report, trainer.evaluate(), write_plots(trainer.report, output / "plots"))
    assert [line for line in summary.split("\n") if not line.isprintable()] == []
    said = [record.getMessage() for record in caplog.records if record.name.startswith("vecaf_hf")]
    assert any("absent" in message for message in said)
    assert [message for message in said if not message.isprintable()] == []
    card = (output / "README.md").read_text()
    for label, name in enumerate(NASTY):
        counts = [str(record.class_counts.get(label, 0)) for record in trainer.loop_records]
        assert f"\n| {' | '.join([escaped(name, WIDEST_CELL), *counts])} |\n" in card
    # A folder of the run's own names, and nothing beside it.
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    written = {path.name for path in output.rglob("*")}
    assert not [name for name in written if not name.isprintable()]
    assert type(trainer.model).from_pretrained(output / "checkpoint-8").config.id2label == dict(enumerate(names))
