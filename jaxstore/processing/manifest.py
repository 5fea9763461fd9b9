"""What a result says of itself: one JSON attribute, from which it can be computed again.

Owned here: what stands in it. What makes two computations the same is `same`.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import jax
import numpy as np

from jaxstore.errors import FormatError
from jaxstore.processing.outputs import Output, partial_regions, unit_regions
from jaxstore.processing.same import Computation
from jaxstore.processing.units import Channels, Sizes, Units
from jaxstore.stores.base import Json
from jaxstore.stores.dtypes import parse_dtype
from jaxstore.stores.results import DONE, Marks, Region

FORMAT_VERSION = 1
State = Literal["partial", "complete"]
_PACKAGES = ("jaxstore", "jax", "jaxlib", "numpy", "zarr", "h5py")
_MOST_SESSIONS = 100  # that are told in full; of more, the first and the last


@dataclass(frozen=True, slots=True)
class Manifest:
    """All about a result but its values."""

    state: State
    computation: Computation
    sizes: Sizes
    channels: Channels | None
    outputs: tuple[Output, ...]
    states: tuple[jax.ShapeDtypeStruct, ...]  # of a reduction, one of each per unit
    settings: Mapping[str, Json]  # how it was asked for, where that changes no bit of it
    attrs: Mapping[str, Json]  # the user's own
    versions: Mapping[str, str]
    sessions: tuple[Mapping[str, Json], ...]  # who worked on it, and when

    def to_json(self) -> dict[str, Json]:
        """This record as the attribute of a result."""
        channels = self.channels
        return {
            "format_version": FORMAT_VERSION,
            "state": self.state,
            "fingerprint": self.computation.fingerprint,
            "computation": self.computation.to_json(),
            "plan": {
                **self.sizes.to_json(),
                "channels": channels and [channels.axis, channels.n, channels.block],
            },
            "outputs": [output.to_json() for output in self.outputs],
            "states": [[list(state.shape), state.dtype.name] for state in self.states],
            "settings": dict(self.settings),
            "attrs": dict(self.attrs),
            "versions": dict(self.versions),
            "sessions": [dict(session) for session in self.sessions],
        }

    @staticmethod
    def from_json(found: Mapping[str, Json], *, location: str) -> Manifest:
        """A record out of the attribute of a result.

        Raises:
            FormatError: It is none, or of a newer jaxstore.
        """
        try:
            if found["format_version"] > FORMAT_VERSION:
                raise FormatError(
                    f"{location} has result format {found['format_version']}, this jaxstore reads "
                    f"up to {FORMAT_VERSION}. Update jaxstore."
                )
            plan = found["plan"]
            channels = None if plan["channels"] is None else Channels(*plan["channels"])
            return Manifest(
                state="complete" if found["state"] == "complete" else "partial",
                computation=Computation.from_json(found["computation"]),
                sizes=Sizes.from_json(plan),
                channels=channels,
                outputs=tuple(map(Output.from_json, found["outputs"])),
                states=tuple(
                    jax.ShapeDtypeStruct(tuple(shape), parse_dtype(dtype))
                    for shape, dtype in found["states"]
                ),
                settings=dict(found["settings"]),
                attrs=dict(found["attrs"]),
                versions=dict(found["versions"]),
                sessions=tuple(found["sessions"]),
            )
        except FormatError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(
                f"the manifest of {location} is damaged: {error!r}. Restore it from a copy."
            ) from error

    @property
    def units(self) -> Units:
        """How the work is cut."""
        return self.sizes.units

    def regions(self, unit: int) -> Iterator[tuple[str, Region]]:
        """What a unit writes."""
        if self.states:
            return partial_regions(unit, self.states)
        return unit_regions(unit, self.units, self.channels, self.outputs)

    def first(self, n_items: int, marks: Marks) -> Manifest:
        """As if there were only so many items; complete if these are done."""
        n = min(n_items, self.units.n_items)
        units = replace(self.units, n_items=n)
        is_done = n == n_items and bool((fit(marks, units.n_units) == DONE).all())
        state: State = "complete" if is_done else "partial"
        return replace(self, state=state, sizes=replace(self.sizes, units=units))

    def begun(self, *, engine: str, workers: int, todo: int) -> Manifest:
        """With one more session, that begins now."""
        session = {
            "started": now(),
            "ended": None,
            "engine": engine,
            "workers": workers,
            "units": todo,  # to do; gone through where the session ended
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        kept = self.sessions
        if len(kept) >= _MOST_SESSIONS:
            kept = (kept[0], *kept[2 - _MOST_SESSIONS :])
        return replace(self, sessions=(*kept, session))

    def ended(self, *, is_complete: bool) -> Manifest:
        """With the last session ended now."""
        last = {**self.sessions[-1], "ended": now()}
        state: State = "complete" if is_complete else "partial"
        return replace(self, state=state, sessions=(*self.sessions[:-1], last))


def fit(marks: Marks, n_units: int) -> Marks:
    """Marks of so many units; those of a growth that was cut short are more or fewer."""
    fitted = np.zeros(n_units, np.uint8)
    fitted[: min(len(marks), n_units)] = marks[:n_units]
    return fitted


def now() -> str:
    """Date and time, UTC, as ISO 8601 has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def told_session(session: Mapping[str, Json]) -> str:
    """One session for people; of one that did not end, nobody knows what it did.

    >>> told_session(dict(started="8:00", ended=None, units=80, engine="mpi", workers=3, host="a"))
    '8:00 to ?, 80 units to do, mpi 3, a'
    """
    units = f"{session['units']:,} units" + " to do" * (session["ended"] is None)
    return (
        f"{session['started']} to {session['ended'] or '?'}, {units}, {session['engine']} "
        f"{session['workers']}, {session['host']}"
    )


def versions() -> dict[str, Any]:
    """Of this Python and the packages that take part."""
    found = {"python": platform.python_version(), "platform": sys.platform}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
