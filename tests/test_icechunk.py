"""Icechunk as the place of a run: each commit a snapshot."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soak
import xarray
import zarr
from arrays import assert_same_bits, numbers, ramp, spec
from contracts import StoreContract
from programs import resumable

import jaxstore as js
from jaxstore.saving import recorder
from jaxstore.stores import zarr3_lease
from jaxstore.stores.blobs_icechunk import IcechunkBlobs
from jaxstore.stores.icechunk_branch import IcechunkBranch
from jaxstore.stores.zarr3 import ZarrStore

icechunk = pytest.importorskip("icechunk")

LENGTH, EVERY = 120, 20


@pytest.fixture
def repository() -> Any:
    return icechunk.Repository.create(icechunk.in_memory_storage())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever may be committed is committed at once."""
    monkeypatch.setattr(recorder, "TAIL_EVERY_S", 0.0)
    monkeypatch.setattr(recorder, "COMMIT_SHARE", 1e9)
    monkeypatch.setattr(recorder, "CHECKPOINT_SHARE", 1e9)


class TestIcechunkStore(StoreContract):
    @pytest.fixture
    def blobs(self, repository: Any) -> IcechunkBlobs:
        return IcechunkBlobs.of_branch(IcechunkBranch(repository))

    @pytest.fixture
    def store(self, blobs: IcechunkBlobs) -> ZarrStore:
        return ZarrStore.new(blobs)

    @pytest.fixture
    def reopen(self, blobs: IcechunkBlobs, repository: Any) -> Any:
        def reopened() -> ZarrStore:
            blobs.publish("to look at")
            return ZarrStore.open(repository)

        return reopened

    # Icechunk has no chunks beyond the shape, so it follows what is written, within one commit.

    def test_growing_keeps_what_was_written_beyond(self, store: Any, reopen: Any) -> None:
        values = numbers((2, 12), "int32")
        store.create(spec("x", (2, 0), (2, 4), "int32"))
        store.write("x", (0, 8), values[:, 8:])
        assert store.spec("x").shape == (2, 12)
        store.write("x", (0, 0), values[:, :8])
        assert_same_bits(reopen().read("x"), values)

    def shape_after_write(
        self, shape: tuple[int, ...], start: tuple[int, ...], extent: tuple[int, ...]
    ) -> tuple[int, ...]:
        ends = (max(n, a + m) for n, a, m in zip(shape, start, extent, strict=True))
        return tuple(ends) if all(extent) else shape


def draws(run: js.Run) -> list[Any]:
    return [np.asarray(leaf.plain()) for leaf in run.leaves]


def assert_same_run(found: js.Run, wanted: js.Run) -> None:
    assert found.state == wanted.state == "complete"
    assert_beginning(found, wanted)
    assert found.sample_count.tolist() == wanted.sample_count.tolist()


def assert_beginning(found: js.Run, whole: js.Run) -> None:
    assert len(found.leaves) == len(whole.leaves)
    for mine, theirs in zip(draws(found), draws(whole), strict=True):
        for chain, n in enumerate(found.sample_count.tolist()):
            assert mine[chain, :n].tobytes() == theirs[chain, :n].tobytes()


def counted(where: Any, length: int) -> js.Run:
    """A run that is soon compiled."""
    with js.ZarrCollector(where) as collector:
        return js.scan(
            lambda x, _: (x + 1, {"x": x}), jnp.zeros((2, 3)), length=length, chains=2,
            collector=collector,
        )[1]  # fmt: skip


def sampled(where: Any, length: int = LENGTH, how: str = "scan", **options: Any) -> Any:
    with js.ZarrCollector(where, group=None, chunk_draws=7, **options) as collector:
        return resumable.sampled(how, collector, length, every=EVERY, buffer_draws=8)


def history(repository: Any, branch: str = "main") -> list[Any]:
    return list(repository.ancestry(branch=branch))[::-1][1:]


@pytest.mark.usefixtures("quick")
def test_each_commit_is_a_snapshot_that_can_be_read(repository: Any) -> None:
    def step(x: Any, _: Any) -> Any:  # leaves whose chunks fill at different times
        return x + 1, {"small": x[:, 0], "big": jnp.broadcast_to(x, (2, 150_000))}

    with js.ZarrCollector(repository) as collector:
        _, run = js.scan(
            step, jnp.zeros((2, 1)), length=24, chains=2, collector=collector, buffer_draws=3
        )
    chunks = {leaf.name: leaf.store.spec(leaf.name).chunks[1] for leaf in run.leaves}
    assert chunks["samples/big"] < chunks["samples/small"]
    snapshots = history(repository)
    assert [snapshot.message for snapshot in snapshots[-2:]] == [
        "complete: 48 draws in 2 chains", "closed",
    ]  # fmt: skip
    counts = []
    for snapshot in snapshots:
        store = repository.readonly_session(snapshot_id=snapshot.id).store
        found = js.open_run(store)
        assert (
            snapshot.message == "closed" or f": {found.sample_count.sum()} dr" in snapshot.message
        )
        assert_beginning(found, run)
        counts.append(int(found.sample_count.sum()))
        if counts[-1]:
            data = xarray.open_zarr(store, group="samples", consolidated=False)
            assert dict(data.sizes)["draw"] == counts[-1] // 2
            assert np.isfinite(data["small"].values).all()
    assert js.verify(repository).is_sound
    assert counts == sorted(counts)
    assert len(set(counts)) > 3


def test_what_is_flushed_shows_leaves_of_one_length(repository: Any) -> None:
    big = np.arange(300_000, dtype="f4")
    with js.ZarrCollector(repository) as collector:
        chain = collector.register_chain({"big": big, "small": np.float32(0)})
        for n in (5, 13):
            for i in range(n):
                collector.save(chain, [big + i, np.float32(i)])
            collector.flush()
    chunks = {
        leaf.name: leaf.store.spec(leaf.name).chunks[1] for leaf in js.open_run(repository).leaves
    }
    assert chunks["samples/big"] < 5 < 13 < chunks["samples/small"]
    for snapshot in history(repository):
        store = repository.readonly_session(snapshot_id=snapshot.id).store
        run = js.open_run(store)
        n = int(run.sample_count.sum())
        group = zarr.open_group(store, mode="r")
        assert n == 0 or group["samples/big"].shape[1] == group["samples/small"].shape[1] == n
        want = [*range(5), *range(13)][:n]
        assert n == 0 or np.asarray(run.samples["big"])[0, :, 0].tolist() == want
    assert n == 18


def test_a_reader_sees_what_is_committed(repository: Any) -> None:
    store = ZarrStore.new(repository)
    store.create(spec("x", (1, 4), (1, 4)))
    store.commit({"draws": 1})
    reader = store.reader()
    store.write("x", (0, 0), ramp((1, 4)))
    assert np.isnan(reader.read("x")).all()
    assert np.isnan(store.reader().read("x")).all()
    store.commit({"draws": 4})
    assert reader.committed() == {"draws": 4}
    assert_same_bits(reader.read("x"), ramp((1, 4)))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["scan", pytest.param("ragged", marks=pytest.mark.slow)])
def test_a_run_that_stopped_goes_on_to_the_same_bits(
    repository: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    commits, commit = 0, icechunk.Session.commit

    def broken(*given: Any) -> Any:
        nonlocal commits
        commits += 1
        if commits == 7:
            raise OSError("the storage is away")
        return commit(*given)

    monkeypatch.setattr(icechunk.Session, "commit", broken)
    with pytest.raises(OSError, match="the storage is away"):
        sampled(repository, how=how)
    monkeypatch.undo()
    whole = resumable.sampled(how, js.MemoryCollector(), 2 * LENGTH, every=EVERY)
    with js.open_run(repository) as run:
        assert run.state == "interrupted"
        assert_beginning(run, whole)
    assert_same_run(sampled(repository, 2 * LENGTH, how=how), whole)
    assert js.verify(repository).is_sound


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_soak(tmp_path: Path) -> None:
    assert soak.soak("icechunk", 20, tmp_path, seed=0).kills >= 20


class TestTwoWriters:
    def test_one_that_commits_keeps_others_out(
        self, repository: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = ZarrStore.new(repository)
        store.commit({"draws": 0})
        looks = iter(range(1, 100))
        monkeypatch.setattr(
            zarr3_lease.time, "sleep", lambda _: store.commit({"draws": next(looks)})
        )
        with pytest.raises(js.BusyError, match=r"branch 'main' is written by this process"):
            ZarrStore.open(repository, mode="r+")
        store.commit({"draws": 1000})
        assert ZarrStore.open(repository).committed() == {"draws": 1000}

    @pytest.mark.usefixtures("quick")
    def test_one_that_was_taken_over_adds_nothing(
        self, repository: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(zarr3_lease, "LEASE_S", 0.05)
        store = ZarrStore.new(repository)
        store.commit({"draws": 1})
        other = ZarrStore.open(repository, mode="r+")
        other.commit({"draws": 2})
        tip = repository.lookup_branch("main")
        for _ in range(2):
            with pytest.raises(js.BusyError, match=rf"another writer committed .* snapshot {tip}"):
                store.commit({"draws": 3})
        store.close()
        assert repository.lookup_branch("main") == tip
        other.commit({"draws": 4})
        assert ZarrStore.open(repository).committed() == {"draws": 4}

    def test_of_two_that_begin_at_once_one_has_the_branch(self, repository: Any) -> None:
        stores = [ZarrStore.new(repository) for _ in range(2)]
        stores[1].commit({"draws": 1})
        with pytest.raises(js.BusyError, match="another writer committed"):
            stores[0].commit({"draws": 0})
        assert ZarrStore.open(repository).committed() == {"draws": 1}

    def test_a_commit_between_two_of_this_writer_is_noticed(self, repository: Any) -> None:
        store = ZarrStore.new(repository)
        store.commit({"draws": 1})
        session = repository.writable_session("main")
        zarr.open_group(session.store).attrs["note"] = "mine"
        session.commit("a note")
        with pytest.raises(js.BusyError, match="another writer committed 'a note'"):
            store.commit({"draws": 2})
        assert zarr.open_group(repository.readonly_session("main").store, mode="r").attrs["note"]

    def test_a_commit_between_is_noticed_where_the_record_is_as_before(
        self, repository: Any
    ) -> None:
        store = ZarrStore.new(repository)
        store.create(spec("x", (1, 4), (1, 4)))
        store.commit({"draws": 1})
        store.write("x", (0, 0), ramp((1, 4)))
        session = repository.writable_session("main")
        zarr.open_group(session.store).create_array("mine", data=np.arange(3))
        session.commit("mine")
        with pytest.raises(js.BusyError, match="another writer committed 'mine'"):
            store.commit({"draws": 1})

    def test_a_commit_whose_answer_was_lost_counts(
        self, repository: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commit = icechunk.Session.commit

        def lost(*given: Any) -> None:
            expected = commit(*given)
            raise icechunk.ConflictError(expected, expected)

        store = ZarrStore.new(repository)
        monkeypatch.setattr(icechunk.Session, "commit", lost)
        for n in range(3):
            store.commit({"draws": n})
        monkeypatch.undo()
        store.commit({"draws": 3})
        assert [snapshot.message for snapshot in history(repository)] == ["a commit"] * 4


def test_a_store_closes_where_the_storage_is_away(
    repository: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise icechunk.IcechunkError("the storage is away")

    store = ZarrStore.new(repository)
    store.commit({"draws": 1})
    monkeypatch.setattr(icechunk.Repository, "readonly_session", away)
    store.close()
    with pytest.raises(js.BusyError, match="is closed"):
        store.commit({"draws": 2})


def test_what_is_open_is_not_pickled_with_its_credentials(repository: Any) -> None:
    with pytest.raises(TypeError, match="not pickled, since credentials of its storage"):
        pickle.dumps(ZarrStore.new(repository).reader())


WRITER = """
import sys, time, icechunk, jax, jax.numpy as jnp, jaxstore as js

def wait(i):
    time.sleep(3600 if i == 400 and sys.argv[2:] == ["killed"] else 0.002)  # it commits on its way

def step(x, i):
    jax.debug.callback(wait, i)
    return x + jnp.sin(x + i), {"x": x}

repository = icechunk.Repository.open(icechunk.local_filesystem_storage(sys.argv[1]))
with js.ZarrCollector(repository) as collector:
    js.scan(step, jnp.zeros((2, 3)), jnp.arange(600), chains=2, collector=collector, resume=True,
            checkpoint_every=50, progress=False)
"""


def test_a_run_that_is_killed_is_followed_to_the_same_end(tmp_path: Path) -> None:
    storage = icechunk.local_filesystem_storage(str(tmp_path / "repo"))
    repository = icechunk.Repository.create(storage)
    command, heard, kills = [sys.executable, "-c", WRITER, str(tmp_path / "repo")], [], 0
    writer = subprocess.Popen([*command, "killed"])
    try:
        run = None
        while run is None:
            assert writer.poll() is None
            with contextlib.suppress(js.MissingError):
                run = js.open_run(repository)
        for news in run.follow(poll_s=0.02, timeout_s=60):
            heard.append(news)
            if not kills:
                writer.kill()
                writer.wait()
                kills = 1
                assert run.refresh().state == "running"
                writer = subprocess.Popen(command)
        assert writer.wait(60) == 0
    finally:
        writer.kill()
        writer.wait()
    whole = np.asarray(js.open_run(repository).samples["x"])
    x = jnp.zeros((2, 3))
    step = jax.jit(lambda x, i: x + jnp.sin(x + i))
    for i in range(600):
        assert np.array_equal(whole[:, i], x)
        x = step(x, i)
    assert len({news.committed_at for news in heard}) > 1
    followed = np.concatenate([np.asarray(news.samples["x"]) for news in heard], axis=1)
    assert followed.tobytes() == whole.tobytes()


def test_each_branch_has_a_run_of_its_own(repository: Any) -> None:
    repository.create_branch("night", repository.lookup_branch("main"))
    night = js.IcechunkBranch(repository, "night")
    counted(repository, 40)
    counted(night, 30)
    assert js.open_run(repository).sample_count.tolist() == [40, 40]
    assert js.open_run(night).sample_count.tolist() == [30, 30]
    assert js.open_run(night).location == "icechunk in memory, branch 'night'"
    with pytest.raises(js.MissingError, match=r"'day': there is no such branch. Make it by"):
        counted(js.IcechunkBranch(repository, "day"), 3)
    assert "in memory, branch 'night'" in repr(js.ZarrCollector(night))


def test_nothing_that_is_there_is_overwritten(repository: Any) -> None:
    session = repository.writable_session("main")
    zarr.open_group(session.store).create_array("mine", data=np.arange(3))
    session.commit("mine")
    for resume in (False, True):
        with pytest.raises((js.ExistsError, js.MismatchError, js.FormatError)):
            js.scan(
                lambda x, _: (x, {"x": x}), jnp.zeros(2), length=3,
                collector=js.ZarrCollector(repository), resume=resume,
            )  # fmt: skip
    assert [snapshot.message for snapshot in history(repository)] == ["mine"]


def test_a_session_is_read_and_not_written(repository: Any) -> None:
    session = repository.writable_session("main")
    with pytest.raises(TypeError, match="a session commits once, a run often. Give the repository"):
        counted(session.store, 3)
    assert not session.has_uncommitted_changes


def test_a_run_is_a_source(repository: Any) -> None:
    run = counted(repository, 40)
    want = np.asarray(run.samples["x"])
    for place in (repository, js.IcechunkBranch(repository)):
        with js.Loader(place, batch_size=40, shuffle=False) as loader:
            rows = np.asarray(next(iter(loader))["samples/x"])
            assert np.array_equal(rows, want.swapaxes(0, 1))
    result = js.process(jnp.sum, run.samples["x"], "memory")
    assert result.state == "complete"
    for target in (repository, js.IcechunkBranch(repository)):
        with pytest.raises(TypeError, match="results are not written into Icechunk"):
            js.process(jnp.sum, run.samples["x"], target)
    with pytest.raises(js.MismatchError, match="not written into Icechunk. Give a target"):
        js.process(jnp.sum, run.samples["x"])


def test_what_zarr_wrote_is_a_source(repository: Any) -> None:
    values = np.arange(40, dtype="f4").reshape(10, 4)
    session = repository.writable_session("main")
    zarr.open_group(session.store).create_array("x", data=values, chunks=(3, 4))
    session.commit("x")
    with js.Loader(repository, batch_size=10, shuffle=False) as loader:
        assert_same_bits(np.asarray(next(iter(loader))["x"]), values)
    assert np.array_equal(js.process(jnp.sum, repository, "memory")["result"][:], values.sum(1))


def test_icechunk_is_not_imported_for_other_places(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from jaxstore.stores.location import create_store\n"
        f"store = create_store({str(tmp_path / 'a.zarr')!r})\n"
        "store.commit({})\n"
        "assert 'icechunk' not in sys.modules, 'it was'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_run_in_an_object_store(s3_server: Any, s3_bucket: str) -> None:
    from s3_server import KEY, SECRET, TOKEN

    storage = icechunk.s3_storage(
        bucket=s3_bucket, prefix="repo", region="us-east-1", allow_http=True,
        endpoint_url=f"http://127.0.0.1:{s3_server.port}", force_path_style=True,
        access_key_id=KEY, secret_access_key=SECRET, session_token=TOKEN,
    )  # fmt: skip
    repository = icechunk.Repository.create(storage)
    sampled(repository)
    found = sampled(icechunk.Repository.open(storage), 2 * LENGTH)
    whole = resumable.sampled("scan", js.MemoryCollector(), 2 * LENGTH, every=EVERY)
    assert_same_run(found, whole)
    assert found.location == f"icechunk {s3_bucket}/repo, branch 'main'"
    assert not any(secret in repr(found) for secret in (KEY, SECRET, TOKEN))
    assert js.verify(repository).is_sound
