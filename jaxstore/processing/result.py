"""A result at rest: its arrays, what made them, how far it is, and whether it is sound.

Owned here: what a user does with a result. How it came about is `carrying`, which of them there
are `finding`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import PyTree

from jaxstore.card import card
from jaxstore.errors import MissingError
from jaxstore.processing.dataset import dataset_of
from jaxstore.processing.manifest import Manifest, State, fit
from jaxstore.processing.outputs import ERRORS, ITEM, PARAMS, SELECT
from jaxstore.processing.params import decode_params
from jaxstore.processing.result_array import ResultArray
from jaxstore.processing.same import shown
from jaxstore.stores.base import Json
from jaxstore.stores.report import Damage, Report
from jaxstore.stores.results import DONE, FAILED, Marks, Region, ResultPlace
from jaxstore.tree import nest

Retry = Callable[[], "Result"]


class Result:
    """A result of `process`, complete or not; `js.find` lists those there are.

    Args:
        place: It lies in.
        name: Of its group there.
        n_items: That it shows, the first ones; None for all. An ensemble may have more.
        retry: Computes its failed items again; None for a result that was found, not computed.

    >>> import jaxstore as js, jax.numpy as jnp, numpy as np
    >>> res = js.process(lambda x: {"peak": jnp.max(x)}, np.eye(3, dtype="f4"), "memory", name="p")
    >>> res["peak"][:], res.state
    (array([1., 1., 1.], dtype=float32), 'complete')
    """

    def __init__(
        self,
        place: ResultPlace,
        name: str,
        *,
        n_items: int | None = None,
        retry: Retry | None = None,
    ) -> None:
        self._group = place.open(name)
        self._n_items = n_items
        self._retry = retry
        self.place = place

    @property
    def name(self) -> str:
        """Of its group: "raw-peak_000"."""
        return self._group.name

    @property
    def location(self) -> str:
        """Where it is, without credentials."""
        return self._group.location

    @property
    def manifest(self) -> Manifest:
        """All it says of itself, as of now."""
        found = Manifest.from_json(self._group.manifest(), location=self.location)
        return found if self._n_items is None else found.first(self._n_items, self._group.marks())

    @property
    def state(self) -> State:
        """Complete, or partial while items are to do or have failed."""
        return self.manifest.state

    @property
    def status(self) -> Marks:
        """One mark per unit: 0 to do, 1 done, 2 failed."""
        return fit(self._group.marks(), self.manifest.units.n_units)

    @property
    def n_items(self) -> int:
        """Items it is made of."""
        return self.manifest.units.n_items

    @property
    def fingerprint(self) -> str:
        """Equal for equal computations."""
        return self.manifest.computation.fingerprint

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the kernel, as they were given; arrays are NumPy's."""
        names = [name for name in self._group.names() if name.startswith(f"{PARAMS}/")]
        arrays = {name.removeprefix(f"{PARAMS}/"): self._group.read(name) for name in names}
        return decode_params(self.manifest.computation.params, arrays)

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords of `process` that ask for the same again; a source in memory is None."""
        chosen = f"{PARAMS}/{SELECT}"
        select = self._group.read(chosen) if chosen in self._group.names() else None
        return {**self.manifest.settings, "params": self.params, "select": select}

    @property
    def provenance(self) -> dict[str, Json]:
        """Everything that is known of how it came about, as JSON."""
        return self.manifest.to_json()

    def keys(self) -> list[str]:
        """Names of its arrays."""
        return [output.name for output in self.manifest.outputs]

    @property
    def outputs(self) -> PyTree[ResultArray]:
        """Its arrays, in nested dicts as the kernel gave them; one array alone is itself."""
        return nest([(output.keys, self[output.name]) for output in self.manifest.outputs])

    def __getitem__(self, name: str) -> ResultArray:
        if name not in self.keys():
            raise MissingError(f"no {name!r} in {self.location}. There is {self.keys()}.")
        spec = self._group.spec(name)
        if spec.dims[:1] == (ITEM,):
            spec = replace(spec, shape=(self.n_items, *spec.shape[1:]))
        return ResultArray(self._group, spec, self.place)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    @property
    def errors(self) -> dict[int, str]:
        """What went wrong with each item that failed, where that was recorded."""
        units, found = self.manifest.units, {}
        for unit in np.flatnonzero(self.status == FAILED).tolist():
            items = units.items(unit)
            block = units.block(unit)
            region = (slice(items.start, items.stop), slice(block, block + 1))
            rows = self._group.read(ERRORS, region)
            for item, row in zip(items, rows, strict=True):
                if row.any():
                    found[item] = row.tobytes().rstrip(b"\0").decode(errors="replace")
        return found

    def retry_failed(self) -> Result:
        """Compute the units that failed again, and those that are to do.

        Raises:
            MissingError: This result was found, not computed, so that there is no function.
        """
        if self._retry is None:
            raise MissingError(
                f"{self.location} was found, not computed here, so its function is not known. Call "
                "process(function, source, ..., resume=result)."
            )
        return self._retry()

    def verify(self) -> Report:
        """Read every chunk that is marked, and tell which are damaged or absent."""
        began = time.perf_counter()
        manifest = self.manifest
        damage, n_chunks, n_bytes = [], 0, 0
        for name, region in self._regions(manifest):
            spec = self._group.spec(name)
            shape = [part.stop - part.start for part in region]
            n_chunks += int(np.prod([-(-n // c) for n, c in zip(shape, spec.chunks, strict=True)]))
            n_bytes += int(np.prod(shape)) * spec.dtype.itemsize
            damage += [Damage(name, what) for what in self._group.damage(name, region)]
        seconds = time.perf_counter() - began
        n_arrays = len(manifest.outputs)
        return Report(self.location, n_arrays, n_chunks, n_bytes, seconds, tuple(damage), True)

    def _regions(self, manifest: Manifest) -> Iterator[tuple[str, Region]]:
        """What has to be there, by the marks."""
        for unit in np.flatnonzero(self.status == DONE).tolist():
            yield from manifest.regions(unit)
        if manifest.states and manifest.state == "complete":
            for output in manifest.outputs:
                yield output.name, tuple(slice(0, n) for n in output.shape)

    def to_dataset(self) -> Any:
        """The arrays as an `xarray.Dataset`, in memory.

        Raises:
            ImportError: xarray is not installed.
        """
        attrs = {"location": self.location, **self.manifest.attrs}
        return dataset_of({name: self[name] for name in self.keys()}, attrs)

    def close(self) -> None:
        """Let go of files."""
        self._group.close()

    def __repr__(self) -> str:
        arrays = (f"  {name:<12} {self[name].shape} {self[name].dtype}" for name in self.keys())
        params = (f"  {name} = {value}" for name, value in self._told_params())
        return "\n".join([f"<Result {self.location}: {self._told_state()}>", *arrays, *params])

    def _repr_html_(self) -> str:
        params = ", ".join(f"{name}={value}" for name, value in self._told_params())
        return card(
            f"result at {self.location}",
            {"state": self._told_state(), "params": params},
            [(name, self[name].shape, self[name].dtype) for name in self.keys()],
            share=float((self.status == DONE).mean()),
        )

    def _told_state(self) -> str:
        status = self.status
        done, failed = int((status == DONE).sum()), int((status == FAILED).sum())
        told = f", {failed} failed" * bool(failed)
        return f"{self.state}, {done} of {len(status)} units{told}"

    def _told_params(self) -> list[tuple[str, str]]:
        return [(name, shown(value)) for name, value in self.manifest.computation.params.items()]
