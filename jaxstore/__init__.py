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
    "DataCollector",
    "DataLoader",
    "EpochStatistics",
    "ExistsError",
    "Feed",
    "FeedState",
    "FormatError",
    "HDF5Collector",
    "HDF5Storage",
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
