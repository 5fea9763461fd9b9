"""What a user's type checker sees of the public names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import jaxstore

# A wrong use has to be an error: under `strict`, an ignored error that is none is one.
PROGRAM = """
from typing import Any, assert_type

import jaxstore as js


def step(x: Any, key: Any) -> tuple[Any, dict[str, Any]]:
    return x, {"x": x}


def peak(x: Any, *, width: int) -> dict[str, Any]:
    return {"peak": x}


with js.ZarrCollector("run.zarr", group=None) as collector:
    x, run = js.scan(step, 0.0, None, length=10, collector=collector)
    init_save, save, postprocess_save = js.save(collector, checkpoint_every=10)
    state, nothing = save(init_save({"x": 0.0}), True, {"x": x})
assert_type(run, js.Run)
assert_type(js.open_run("run.zarr"), js.Run)
assert_type(nothing, None)
for batch in js.Loader("run.zarr", variables=["x"], batch_size=4):
    assert_type(batch, js.Batch)
assert_type(js.plan(peak, "run.zarr:/x", params={"width": 3}), js.Plan)
result = js.process(peak, "run.zarr:/x", "peaks.zarr", params={"width": 3})
assert_type(result, js.Result)
assert_type(js.verify("run.zarr"), js.Report)
js.scan(3)  # type: ignore[call-arg, arg-type]
js.Loader("run.zarr", batch_size="4")  # type: ignore[arg-type]
js.scam  # type: ignore[attr-defined]
run.sample_counts  # type: ignore[attr-defined]
"""
# What jaxstore imports is left out, as reading JAX and NumPy takes most of the time.
SETTINGS = """
[mypy]
strict = true
follow_imports = silent
[mypy-jax.*,numpy.*,h5py.*,zarr.*,obstore.*]
follow_imports = skip
ignore_missing_imports = true
"""


def test_a_program_is_checked_against_the_types_of_the_public_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mypy")
    package = Path(jaxstore.__file__).parent
    assert (package / "py.typed").exists(), "type checkers pass over an installed package"
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setenv("MYPYPATH", str(package.parent))
    command = [sys.executable, "-m", "mypy", "program.py"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
