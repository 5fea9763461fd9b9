"""What networks do to a run on S3: passing faults leave no trace, lasting ones end in an error."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collecting import assert_same
from fault_proxy import (
    Blackhole,
    CutDown,
    CutUp,
    Delay,
    Fault,
    FaultProxy,
    LostAnswer,
    Request,
    Reset,
    Status,
    Swallowed,
)
from pairs import in_turn

import jaxstore as js
from jaxstore.errors import ExistsError
from jaxstore.stores import blobs_objects, blobs_service
from jaxstore.stores.blobs import blobs_at
from jaxstore.stores.zarr3 import ZarrStore

N_CHAINS = 2
SOON = [Delay(0.0, jitter=0.05), Reset(), Status(503), CutUp(20), CutDown(20), LostAnswer()]
SILENT = [Blackhole(), Swallowed()]  # seen only by what waits for an answer


@pytest.fixture
def url(s3_bucket: str) -> str:
    return f"s3://{s3_bucket}/run.zarr"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how long a request may take; little is waited between two."""
    monkeypatch.setattr(blobs_service, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(blobs_service, "LONGEST_PAUSE_S", 0.05)
    return lambda request_s: monkeypatch.setattr(blobs_service, "REQUEST_S", request_s)


@pytest.fixture
def few_tries(monkeypatch: pytest.MonkeyPatch, waits: Callable[[float], None]) -> None:
    waits(0.3)
    monkeypatch.setattr(blobs_service, "RETRIES", 3)
    monkeypatch.setattr(blobs_service, "RETRY_S", 2.0)


def walk(carry: Any, _: Any) -> tuple[Any, Any]:
    key, x = carry
    key, noise = jax.random.split(key)
    x = x + jax.random.normal(noise, x.shape)
    return (key, x), {"x": x, "n": jnp.int32(x[:, 0] * 100)}


def scanned(collector: Any) -> js.Run:
    start = (jax.random.key(7), jnp.zeros((N_CHAINS, 4)))
    return js.scan(
        walk, start, length=60, chains=N_CHAINS, collector=collector, buffer_draws=7 * N_CHAINS
    )[1]


def into(url: str) -> js.ZarrCollector:
    return js.ZarrCollector(url, chunk_draws=7)


# --- faults that pass ---


# Each fault meets each kind of request below, too.
@pytest.mark.parametrize(
    "fault",
    [
        *(Status(503), CutDown(20), LostAnswer()),
        *(pytest.param(f, marks=pytest.mark.slow) for f in (SOON[0], Reset(), CutUp(20))),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_fault_in_every_third_request_leaves_no_trace(
    s3_proxy: FaultProxy, url: str, waits: Callable[[float], None], fault: Fault
) -> None:
    waits(10.0)
    s3_proxy.inject(fault, every=3)
    wanted = scanned(js.MemoryCollector())
    assert_same(scanned(into(url)).samples, wanted.samples)
    n_writing = s3_proxy.injected.total()
    again = js.open_run(url)
    assert_same(again.samples, wanted.samples)
    np.testing.assert_array_equal(again.iteration, wanted.iteration)
    assert again.state == "complete"
    assert n_writing > 10
    assert s3_proxy.injected.total() > n_writing + 5


@pytest.mark.parametrize(
    "fault",
    [Blackhole(), pytest.param(Swallowed(), marks=pytest.mark.slow)],
    ids=lambda fault: type(fault).__name__,
)
def test_a_request_without_an_answer_is_sent_again(
    s3_proxy: FaultProxy, url: str, waits: Callable[[float], None], fault: Fault
) -> None:
    waits(0.5)
    for method, path in (
        ("PUT", "run.zarr/zarr.json"),
        ("PUT", "/c/0/2"),
        ("GET", "/c/0/3"),
        ("GET", "list-type"),
    ):
        s3_proxy.inject(fault, method=method, path=path, first=1)
    wanted = scanned(js.MemoryCollector())
    scanned(into(url))
    assert_same(js.open_run(url).samples, wanted.samples)
    assert s3_proxy.injected.total() == 4


# --- faults that stay ---

STAYING = {
    "Reset": (Reset(), ConnectionError, "the connection was reset"),
    "503": (Status(503), ConnectionError, r"the service is not ready \(503 SlowDown\)"),
    "507": (Status(507, "Full"), OSError, r"the service is full \(507 Full\)"),
    "403": (Status(403, "AccessDenied"), PermissionError, r"was denied \(403 AccessDenied\)"),
    "400": (Status(400, "Bad"), OSError, r"refused the request \(400 Bad\)"),
    "CutUp": (CutUp(9), ConnectionError, "the connection was reset"),
    "LostAnswer": (LostAnswer(), ConnectionError, "the connection was reset"),
    "Blackhole": (Blackhole(), TimeoutError, "did not answer in time"),
}


@pytest.mark.usefixtures("few_tries")
@pytest.mark.parametrize("name", STAYING)
def test_a_fault_that_stays_is_an_error_within_bounds_and_what_was_committed_is_there(
    s3_proxy: FaultProxy, url: str, name: str
) -> None:
    fault, kind, what = STAYING[name]
    wanted = scanned(js.MemoryCollector())
    began: list[float] = []

    def fourth_chunk_and_all_after(request: Request) -> bool:
        if not began and request.path.endswith("/c/0/3/0"):
            began.append(time.monotonic())
        return bool(began)

    s3_proxy.inject(fault, when=fourth_chunk_and_all_after)
    with pytest.raises(kind, match=f"{url}: putting 'samples/n?x?/c/0/3.*{what}") as caught:
        scanned(into(url))
    # One request fails, then another that would have said so in the store.
    bound_s = 2 * (blobs_service.RETRY_S + blobs_service.REQUEST_S)
    assert time.monotonic() - began[0] < bound_s + 10  # in minutes or never, without a bound
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == (errno.ENOSPC if name == "507" else caught.value.errno)
    assert caught.value.errno
    assert re_next(str(caught.value))
    assert caught.value.__cause__ is None

    s3_proxy.clear()
    run = js.open_run(url)
    (count,) = set(run.sample_count.tolist())
    assert 0 < count <= 21
    assert run.state in ("running", "interrupted")
    for leaf in ("x", "n"):
        assert_same(run.samples[leaf][...], wanted.samples[leaf][:, :count])


def re_next(text: str) -> bool:
    """Whether an error says what to do."""
    return any(step in text for step in ("then go on from there.", "Check the credentials"))


@pytest.mark.usefixtures("few_tries")
@pytest.mark.parametrize("fault", [Reset(), Status(503), Blackhole(), CutDown(5)])
def test_a_read_that_goes_on_failing_is_an_error_and_works_afterwards(
    s3_proxy: FaultProxy, url: str, fault: Fault
) -> None:
    wanted = scanned(into(url))
    run = js.open_run(url)
    s3_proxy.inject(fault, path="/samples/x/c/")
    with pytest.raises(OSError, match=f"{url}: reading 'samples/x/c/0/0/0' failed after") as caught:
        run.samples["x"][...]
    assert isinstance(caught.value, ConnectionError | TimeoutError)
    s3_proxy.clear()
    assert_same(run.samples, wanted.samples)


@pytest.mark.usefixtures("few_tries")
def test_a_server_that_is_gone_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for endpoint, what in (
        ("http://127.0.0.1:1", "the connection was refused"),
        ("http://no-such-host.invalid", "the name of its host is not known"),
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(OSError, match=f"{url}: reading 'zarr.json' failed after 4.*{what}"):
            js.open_run(url)


# --- conditional creation: whose object is it? ---


@pytest.mark.parametrize("fault", [*SOON, Status(409, "ConditionalRequestConflict"), *SILENT])
def test_an_object_is_made_by_one_whatever_happens_to_the_request(
    s3_proxy: FaultProxy, url: str, waits: Callable[[float], None], fault: Fault
) -> None:
    waits(0.5)
    objects = blobs_at(url)
    s3_proxy.inject(fault, first=2)
    assert objects.put_new("claim", b"mine")
    assert s3_proxy.injected.total() >= 1
    assert objects.get("claim") == b"mine"
    s3_proxy.inject(fault, first=1)
    assert not objects.put_new("claim", b"another's")
    assert objects.get("claim") == b"mine"


@pytest.mark.parametrize("fault", [LostAnswer(), Reset(), Status(409, "OperationAborted")])
def test_a_new_store_is_ours_though_the_answer_was_lost_and_nobody_elses(
    s3_proxy: FaultProxy, url: str, waits: Callable[[float], None], fault: Fault
) -> None:
    waits(10.0)
    s3_proxy.inject(fault, method="PUT", path="zarr.json", first=1)
    ZarrStore.new(url)
    assert s3_proxy.injected.total() == 1
    s3_proxy.inject(fault, method="PUT", path="zarr.json", first=1)
    with pytest.raises(ExistsError, match=f"{url} is not empty"):
        ZarrStore.new(url)


def test_another_writer_between_the_listing_and_the_put_is_seen(
    s3_proxy: FaultProxy, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ZarrStore.new(url)
    monkeypatch.setattr(blobs_objects.ObjectBlobs, "keys", lambda self, under="": iter(()))
    with pytest.raises(ExistsError, match=f"{url} is not empty, it holds 'zarr.json'"):
        ZarrStore.new(url)


@pytest.mark.usefixtures("few_tries")
def test_a_conflict_that_stays_with_nothing_there_is_an_error(
    s3_proxy: FaultProxy, url: str
) -> None:
    s3_proxy.inject(Status(409, "ConditionalRequestConflict"), method="PUT")
    with pytest.raises(ConnectionError, match=r"putting 'a' failed after 4 tries.*409 Conditional"):
        blobs_at(url).put_new("a", b"1")


# --- other requests ---


@pytest.mark.parametrize("fault", SOON, ids=lambda fault: type(fault).__name__)
def test_every_kind_of_request_outlives_a_fault(
    s3_proxy: FaultProxy, url: str, waits: Callable[[float], None], fault: Fault
) -> None:
    waits(10.0)
    objects = blobs_at(url)
    keys = {f"a/{i}/b" for i in range(60)}  # obstore gives 50 of a listing at once
    for key in keys:
        objects.put(key, [b"0" * 100])
    for n, call, wanted in (
        (1, lambda: set(objects.keys("a")), keys),
        (2, lambda: set(objects.folders("a")), {str(i) for i in range(60)}),
        (3, lambda: objects.get("a/0/b"), b"0" * 100),
        (4, lambda: objects.get("nothing"), None),
        (5, lambda: objects.delete("a/1/b"), None),
        (6, lambda: objects.get("a/1/b"), None),
    ):
        s3_proxy.inject(fault, first=1)
        assert call() == wanted
        assert s3_proxy.injected.total() == n


@pytest.mark.parametrize(
    ("fault", "path"),
    in_turn(SOON, [r"\?uploads", "partNumber=1", r"\?uploadId"], every=3),
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_object_in_parts_outlives_a_fault_in_any_of_them(
    s3_proxy: FaultProxy,
    url: str,
    waits: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    path: str,
) -> None:
    waits(10.0)
    monkeypatch.setattr(blobs_objects, "MULTIPART_BYTES", 1 << 20)
    data = np.random.default_rng(0).bytes(11 << 20)
    s3_proxy.inject(fault, path=path, first=1)
    blobs_at(url).put("large", [data[: 1 << 20], data[1 << 20 :]])
    assert s3_proxy.injected.total() == 1
    assert blobs_at(url).get("large") == data
