"""The loader: stored arrays as batches, each row once per epoch, from any position on.

Owned here: the public object. What comes when is `epoch`, how it is read `blocks`, where it goes
`device`, and where it stands `position`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Event
from typing import Any, Literal, NamedTuple, NoReturn, Self

import jax
from jax.sharding import Sharding

from jaxstore.errors import BusyError, FormatError
from jaxstore.loading.building import make_recipe, open_variables, select
from jaxstore.loading.describe import LoaderDescription, describe
from jaxstore.loading.device import DeviceTransform, To, placement
from jaxstore.loading.engine import make_engine
from jaxstore.loading.epoch import Remainder
from jaxstore.loading.identity import data_digest, identity_of
from jaxstore.loading.iteration import EpochIterator
from jaxstore.loading.memory import plan_memory
from jaxstore.loading.options import (
    Destination,
    Order,
    Work,
    at_least,
    parse_destination,
    parse_work,
)
from jaxstore.loading.position import Position, position_in, state_of
from jaxstore.loading.programs import wait_for_programs
from jaxstore.loading.recipe import BatchTransform, Recipe
from jaxstore.loading.split import SplitManifest, SplitName
from jaxstore.loading.statistics import EpochStatistics
from jaxstore.loading.views import Variables
from jaxstore.stores.base import Json


class Parts(NamedTuple):
    """What a loader is made of, for `feed`."""

    recipe: Recipe
    destination: Destination
    work: Work
    is_closed: Callable[[], bool]


class Loader:
    """Shuffled batches of stored arrays.

    `for batch in loader` is one epoch, the next `for` the next one. Which rows come when depends on
    the seed, the epoch, the chunks, `batch_size` and `window_chunks` alone.

    Args:
        source: A path or URL, a handle of h5py, zarr or obstore, a run, an array of a result, or a
            mapping from names to any of them and to arrays in memory.
        variables: Names of arrays, `Variable` records, or a mapping from labels to them; None is
            all arrays.
        batch_size: Rows of a batch, of all processes together.
        split: Name of the split to load; None is all rows.
        manifest: Of the splits; None is `split_by_chunk` of the array with the largest chunks.
        seed: Of the order.
        shuffle: False gives rows in their order.
        window_chunks: Chunks that are shuffled together, which costs their memory twice. None
            shuffles all rows with one another.
        remainder: Of rows that fill no batch. "pad" fills the last batch up with rows that its
            `mask` leaves out; "drop" leaves rows out, other ones in each epoch; "carry" begins the
            next epoch with them.
        n_rows: Rows of each array that count, from the first; None is all.
        axis: The sample axis, of all arrays or by name.
        strict: Whether a chunk that is not there is an error; else it is fill values.
        to: "jax", or "numpy" for arrays on the host.
        device: Where batches go; None is JAX's default device.
        sharding: Over which devices a batch goes; of several processes too, each of which then
            reads what its devices need.
        prefetch: Batches made ahead by a thread; 0 makes each when it is asked for.
        max_inflight: Chunks read at the same time at most, each by a thread. None is the number of
            processors (8 at most), or 32 where reads wait for a network.
        memory: Bytes, or text such as "2GB", for decoded chunks and batches together. What goes
            beyond the least keeps chunks for the next epoch. None takes the least.
        batch_transform: Takes the arrays of a batch on the host, by label, and a number per row,
            uint64, which depends on seed, epoch and row alone; gives new arrays.
        device_transform: The same on the device, compiled, with a typed key per row. What XLA makes
            of a row may differ in the last bit between batch sizes and shardings.
        shuffle_on: "device" sends each chunk to the device once and gathers batches there.
        process_index: Of this process; None asks JAX, or MPI.
        process_count: Of all processes; None asks too.
        progress: Whether to show a bar over each epoch.

    Raises:
        MissingError: There is no such place or array.
        MismatchError: Arrays, manifest and settings do not go together, or JAX would change values.
        TooLargeError: It takes more than `memory`.

    >>> import numpy as np, jaxstore as js
    >>> loader = js.Loader({"x": np.arange(10.0, dtype="float32")}, batch_size=4)
    >>> for batch in loader:
    ...     print(batch["x"].shape, batch.mask.tolist())
    (4,) [True, True, True, True]
    (4,) [True, True, True, True]
    (4,) [True, True, False, False]
    """

    def __init__(
        self,
        source: Any,
        variables: Variables | None = None,
        *,
        batch_size: int,
        split: SplitName | str | None = None,
        manifest: SplitManifest | None = None,
        seed: int = 0,
        shuffle: bool = True,
        window_chunks: int | None = 16,
        remainder: Remainder = "pad",
        n_rows: int | None = None,
        axis: int | Mapping[str, int] = 0,
        strict: bool = False,
        to: To = "jax",
        device: jax.Device | None = None,
        sharding: Sharding | None = None,
        prefetch: int = 2,
        max_inflight: int | None = None,
        memory: int | str | None = None,
        batch_transform: BatchTransform | None = None,
        device_transform: DeviceTransform | None = None,
        shuffle_on: Literal["host", "device"] = "host",
        process_index: int | None = None,
        process_count: int | None = None,
        progress: bool = False,
    ) -> None:
        order = Order(batch_size, seed, shuffle, window_chunks, remainder)
        work = parse_work(
            prefetch=prefetch,
            max_inflight=max_inflight,
            memory=memory,
            strict=strict,
            progress=progress,
        )
        destination = parse_destination(
            to=to,
            device=device,
            sharding=sharding,
            batch_transform=batch_transform,
            device_transform=device_transform,
            shuffle_on=shuffle_on,
            process_index=process_index,
            process_count=process_count,
        )
        self._closed = Event()  # shared with feeds, which so need not keep the loader
        given, self._sources = open_variables(source, variables, axis=axis, is_strict=strict)
        try:
            geometries = {name: found.geometry for name, found in self._sources.items()}
            selection = select(geometries, split=split, manifest=manifest, n_rows=n_rows)
            goal = placement(to, destination.where, destination.target, batch_size)
            self._recipe = make_recipe(
                given, self._sources, selection, order, destination, goal.positions
            )
            self._memory = plan_memory(self._recipe, work)
            self._engine = make_engine(self._recipe, self._memory, destination, goal)
            self.parts = Parts(self._recipe, destination, work, self._closed.is_set)
        except BaseException:
            self._close_sources()
            raise
        self._work = work
        self._identity = identity_of(self._recipe, selection.n_rows)
        self._position = self._next = Position(0, 0)
        self._waits_for_programs = False
        self._last_epoch: EpochStatistics | None = None
        self._data: str | None = None  # found out when it is first asked for: that reads

    def __iter__(self) -> EpochIterator:
        start = self._next
        batches = self._batches(start, before=self._waited, report=self._told)
        self._position, self._next = start, Position(start.epoch + 1, 0)
        return batches

    def __len__(self) -> int:
        """Batches that the next `for` gives."""
        return self._recipe.schedule.n_batches(self._next.epoch) - self._next.batch

    def iterate(self, epoch: int, batch: int = 0) -> EpochIterator:
        """The batches of any epoch from one of them on; the position of the loader stays.

        Args:
            epoch: Counted from 0.
            batch: Of the epoch.

        Raises:
            BusyError: The loader is closed.
            ValueError: Epoch or batch is no count.
        """
        at_least("epoch", epoch, 0)
        at_least("batch", batch, 0)
        return self._batches(Position(epoch, batch))

    def state(self) -> dict[str, Json]:
        """Where the loader is, as small JSON: after the batch that it last gave.

        Batches that are made ahead do not count. The first call reads one row of each array, so
        that `restore` knows the data again.
        """
        return state_of(self._position, self._whole_identity())

    def restore(self, state: Json) -> None:
        """Go on at a state, of this loader or of one with the same data, order and batch size.

        The next `for` gives the rest of that epoch. The number of processes and threads, and of
        batches made ahead, may differ.

        Raises:
            FormatError: It is no state of a loader.
            MismatchError: Other batches would come; the message says why.
        """
        found = position_in(state, self._whole_identity())
        n_batches = self._recipe.schedule.n_batches(found.epoch)
        if found.batch > n_batches:
            raise FormatError(
                f"restore: the state is at batch {found.batch} of epoch {found.epoch}, which has "
                f"{n_batches}. It was changed; give one that was not."
            )
        self._position = self._next = self._settled(found)

    def wait_for_programs(self) -> None:
        """From now on give no batch before all programs that JAX was given are through.

        `collector.register_data_loader` asks for it: the position is taken while a program runs,
        and must be that of its batch.
        """
        self._waits_for_programs = True

    @property
    def epoch(self) -> int:
        """Of the batch that comes next."""
        return self._position.epoch

    @property
    def last_epoch(self) -> EpochStatistics | None:
        """What the epoch that was last looped over cost, up to its last batch; None before."""
        return self._last_epoch

    def describe(self) -> LoaderDescription:
        """What an epoch takes and does, without reading anything."""
        return describe(self._recipe, self._memory)

    def close(self) -> None:
        """Let go of files and memory. Batches that were given stay as they are."""
        self._closed.set()
        self._engine.forget()
        self._close_sources()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Loader is not pickled: it has threads, files and credentials. Send its source and "
            "settings, make it there, and give its state() to restore()."
        )

    def __repr__(self) -> str:
        return f"<{self.describe()}>"

    def _repr_html_(self) -> str:
        return self.describe()._repr_html_()

    def _batches(
        self,
        start: Position,
        *,
        before: Callable[[], None] | None = None,
        report: Callable[[Position, EpochStatistics], None] | None = None,
    ) -> EpochIterator:
        if self._closed.is_set():
            raise BusyError("this loader is closed. Make a new one.")
        return EpochIterator(
            self._engine.batches,
            start,
            self._recipe.schedule.n_batches(start.epoch),
            prefetch=self._work.prefetch,
            shows_progress=self._work.shows_progress,
            before=before,
            report=report,
        )

    def _close_sources(self) -> None:
        for source in self._sources.values():
            source.close()

    def _waited(self) -> None:
        if self._waits_for_programs:
            wait_for_programs()

    def _told(self, position: Position, statistics: EpochStatistics) -> None:
        self._position = self._settled(position)
        self._last_epoch = statistics

    def _settled(self, position: Position) -> Position:
        """A position where an epoch has ended is the beginning of the next one."""
        is_end = position.batch >= self._recipe.schedule.n_batches(position.epoch)
        return Position(position.epoch + 1, 0) if is_end else position

    def _whole_identity(self) -> dict[str, Json]:
        if self._data is None:
            self._data = data_digest(self._recipe)
        return {**self._identity, "data": self._data}
