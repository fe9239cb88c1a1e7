"""Notebooks run from top to bottom, as they are committed: without outputs, and with nothing of the machine in them."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

SAID = {
    "quickstart": ["learned b=0.5", "visual tokens per layer: [100,", "control: random", "image/png"],
    "compare_selectors": ["fastv      hypervolume 0.", "within 0.4: divprune", "minus random", "image/png"],
    "add_a_selector_and_a_kernel": [
        "qwen3_vl: decode_flops holds", "ratios never rise", "runs/own", "control: random",
        "selector 'largest' is unknown", "image/png",
    ],
}  # fmt: skip
"""What the outputs of each have to show."""


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A folder to work in, and an environment in which the kernel is this interpreter with this package."""
    places = {"PYTHONPATH": ROOT, "JUPYTER_RUNTIME_DIR": tmp_path / "jupyter", "IPYTHONDIR": tmp_path / "ipython"}
    places |= {"JUPYTER_DATA_DIR": tmp_path / "jupyter", "JUPYTER_CONFIG_DIR": tmp_path / "jupyter"}
    for name, place in places.items():
        monkeypatch.setenv(name, str(place))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_every_notebook_is_known():
    assert {path.stem for path in NOTEBOOKS} == set(SAID)


@every_notebook
def test_the_notebook_runs(path, kernel):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(kernel)}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "\n".join(str(output) for output in outputs)
    said += "".join(output.text for output in outputs if output.output_type == "stream")
    for words in SAID[path.stem]:
        assert words in said, words


@every_notebook
def test_the_notebook_is_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert not cell.outputs, "clear the outputs before committing"
            assert cell.execution_count is None
    assert not re.search(rf"{re.escape(os.path.expanduser('~'))}/|/(home|tmp|Users|work)/", path.read_text())
