"""Loading from a service that speaks S3: many requests at a time, and faults that pass."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import zarr
from fault_proxy import CutDown, Delay, Reset, Status
from stored_rows import numbered

import jaxstore as js
from jaxstore.stores import blobs_service

N_ROWS = 256


@pytest.fixture
def url(s3_bucket):
    url = f"s3://{s3_bucket}/a.zarr"
    group = zarr.open_group(js.store_from_url(url, read_only=False), mode="w")
    for name, shape in (("x", (3,)), ("y", ())):
        array = group.create_array(name, shape=(N_ROWS, *shape), chunks=(8, *shape), dtype="f4")
        array[:] = numbered(N_ROWS, shape)
    return url


def loaded(url, **settings):
    settings = {"batch_size": 30, "window_chunks": 8, "to": "numpy", **settings}
    return [(b.rows.copy(), b["x"].copy(), b["y"].copy()) for b in js.Loader(url, **settings)]


def wanted():
    source = {"x": numbered(N_ROWS), "y": numbered(N_ROWS, ())}
    geometry = js.ArrayGeometry("x", (N_ROWS,), (8,), np.dtype("f4"))
    manifest = js.split_by_chunk(geometry, fractions=[1])
    loader = js.Loader(
        source, batch_size=30, window_chunks=8, to="numpy", split="train", manifest=manifest
    )
    return [(b.rows.copy(), b["x"].copy(), b["y"].copy()) for b in loader]


def same(found, others):
    for mine, theirs in zip(found, others, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_requests_wait_together_and_never_too_many(url, s3_proxy):
    s3_proxy.inject(Delay(0.03), method="GET", path="/c/")
    same(loaded(url, max_inflight=12), wanted())
    assert s3_proxy.most_at_once == 12


@pytest.mark.parametrize("fault", [Reset(), Status(503), CutDown(20)])
def test_faults_that_pass_leave_no_trace(url, s3_proxy, monkeypatch, fault):
    monkeypatch.setattr(blobs_service, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(blobs_service, "LONGEST_PAUSE_S", 0.05)
    s3_proxy.inject(fault, every=3, method="GET")
    same(loaded(url), wanted())
    assert s3_proxy.injected.total() > 10


def test_a_service_that_is_gone_is_an_error_and_no_hang(url, s3_proxy, monkeypatch):
    monkeypatch.setattr(blobs_service, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(blobs_service, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(blobs_service, "RETRY_S", 1.0)
    monkeypatch.setattr(blobs_service, "RETRIES", 3)
    loader = js.Loader(url, batch_size=30, window_chunks=2)
    batches = iter(loader)
    next(batches)
    s3_proxy.inject(Reset())
    with pytest.raises(OSError, match=r"s3://.* reading '"):
        list(batches)
    ours = ("jaxstore-read", "jaxstore-prefetch")
    assert not [t for t in threading.enumerate() if t.name.startswith(ours)]
