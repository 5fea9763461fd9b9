"""Runs that are stopped and taken up again: how they stop, and which collector finds them again."""

from __future__ import annotations

import contextlib

import obstore

import jaxstore as js
from jaxstore.saving.session import Session


class Stopped(Exception):
    pass


@contextlib.contextmanager
def stopped_after(n_blocks):
    """Raise `Stopped` where the n-th block of draws has been handed on."""
    original, count = Session.put, 0

    def put(session, block):
        nonlocal count
        original(session, block)
        count += 1
        if count == n_blocks:
            raise Stopped(f"block {count}")

    Session.put = put
    try:
        yield
    finally:
        Session.put = original


def places(tmp_path):
    """By kind, what makes a collector that finds the run of the one before it."""
    memory = js.MemoryCollector()
    objects = obstore.store.MemoryStore()
    return {
        "memory": lambda **how: memory,
        "zarr": lambda **how: js.ZarrCollector(tmp_path / "run.zarr", **how),
        "hdf5": lambda **how: js.HDF5Collector(tmp_path / "run.h5", **how),
        "obstore": lambda **how: js.ZarrCollector(objects, **how),
    }


KINDS = ("memory", "zarr", "hdf5", "obstore")
