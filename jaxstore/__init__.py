"""Sampling and storage for JAX: save draws out of jit, load them back, process them in place."""

from jaxstore.errors import (
    BusyError,
    ExistsError,
    FormatError,
    JaxstoreError,
    LostDrawsError,
    MismatchError,
    MissingError,
    TooLargeError,
    TooManyDrawsError,
)
from jaxstore.saving.base_storage import BaseStorage
from jaxstore.saving.checkpoint import Checkpoint
from jaxstore.saving.collectors import HDF5Collector, MemoryCollector, ZarrCollector
from jaxstore.saving.data_collector import DataCollector
from jaxstore.saving.loaders import DataLoader
from jaxstore.saving.news import News
from jaxstore.saving.no_save import no_save
from jaxstore.saving.report import Report
from jaxstore.saving.run import Run, open_run
from jaxstore.saving.scan import scan
from jaxstore.saving.static import static_information
from jaxstore.saving.storage_reader import (
    StoredSnapshots,
    open_ensemble,
    open_storage,
    rank_directory,
)
from jaxstore.saving.storages import HDF5Storage, NumpyStorage, ZarrStorage
from jaxstore.saving.stored import StoredArray
from jaxstore.saving.triple import save
from jaxstore.saving.verify import verify
from jaxstore.tree import (
    dict_to_pytree,
    pytree_dict_keys,
    pytree_to_dict,
    register_dictionize_rule,
)

__all__ = [
    "BaseStorage",
    "BusyError",
    "Checkpoint",
    "DataCollector",
    "DataLoader",
    "ExistsError",
    "FormatError",
    "HDF5Collector",
    "HDF5Storage",
    "JaxstoreError",
    "LostDrawsError",
    "MemoryCollector",
    "MismatchError",
    "MissingError",
    "News",
    "NumpyStorage",
    "Report",
    "Run",
    "StoredArray",
    "StoredSnapshots",
    "TooLargeError",
    "TooManyDrawsError",
    "ZarrCollector",
    "ZarrStorage",
    "dict_to_pytree",
    "no_save",
    "open_ensemble",
    "open_run",
    "open_storage",
    "pytree_dict_keys",
    "pytree_to_dict",
    "rank_directory",
    "register_dictionize_rule",
    "save",
    "scan",
    "static_information",
    "verify",
]
