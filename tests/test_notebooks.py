"""The notebooks: each runs in a fresh kernel, and what is committed came from the code as it is.

`uv run python tests/test_notebooks.py` executes all of them and saves them in place, outputs and
all; `uv run python tests/test_notebooks.py notebooks/1_*.ipynb` only some. Do so after any change
of their code, look at the pictures, and commit.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 300_000
LIMIT_S = 240  # a minute on two idle cores, and the cores of a test run are not idle

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def code_token(notebook):
    """What the code was when the outputs were made."""
    code = "\0".join(cell.source for cell in code_cells(notebook))
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def executed(notebook, *, directory: Path):
    """The same notebook with the outputs of a fresh kernel, which has `directory` to itself.

    Raises:
        CellExecutionError: A cell failed; it names the cell.
    """
    work, temporary = directory / "work", directory / "tmp"
    work.mkdir()
    temporary.mkdir()
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        "JAX_PLATFORMS": "cpu",
        "PYTHONWARNINGS": "default",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TMPDIR": str(temporary),
        "IPYTHONDIR": str(directory / "ipython"),  # nobody's startup files
    }
    environment.pop("XLA_FLAGS", None)  # the four devices of the other tests
    fresh = nbformat.from_dict(notebook)
    client = nbclient.NotebookClient(
        fresh,
        timeout=LIMIT_S,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(work)}},
    )
    client.execute(env=environment, cleanup_kc=True)
    left = sorted(path.name for path in work.iterdir())
    assert not left, f"the notebook left {left} where it was started; write to a temporary folder"
    return fresh


def kinds(notebook):
    """What each code cell shows, without the values, which depend on the machine."""
    return [
        {kind for output in cell.outputs for kind in output.get("data", {output.output_type: 0})}
        for cell in code_cells(notebook)
    ]


def complaints(notebook):
    """What went to stderr, and errors: warnings are among them."""
    return [
        output
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "error" or output.get("name") == "stderr"
    ]


@each
def test_a_notebook_runs_in_a_fresh_kernel_without_a_complaint(path, tmp_path):
    committed = nbformat.read(path, as_version=4)
    fresh = executed(committed, directory=tmp_path)
    assert complaints(fresh) == []
    assert kinds(fresh) == kinds(committed)


@each
def test_what_is_committed_came_from_the_code_as_it_is(path):
    committed = nbformat.read(path, as_version=4)
    nbformat.validate(committed)
    again = "execute it again: python tests/test_notebooks.py"
    assert committed.metadata.get("jaxstore", {}).get("code") == code_token(committed), again
    counts = [cell.execution_count for cell in code_cells(committed)]
    assert counts == list(range(1, len(counts) + 1)), again
    assert complaints(committed) == []
    assert any("image/png" in shown for shown in kinds(committed))
    assert path.stat().st_size < MOST_BYTES


def main(paths: list[Path]) -> None:
    """Execute notebooks and save them in place."""
    for path in paths:
        with tempfile.TemporaryDirectory() as directory:
            fresh = executed(nbformat.read(path, as_version=4), directory=Path(directory))
        fresh.metadata["jaxstore"] = {"code": code_token(fresh)}
        nbformat.write(fresh, path)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB", *complaints(fresh))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or NOTEBOOKS)
