"""Sampling and storage for JAX: save draws out of jit, load them back, process them in place."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    from jaxstore.face.convert import Conversion, convert
    from jaxstore.loading.batch import Batch
    from jaxstore.loading.describe import LoaderDescription
    from jaxstore.loading.feed import Feed, feed
    from jaxstore.loading.feed_state import FeedState
    from jaxstore.loading.loader import Loader
    from jaxstore.loading.plan import ChunkRead, ReadPlan, build_read_plan, dedup_ratio
    from jaxstore.loading.shuffle import block_shuffled_order, chunk_permutation, shuffle_quality
    from jaxstore.loading.split import SplitManifest, SplitName, split_by_chunk
    from jaxstore.loading.statistics import EpochStatistics
    from jaxstore.loading.views import Variable
    from jaxstore.processing.ensemble import ensemble
    from jaxstore.processing.finding import find
    from jaxstore.processing.plan import Plan
    from jaxstore.processing.process import plan, process
    from jaxstore.processing.process_class import Process
    from jaxstore.processing.reduce import Reduce
    from jaxstore.processing.result import Result
    from jaxstore.processing.result_array import ResultArray
    from jaxstore.processing.sample import sample
    from jaxstore.saving.base_storage import BaseStorage
    from jaxstore.saving.checkpoint import Checkpoint
    from jaxstore.saving.collectors import HDF5Collector, MemoryCollector, ZarrCollector
    from jaxstore.saving.data_collector import DataCollector
    from jaxstore.saving.loaders import DataLoader
    from jaxstore.saving.news import News
    from jaxstore.saving.no_save import no_save
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
    from jaxstore.sources.geometry import ArrayGeometry
    from jaxstore.sources.opening import ensure_local_dir, open_geometries, store_from_url
    from jaxstore.stores.icechunk_branch import IcechunkBranch
    from jaxstore.stores.report import Report
    from jaxstore.tree import (
        dict_to_pytree,
        pytree_dict_keys,
        pytree_to_dict,
        register_dictionize_rule,
    )

__all__ = [
    "ArrayGeometry",
    "BaseStorage",
    "Batch",
    "BusyError",
    "Checkpoint",
    "ChunkRead",
    "Conversion",
    "DataCollector",
    "DataLoader",
    "EpochStatistics",
    "ExistsError",
    "Feed",
    "FeedState",
    "FormatError",
    "HDF5Collector",
    "HDF5Storage",
    "IcechunkBranch",
    "JaxstoreError",
    "Loader",
    "LoaderDescription",
    "LostDrawsError",
    "MemoryCollector",
    "MismatchError",
    "MissingError",
    "News",
    "NumpyStorage",
    "Plan",
    "Process",
    "ReadPlan",
    "Reduce",
    "Report",
    "Result",
    "ResultArray",
    "Run",
    "SplitManifest",
    "SplitName",
    "StoredArray",
    "StoredSnapshots",
    "TooLargeError",
    "TooManyDrawsError",
    "Variable",
    "ZarrCollector",
    "ZarrStorage",
    "block_shuffled_order",
    "build_read_plan",
    "chunk_permutation",
    "convert",
    "dedup_ratio",
    "dict_to_pytree",
    "ensemble",
    "ensure_local_dir",
    "feed",
    "find",
    "no_save",
    "open_ensemble",
    "open_geometries",
    "open_run",
    "open_storage",
    "plan",
    "process",
    "pytree_dict_keys",
    "pytree_to_dict",
    "rank_directory",
    "register_dictionize_rule",
    "sample",
    "save",
    "scan",
    "shuffle_quality",
    "split_by_chunk",
    "static_information",
    "store_from_url",
    "verify",
]

# The same once more, for run time: a name loads its module when it is first used, so that saving
# does not wait for loading and processing, nor a help text for JAX.
_HOMES = {
    "errors": "BusyError ExistsError FormatError JaxstoreError LostDrawsError "
    "MismatchError MissingError TooLargeError TooManyDrawsError",
    "face.convert": "Conversion convert",
    "loading.batch": "Batch",
    "loading.describe": "LoaderDescription",
    "loading.feed": "Feed feed",
    "loading.feed_state": "FeedState",
    "loading.loader": "Loader",
    "loading.plan": "ChunkRead ReadPlan build_read_plan dedup_ratio",
    "loading.shuffle": "block_shuffled_order chunk_permutation shuffle_quality",
    "loading.split": "SplitManifest SplitName split_by_chunk",
    "loading.statistics": "EpochStatistics",
    "loading.views": "Variable",
    "processing.ensemble": "ensemble",
    "processing.finding": "find",
    "processing.plan": "Plan",
    "processing.process": "plan process",
    "processing.process_class": "Process",
    "processing.reduce": "Reduce",
    "processing.result": "Result",
    "processing.result_array": "ResultArray",
    "processing.sample": "sample",
    "saving.base_storage": "BaseStorage",
    "saving.checkpoint": "Checkpoint",
    "saving.collectors": "HDF5Collector MemoryCollector ZarrCollector",
    "saving.data_collector": "DataCollector",
    "saving.loaders": "DataLoader",
    "saving.news": "News",
    "saving.no_save": "no_save",
    "saving.run": "Run open_run",
    "saving.scan": "scan",
    "saving.static": "static_information",
    "saving.storage_reader": "StoredSnapshots open_ensemble open_storage rank_directory",
    "saving.storages": "HDF5Storage NumpyStorage ZarrStorage",
    "saving.stored": "StoredArray",
    "saving.triple": "save",
    "saving.verify": "verify",
    "sources.geometry": "ArrayGeometry",
    "sources.opening": "ensure_local_dir open_geometries store_from_url",
    "stores.icechunk_branch": "IcechunkBranch",
    "stores.report": "Report",
    "tree": "dict_to_pytree pytree_dict_keys pytree_to_dict register_dictionize_rule",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

if not TYPE_CHECKING:  # else any name whatever would pass the type check

    def __getattr__(name: str) -> object:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
