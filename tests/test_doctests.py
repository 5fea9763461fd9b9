"""The examples of all modules, each module a test."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import jaxstore

MODULES = ["jaxstore", *(m.name for m in pkgutil.walk_packages(jaxstore.__path__, "jaxstore."))]
EXTRAS = {"arviz", "blackjax", "matplotlib", "mpi4py", "sklearn", "xarray"}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_are_true(
    name: str, tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        pytest.skip(f"needs {error.name}")
    failed = doctest.testmod(module)
    assert failed.failed == 0, f"{failed.failed} of {failed.attempted} examples; see above"
