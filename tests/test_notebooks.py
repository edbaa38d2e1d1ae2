"""Every notebook runs from a clean kernel, and is committed as it ran.

`python tests/test_notebooks.py [NOTEBOOK ...]` runs them in full and writes them back.
"""

import base64
import io
import os
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
METADATA = {
    "kernelspec": {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}
MAX_BYTES = 1_000_000

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


class ThisPython(AsyncKernelManager):
    """Starts the interpreter that runs the tests, whatever kernels are registered."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [
            sys.executable,
            "-m",
            "ipykernel_launcher",
            "-f",
            "{connection_file}",
        ]
        return KernelSpec(argv=[*command, "--log-level=ERROR"], language="python")


def run(notebook: nbformat.NotebookNode, **variables: str) -> None:
    """Execute all cells in place; a cell that raises ends it with its traceback."""
    environment = {
        **os.environ,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        # Where ipywidgets is missing tqdm says so at import.
        "PYTHONWARNINGS": "ignore:IProgress",
        **variables,
    }
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_manager_class=ThisPython,
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute(env=environment)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def complaints(notebook: nbformat.NotebookNode) -> list[str]:
    """What was written to the error stream, by warnings for example."""
    return [o.text for o in outputs(notebook) if o.get("name") == "stderr"]


def pictures(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The data of the outputs that hold a picture."""
    return [o.data for o in outputs(notebook) if "image/png" in o.get("data", {})]


def test_the_folder_has_notebooks():
    assert NOTEBOOKS


@pytest.mark.exhaustive
@every_notebook
def test_runs_from_a_clean_kernel(path):
    notebook = nbformat.read(path, as_version=4)
    n_pictures = len(pictures(notebook))
    # The rewriting runs compile as users do; here no number is looked at.
    run(notebook, PYROX_FAST="1", JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    assert not complaints(notebook)
    assert len(pictures(notebook)) == n_pictures


@every_notebook
def test_is_committed_executed(path):
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "run it top to bottom"
    assert not [o for o in outputs(notebook) if o.output_type == "error"]
    assert not complaints(notebook)
    assert pictures(notebook), "a notebook shows a picture"


@every_notebook
def test_is_small_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    assert path.stat().st_size < MAX_BYTES
    assert notebook.metadata == METADATA
    assert not any(cell.metadata for cell in notebook.cells)
    assert str(Path.home()) not in path.read_text(encoding="utf-8")


def smaller(png: str) -> str:
    """A picture, base64 of PNG, with a palette of 256 colours: a third of the size."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    buffer = io.BytesIO()
    reduced = image.quantize(256, dither=Image.Dither.NONE)
    reduced.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def rewrite(path: Path) -> None:
    """Run a notebook in full and write it back without traces of the machine."""
    notebook = nbformat.read(path, as_version=4)
    run(notebook)
    for data in pictures(notebook):
        data["image/png"] = smaller(data["image/png"])
    for node in (*notebook.cells, *outputs(notebook)):
        if "metadata" in node:
            node.metadata = nbformat.NotebookNode()
    notebook.metadata = nbformat.from_dict(METADATA)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for chosen in [Path(name) for name in sys.argv[1:]] or NOTEBOOKS:
        rewrite(chosen)
        print(f"{chosen.name}: {chosen.stat().st_size / 1000:.0f} kB")
