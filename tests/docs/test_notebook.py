"""The notebook runs top to bottom, and what it shows in the repository is such a run of it.

After a change: `pip install jupyter && jupyter execute --inplace notebooks/quickstart.ipynb`.
"""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
FILE = ROOT / "notebooks" / "quickstart.ipynb"
LARGEST = 300_000  # bytes
TIMEOUT = 300  # seconds a cell

# In place of the cell tagged `parameters`.
SMALL = {
    "train_images": 400,
    "test_images": 40,
    "image_size": 32,
    "num_loops": 2,
    "selection_fraction": 0.3,
    "max_steps": 4,
    "batch_size": 8,
}


@pytest.fixture(scope="module")
def shipped() -> NotebookNode:
    return nbformat.read(FILE, as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook: NotebookNode) -> NotebookNode:
    (found,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    return found


def result(notebook: NotebookNode) -> dict[str, float]:
    """What the last cell ends with."""
    (shown,) = [output for output in code(notebook)[-1].outputs if output.output_type == "execute_result"]
    return ast.literal_eval(shown.data["text/plain"])


@pytest.fixture(scope="module")
def executed(shipped: NotebookNode, tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    """The notebook made small and run in a fresh kernel, which finds its own caches and settings empty."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = copy.deepcopy(shipped)
    parameters = {**SMALL, "output_dir": str(folder / "runs")}
    tagged(notebook).source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    with pytest.MonkeyPatch.context() as environment:
        for name, place in (("HF_HOME", "hf"), ("IPYTHONDIR", "ipython"), ("JUPYTER_RUNTIME_DIR", "jupyter")):
            environment.setenv(name, str(folder / place))
        for name, value in (("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "1"), ("PYTHONPATH", str(ROOT))):
            environment.setenv(name, value)
        resources = {"metadata": {"path": str(FILE.parent)}}
        NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources).execute()
    return notebook


def assigned(source: str) -> set[str]:
    return {
        target.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign) for target in node.targets
    }


def test_it_runs_and_the_loaded_model_is_the_trained_one(executed: NotebookNode) -> None:
    found = result(executed)
    assert found["loaded"] == found["trained"]


def test_every_size_is_a_parameter(shipped: NotebookNode) -> None:
    assert assigned(tagged(shipped).source) == {*SMALL, "output_dir"}


def test_what_it_shows_is_one_run_without_warnings(shipped: NotebookNode) -> None:
    cells = code(shipped)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    found = result(shipped)
    assert found["loaded"] == found["trained"]


def test_what_it_shows_is_small_and_names_no_machine(shipped: NotebookNode) -> None:
    assert FILE.stat().st_size < LARGEST
    outputs = nbformat.from_dict({"shown": [cell.outputs for cell in code(shipped)]})
    assert not any(place in str(outputs) for place in (str(ROOT), str(Path.home()) + "/", "site-packages"))


def test_its_pictures_bear_out_its_text(shipped: NotebookNode) -> None:
    """It says that both selections end well above plain finetuning."""
    (table,) = [
        output.data["text/html"]
        for cell in code(shipped)
        for output in cell.outputs
        if "TFLOPs" in output.get("data", {}).get("text/html", "")
    ]
    rows = dict(re.findall(r"<th>([\w +]+)</th>\s*<td>([\d.]+)</td>", table))
    assert min(float(rows["ods + CEA"]), float(rows["balanced"])) > float(rows["full"]) + 3


def test_its_links_lead_somewhere(shipped: NotebookNode) -> None:
    texts = [cell.source for cell in shipped.cells if cell.cell_type == "markdown"]
    links = [link for text in texts for link in re.findall(r"\]\((?!https?:)([^)#]+)", text)]
    assert links and all((FILE.parent / link).exists() for link in links)
