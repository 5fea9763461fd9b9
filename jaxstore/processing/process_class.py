"""Processes as classes, for those who subclass: `Process`.

Owned here: which methods a subclass may give, and what an instance remembers. All that is computed
goes through `carrying`, so a class does nothing that the function `process` does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import jax
import numpy as np
from jaxtyping import PyTree

from jaxstore.errors import MismatchError, MissingError
from jaxstore.processing.carrying import carry_out, foresee, matching
from jaxstore.processing.manifest import told_session
from jaxstore.processing.options import Options
from jaxstore.processing.plan import Plan
from jaxstore.processing.recipe import Order
from jaxstore.processing.request import understand
from jaxstore.processing.result import Result
from jaxstore.processing.sample import read_of, sample_of
from jaxstore.processing.selection import Items
from jaxstore.processing.work import Hooks
from jaxstore.stores.base import Json
from jaxstore.stores.results import Marks
from jaxstore.stores.results_place import results_at
from jaxstore.topology import place as place_among

Array = np.ndarray[Any, Any]

# What pyUSID and Syncopy call it.
_HERE = {
    "cores": "workers",
    "h5_main": "source",
    "h5_target_group": "target",
    "keeptrials": "reduce='mean'",
    "lazy": "nothing: sources are always read as they are needed",
    "max_mem_mb": "memory, as in '4 GB'",
    "mem_multiplier": "nothing: what the compiled program takes is measured",
    "mem_thresh": "memory, as in '4 GB'",
    "method": "engine",
    "parallel": "engine",
    "parallel_debug": "engine='serial', or the method debug",
    "parallel_store": "nothing: writers never wait for one another",
    "parms_dict": "params",
}
# Of an instance, what stays in its process: open files, and what refers to them.
_HANDLES = ("source", "target", "result", "_continued")


class Process:
    """A process of one source, with its parameters; subclasses give the kernel.

    Give `kernel(self, x, **params)`, which gets one item, or `batch_kernel`, which gets many. All
    else has a default; `read`, `write` and `metadata` may be overridden. Earlier results, also of
    interrupted computations, are found by all that decides their values: attributes of the
    instance that the kernel uses are seen there too.

    Args:
        source: As for `jaxstore.process`.
        target: Likewise.
        params: Keywords of the kernel, kept with the result, and compared.
        verbose: Print the plan before a computation.
        settings: All other keywords of `jaxstore.process` but `override` and `resume`.

    Raises:
        TypeError: There is no kernel, or no such setting.
        MismatchError: A subclass reads or writes in its own way, and has no `version`.

    >>> import jax.numpy as jnp
    >>> class Peak(Process):
    ...     def kernel(self, x, *, by):
    ...         return {"top": jnp.max(x) * by}
    >>> Peak(np.eye(3, dtype="f4"), params={"by": 2}).compute()["top"][:]
    array([2., 2., 2.], dtype=float32)
    """

    process_name: ClassVar[str] = ""  # of all results; the name of the class by default
    version: ClassVar[str | None] = None  # compared instead of the program

    def __init__(
        self,
        source: PyTree[Any],
        target: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        verbose: bool = False,
        **settings: Any,
    ) -> None:
        for name, here in _HERE.items():
            if name in settings:
                raise TypeError(f"{type(self).__name__} has no {name!r}. Here it is {here}.")
        self.source = source
        self.params = dict(params or {})
        self.verbose = verbose
        self.result: Result | None = None  # of the last `compute`
        self._settings = settings
        self._continued: Result | None = None
        _check_methods(type(self), reduces=settings.get("reduce") is not None)
        _, options = self._understood()  # which checks the settings
        if target is not None:
            target = results_at(target, compression=options.compression, durable=options.durable)
        self.target = target

    def kernel(self, x: PyTree[Any], **params: Any) -> PyTree[Any]:
        """What is computed of one item: any pytree of arrays. To be given."""
        raise NotImplementedError

    def batch_kernel(self, items: PyTree[Any], **params: Any) -> PyTree[Any]:
        """What is computed of many items, with their axis first; instead of `kernel`."""
        raise NotImplementedError

    def read(self, values: PyTree[Array], items: Items) -> PyTree[Array]:
        """Change values on the host after they are read; not their shapes and dtypes.

        Args:
            values: As they are stored, (len(items), ...) each.
            items: Their indices in the source.
        """
        return values

    def write(self, outputs: PyTree[Array]) -> PyTree[Array]:
        """Change outputs on the host before they are written; not their shapes and dtypes."""
        return outputs

    def metadata(self, result: Result) -> Mapping[str, Json]:
        """What to keep as attributes of a result, in the step that makes it complete."""
        return {}

    @property
    def duplicates(self) -> list[Result]:
        """Complete results of the same computation, oldest first; nothing is written."""
        place, found = matching(*self._asked())
        return [Result(place, name) for name in found.complete]

    @property
    def partials(self) -> list[Result]:
        """Results of the same computation that were interrupted; nothing is written."""
        place, found = matching(*self._asked())
        return [Result(place, name) for name in found.partial]

    @property
    def status(self) -> Marks:
        """Of the last result: a mark for each unit, 0 to do, 1 done, 2 failed."""
        return self._last().status

    @property
    def log(self) -> str:
        """How the last result came about, in lines."""
        return _log_of(self._last())

    @property
    def mpi_rank(self) -> int:
        """Of this process among those of the launcher, 0 where it is alone."""
        return place_among().rank

    @property
    def mpi_size(self) -> int:
        """Processes of the launcher, 1 where this one is alone."""
        return place_among().size

    @classmethod
    def again(cls, result: Result, **changed: Any) -> Self:
        """The process that a result came from, by what the result says of itself.

        Args:
            result: Of this class.
            changed: Settings to take instead; a source in memory has to be given.
        """
        settings = {**result.settings, **changed}
        del settings["name"], settings["version"], settings["batched"]
        if settings["source"] is None:
            raise MissingError(f"the source of {result.location} has no address. Give source=.")
        return cls(**{"target": result.place, **settings})

    def plan(self) -> Plan:
        """What `compute` would do: shapes, units, memory, earlier results. Nothing is written."""
        return foresee(*self._asked())

    def test(self, items: Sequence[int] = (0,)) -> PyTree[Array]:
        """The outputs of a few items, as `compute` would store them; nothing is written."""
        order, _, options = self._asked()
        return sample_of(order, options, items)

    def debug(self, item: int = 0) -> PyTree[Any]:
        """The kernel on one item with its values, uncompiled, in this thread: debuggers see all."""
        order, _, _ = self._asked()
        values = read_of(order, item)
        with jax.disable_jit():
            if order.is_batched:
                return self.batch_kernel(values, **self.params)
            return self.kernel(jax.tree.map(lambda leaf: leaf[0], values), **self.params)

    def use_partial_computation(self, result: Result | None = None) -> None:
        """Let the next `compute` continue a partial result; the newest there is by default.

        Raises:
            MissingError: There is none.
        """
        partials = [result] if result is not None else self.partials
        if not partials:
            raise MissingError("no partial result of this computation is there. Call compute().")
        self._continued = partials[-1]

    def compute(self, *, override: bool = False, resume: bool = True) -> Result:
        """The result: an earlier one, one that is continued, or a new one.

        Args:
            override: Start afresh in a new group, whatever there is, each time.
            resume: Whether a partial result is continued.
        """
        asked = self._asked(override=override, resume=self._continued or resume)
        if self.verbose and self.mpi_rank == 0:
            print(foresee(*asked))
        self.result = carry_out(*asked)
        self.target, self._continued = self.result.place, None
        return self.result

    def __getstate__(self) -> dict[str, Any]:
        """For processes that compute: they need what the kernel uses, and get no open handles."""
        return self.__dict__ | dict.fromkeys(_HANDLES) | {"_settings": {}}

    def _asked(self, *, override: bool = False, resume: Any = True) -> tuple[Order, Any, Options]:
        order, options = self._understood(override=override, resume=resume)
        return order, self.target, options

    def _understood(self, **how: Any) -> tuple[Order, Options]:
        cls = type(self)
        is_batched = cls.batch_kernel is not Process.batch_kernel
        order, options = understand(
            self.batch_kernel if is_batched else self.kernel,
            self.source,
            params=self.params,
            name=cls.process_name or cls.__name__,
            version=cls.version,
            batched=is_batched,
            **self._settings,
            **how,
        )
        return replace(order, hooks=_hooks_of(self)), options

    def _last(self) -> Result:
        if self.result is None:
            raise MissingError("there is no result yet. Call compute().")
        return self.result


def _check_methods(cls: type[Process], *, reduces: bool) -> None:
    """Refuse a class without a kernel, and one that does in secret what decides values."""
    given = [n for n in ("kernel", "batch_kernel") if getattr(cls, n) is not getattr(Process, n)]
    if len(given) != 1:
        raise TypeError(f"{cls.__name__} has {given}. Give kernel or batch_kernel, one of them.")
    hidden = [n for n in ("read", "write") if getattr(cls, n) is not getattr(Process, n)]
    if hidden and cls.version is None:
        raise MismatchError(
            f"{cls.__name__} has its own {' and '.join(hidden)}, whose changes no comparison of "
            "programs sees. Give the class a version, and another one with each change."
        )
    if "write" in hidden and reduces:
        raise MismatchError("write changes outputs of items, and reduce keeps none. Leave one out.")


def _hooks_of(process: Process) -> Hooks:
    cls = type(process)
    return Hooks(
        read=None if cls.read is Process.read else process.read,
        write=None if cls.write is Process.write else process.write,
        metadata=None if cls.metadata is Process.metadata else process.metadata,
    )


def _log_of(result: Result) -> str:
    told = result.provenance
    lines = [f"{key} = {value!r}" for key, value in sorted(result.settings.items())]
    lines += [f"{key} {value}" for key, value in told["versions"].items()]
    return "\n".join([*lines, *map(told_session, told["sessions"])])
