"""The public names: sorted, complete, documented, and cheap to import."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

import jaxstore

HEAVY = ("h5py", "zarr", "mpi4py", "dask", "xarray", "matplotlib", "arviz", "tqdm", "typer")
LOAD_ALL = "import sys, jaxstore; print([m for m in {heavy!r} if m in sys.modules])"


def public_objects() -> dict[str, Any]:
    return {name: getattr(jaxstore, name) for name in jaxstore.__all__}


def examples_of(value: Any) -> list[doctest.Example]:
    found = doctest.DocTestFinder(recurse=False).find(value, "it", globs={})
    return [example for test in found for example in test.examples]


def test_all_is_sorted_and_equals_the_public_names() -> None:
    names = {
        name
        for name, value in vars(jaxstore).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert jaxstore.__all__ == sorted(names)


@pytest.mark.parametrize("name", jaxstore.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    doc = getattr(jaxstore, name).__doc__
    assert doc, f"{name} has no docstring"
    assert not doc.startswith(f"{name}("), f"{name} has the docstring that dataclass makes"


VERBS = [name for name, value in public_objects().items() if inspect.isfunction(value)]


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_carries_a_doctest(name: str) -> None:
    assert examples_of(getattr(jaxstore, name)), f"{name} has no example"


def test_importing_loads_nothing_heavy() -> None:
    code = LOAD_ALL.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
