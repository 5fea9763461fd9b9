"""The public names: sorted, complete, documented, and cheap to import."""

from __future__ import annotations

import ast
import doctest
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import jaxstore

HEAVY = {
    "arviz", "dask", "distributed", "h5py", "hdf5plugin", "matplotlib", "mpi4py", "numcodecs",
    "obstore", "tqdm", "typer", "xarray", "zarr", "asyncio", "jax.extend", "jax._src.pallas",
}  # fmt: skip
STEPS = ("import jaxstore", "jaxstore.scan", "from jaxstore import *")
# Each step, then a line with what came with it and those before it, beyond what JAX loads.
LOADED = "import sys, jax; before = set(sys.modules)\n" + "\n".join(
    f"{step}; print(*set(sys.modules) - before)" for step in STEPS
)


def public_objects() -> dict[str, Any]:
    return {name: getattr(jaxstore, name) for name in jaxstore.__all__}


def examples_of(value: Any) -> list[doctest.Example]:
    found = doctest.DocTestFinder(recurse=False).find(value, "it", globs={})
    return [example for test in found for example in test.examples]


def imported_names() -> dict[str, str]:
    """The public names, each with its module, as type checkers read them."""
    tree = ast.parse(Path(jaxstore.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").startswith("jaxstore.")]
    return {alias.name: node.module or "" for node in ours for alias in node.names}


def test_all_is_sorted_and_equals_the_public_names() -> None:
    assert jaxstore.__all__ == sorted(imported_names())
    assert set(jaxstore.__all__) <= set(dir(jaxstore))


def test_a_name_is_at_run_time_what_type_checkers_take_it_for() -> None:
    for name, module in imported_names().items():
        assert getattr(jaxstore, name) is getattr(import_module(module), name), name


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'jaxstore' has no attribute 'scam'"):
        jaxstore.scam  # noqa: B018


@pytest.mark.parametrize("name", jaxstore.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    doc = getattr(jaxstore, name).__doc__
    assert doc, f"{name} has no docstring"
    assert not doc.startswith(f"{name}("), f"{name} has the docstring that dataclass makes"


VERBS = [name for name, value in public_objects().items() if inspect.isfunction(value)]


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_carries_a_doctest(name: str) -> None:
    assert examples_of(getattr(jaxstore, name)), f"{name} has no example"


def test_a_name_loads_its_wing_when_it_is_used_and_nothing_heavy() -> None:
    command = [sys.executable, "-c", LOADED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    bare, saving, everything = (set(line.split()) for line in done.stdout.splitlines())
    assert bare == {"jaxstore"}
    assert "jaxstore.saving.scan" in saving
    assert not [name for name in saving if ".loading." in name or ".processing." in name]
    assert "jaxstore.processing.process" in everything
    assert not HEAVY & everything
