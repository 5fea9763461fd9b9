"""Zarr on a server that speaks S3: the contract, runs and snapshots, at URLs as users write."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import obstore.store
import pytest
import xarray
import zarr
from arrays import Reopen, assert_same_bits
from collecting import assert_same
from contracts import StoreContract
from s3_server import S3Server

import jaxstore as js
from jaxstore.errors import ExistsError, MissingError
from jaxstore.stores.zarr3 import ZarrStore

N_CHAINS = 3


@pytest.fixture
def url(s3_bucket: str) -> str:
    return f"s3://{s3_bucket}/deep/run.zarr"


class TestS3(StoreContract):
    # Takes thousands of requests; test_zarr3_places runs it on the same code.
    test_any_writes_equal_the_same_on_a_numpy_array = None

    @pytest.fixture
    def store(self, url: str) -> ZarrStore:
        return ZarrStore.new(url)

    @pytest.fixture
    def reopen(self, url: str) -> Reopen:
        return lambda: ZarrStore.open(url)


def walk(carry: Any, _: Any) -> tuple[Any, Any]:
    """A random walk per chain, with leaves of several dtypes."""
    key, x = carry
    key, noise = jax.random.split(key)
    x = x + jax.random.normal(noise, x.shape)
    sample = {"x": x, "deep": {"n": jnp.int32(x[:, 0] * 100), "half": x.astype("bfloat16")}}
    return (key, x), sample


def scanned(collector: Any, *, length: int = 60, **options: Any) -> js.Run:
    start = (jax.random.key(7), jnp.zeros((N_CHAINS, 4)))
    return js.scan(walk, start, length=length, chains=N_CHAINS, collector=collector, **options)[1]


MASKS = jnp.asarray(np.random.default_rng(0).random((60, N_CHAINS)) < [0.9, 0.5, 0.1])
KEEPS = {"thinned": {"thin": 2, "burn_in": 5}, "ragged": {"keep": lambda i: MASKS[i]}}


@pytest.mark.parametrize("kept", KEEPS)
def test_a_scan_into_s3_equals_one_into_memory(url: str, kept: str) -> None:
    wanted = scanned(js.MemoryCollector(), **KEEPS[kept])
    found = scanned(js.ZarrCollector(url, chunk_draws=7), **KEEPS[kept])
    again = js.open_run(url)
    for run in (found, again):
        assert run.state == "complete"
        assert run.sample_count.tolist() == wanted.sample_count.tolist()
        assert_same_bits(run.iteration, wanted.iteration)
        assert_same(run.samples, wanted.samples)
    assert again.location == url
    assert (len(set(again.sample_count.tolist())) > 1) == (kept == "ragged")


def test_xarray_opens_it_by_zarrs_obstore_store(s3_bucket: str, url: str) -> None:
    wanted = scanned(js.ZarrCollector(url, chunk_draws=7))
    place = zarr.storage.ObjectStore(
        obstore.store.from_url(url, client_options={"allow_http": True}), read_only=True
    )
    tree = xarray.open_datatree(place, engine="zarr")
    assert_same_bits(tree["samples/x"].to_numpy(), wanted.samples["x"][...])
    assert_same_bits(tree["samples/deep/n"].to_numpy(), wanted.samples["deep"]["n"][...])
    assert js.open_run(place).location.endswith(
        'S3Store(bucket="' + s3_bucket + '", prefix="deep/run.zarr")'
    )


def test_the_triple_in_jit_keeps_chains_of_unequal_length(url: str) -> None:
    def run(collector: Any) -> Any:
        init_save, save, postprocess_save = js.save(collector)
        masks = jnp.asarray(np.random.default_rng(1).random((50, N_CHAINS)) < [0.9, 0.5, 0.1])

        def chain(mask: Any, key: Any) -> Any:
            def step(carry: Any, x: Any) -> Any:
                state, value = carry
                keep, key = x
                value = value + jax.random.normal(key, value.shape)
                state, _ = save(state, keep, {"v": value, "i": jnp.int8(keep)})
                return (state, value), None

            value = jnp.zeros(3)
            begin = (init_save({"v": value, "i": jnp.int8(0)}), value)
            return jax.lax.scan(step, begin, (mask, jax.random.split(key, 50)))[0][0]

        keys = jax.random.split(jax.random.key(3), N_CHAINS)
        state = jax.jit(jax.vmap(chain, in_axes=(1, 0)))(masks, keys)
        return postprocess_save(state), masks.sum(0)

    wanted, counts = run(js.MemoryCollector())
    found, _ = run(js.ZarrCollector(url, chunk_draws=8))
    assert found["sample_count"].tolist() == wanted["sample_count"].tolist() == counts.tolist()
    assert_same(found["samples"], wanted["samples"])
    again = js.open_run(url)
    assert again.sample_count.tolist() == counts.tolist()
    assert_same(again.samples, wanted["samples"])


def test_the_storage_streams_into_s3(url: str) -> None:
    with js.ZarrStorage(2, 4, url) as storage:
        for i in range(21):
            storage.store(0.5 * i, np.full((2, 5), i, "float32"), i)
    time, data = js.open_storage(url).values
    assert np.asarray(time).tolist() == [float(i) for i in range(11)]
    wanted = np.broadcast_to(np.arange(0, 21, 2, dtype="float32"), (2, 5, 11))
    assert_same_bits(np.asarray(data), np.ascontiguousarray(wanted))


def test_nothing_in_a_bucket_is_overwritten(s3_server: S3Server, url: str) -> None:
    scanned(js.ZarrCollector(url), length=3)
    before = s3_server.objects(url)
    with pytest.raises(ExistsError, match="run.zarr is not empty.*Choose another place"):
        scanned(js.ZarrCollector(url), length=3)
    assert s3_server.objects(url) == before
    assert len(before) > 5


def test_a_bucket_that_is_not_there_is_named(s3_bucket: str) -> None:
    with pytest.raises(MissingError, match="s3://no-such/run.zarr.*nothing is there|NoSuchBucket"):
        js.open_run("s3://no-such/run.zarr")
    with pytest.raises(MissingError, match="s3://no-such/run.zarr.*404 NoSuchBucket.*Make the"):
        scanned(js.ZarrCollector("s3://no-such/run.zarr"), length=3)


def test_a_listing_goes_over_many_pages(url: str) -> None:
    store = ZarrStore.new(url)
    objects = store._blobs
    wanted = {f"x/{i:04}" for i in range(1050)}  # S3 gives 1000 at once
    for key in wanted:
        objects.put(key, [b"1"])
    assert sorted(objects.keys("x")) == sorted(wanted)
