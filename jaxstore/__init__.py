"""Sampling and storage for JAX: save draws out of jit, load them back, process them in place."""

from jaxstore.errors import (
    BusyError,
    ExistsError,
    FormatError,
    JaxstoreError,
    LostDrawsError,
    MismatchError,
    MissingError,
    TooManyDrawsError,
)
from jaxstore.saving.collectors import (
    DataCollector,
    HDF5Collector,
    MemoryCollector,
    ZarrCollector,
)
from jaxstore.saving.no_save import no_save
from jaxstore.saving.run import Run, open_run
from jaxstore.saving.scan import scan
from jaxstore.saving.static import static_information
from jaxstore.saving.stored import StoredArray
from jaxstore.saving.triple import save
from jaxstore.tree import (
    dict_to_pytree,
    pytree_dict_keys,
    pytree_to_dict,
    register_dictionize_rule,
)

__all__ = [
    "BusyError",
    "DataCollector",
    "ExistsError",
    "FormatError",
    "HDF5Collector",
    "JaxstoreError",
    "LostDrawsError",
    "MemoryCollector",
    "MismatchError",
    "MissingError",
    "Run",
    "StoredArray",
    "TooManyDrawsError",
    "ZarrCollector",
    "dict_to_pytree",
    "no_save",
    "open_run",
    "pytree_dict_keys",
    "pytree_to_dict",
    "register_dictionize_rule",
    "save",
    "scan",
    "static_information",
]
