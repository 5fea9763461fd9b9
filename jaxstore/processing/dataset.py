"""A result as xarray has it.

Owned here: which of its arrays become variables, and under which names. xarray is imported here
when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxstore.processing.result_array import ResultArray


def dataset_of(arrays: Mapping[str, ResultArray], attrs: Mapping[str, Any]) -> Any:
    """An `xarray.Dataset` of arrays, in memory; "fit/amp" is called "fit_amp" there.

    Raises:
        ImportError: xarray is not installed.
    """
    try:
        import xarray
    except ImportError as error:
        raise ImportError("to_dataset needs xarray: pip install 'jaxstore[analysis]'.") from error
    named = {name.replace("/", "_"): (array.dims, array[...]) for name, array in arrays.items()}
    return xarray.Dataset(named, attrs=dict(attrs))
