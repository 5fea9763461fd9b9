"""An interrupted process goes on where it was: nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import numpy as np
import pytest
from processed import Counted, bits, files, numbers, peak, run, waves, zarr_file
from stored_rows import CountingSource

import jaxstore as js
from jaxstore.errors import BusyError, MismatchError, TooLargeError
from jaxstore.stores.results import DONE, FAILED, TODO
from jaxstore.stores.results_place import results_at
from jaxstore.stores.results_zarr import ZarrResult

X = numbers(20)
UNITS = {"chunks": 1, "batch_size": 1, "source_token": "t"}
TARGETS = ["o.zarr", "o.h5", "memory"]


def place_of(tmp_path, target):
    """A place that can be given again and again, memory too."""
    return results_at("memory") if target == "memory" else str(tmp_path / target)


def interrupted(kernel, source, place, done, **settings):
    """A result of which just some units are done, as a kill would leave it."""
    res = run(kernel, source, place, **{**UNITS, **settings})
    owner = res.place.open(res.name, role="owner")
    owner.set_manifest({**owner.manifest(), "state": "partial"})
    marks = np.zeros(len(res.status), np.uint8)
    marks[list(done)] = DONE
    owner.set_marks(marks)
    # What is not marked is of no account, so it may be anything.
    for unit in sorted(set(range(len(marks))) - set(done)):
        for name, region in res.manifest.regions(unit):
            shape = [part.stop - part.start for part in region]
            owner.write(
                name, [part.start for part in region], np.full(shape, 77, owner.spec(name).dtype)
            )
    owner.close()
    assert js.find(place)[0].state == "partial"
    return res


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("engine", [{"engine": "serial"}, {"engine": "threads", "workers": 3}])
def test_exactly_what_is_not_done_is_done_once_each(tmp_path, target, engine):
    place, kernel = place_of(tmp_path, target), Counted()
    source = CountingSource("raw", X, 1)
    whole = interrupted(kernel, source, place, {1, 2, 7, 8, 15}, **engine)
    assert sorted(kernel.seen) == list(range(20))
    kernel.seen.clear()
    source.chunks.clear()
    res = run(kernel, source, place, **UNITS, **engine)
    others = sorted(set(range(20)) - {1, 2, 7, 8, 15})
    assert sorted(kernel.seen) == others
    assert sorted(source.chunks) == others
    assert res.name == whole.name
    assert res.state == "complete"
    assert np.array_equal(res["double"], 2 * np.arange(20))
    assert len(js.find(place)) == 1
    assert [s["units"] for s in res.provenance["sessions"]] == [20, 15]


@pytest.mark.parametrize("target", TARGETS)
def test_zeros_that_are_marked_are_done(tmp_path, target):
    seen = []

    def nothing(x):
        seen.append(1)
        return np.float32(0)

    def kernel(x):
        shape = jax.ShapeDtypeStruct((), "f4")
        return jax.pure_callback(nothing, shape, x, vmap_method="sequential")

    source, place = CountingSource("raw", X, 1), place_of(tmp_path, target)
    interrupted(kernel, source, place, range(10))
    seen.clear()
    res = run(kernel, source, place, **UNITS)
    assert len(seen) == 10
    assert not res["result"][:].any()
    assert res.verify().is_whole


def torn(res):
    """Damage unit 3 of a result of 20 units in Zarr, and lose unit 5."""
    chunks = Path(res.location) / "double" / "c"
    os.truncate(chunks / "3", 5)
    (chunks / "5").unlink()


def test_a_torn_or_lost_chunk_is_redone_and_the_log_says_so(tmp_path, caplog):
    kernel, source = Counted(), CountingSource("raw", X, 1)
    res = run(kernel, source, tmp_path / "o.zarr", **UNITS, compression=None)
    wanted = bits(res)
    torn(res)
    assert [damage.place for damage in res.verify().damage] == ["double", "double"]
    # As complete it is returned untouched; by name all its chunks are looked at.
    kernel.seen.clear()
    assert run(kernel, source, tmp_path / "o.zarr", **UNITS).name == res.name
    assert kernel.seen == []
    again = run(kernel, source, resume=res, **UNITS)
    assert sorted(kernel.seen) == [3, 5]
    assert "units [3, 5] are damaged, and computed again" in caplog.text
    assert again.state == "complete"
    assert bits(again) == wanted
    assert again.verify().is_whole


def test_a_kill_while_a_damaged_result_is_mended_leaves_it_partial(tmp_path):
    kernel, source = Counted(), CountingSource("raw", X, 1)
    res = run(kernel, source, tmp_path / "o.zarr", **UNITS, compression=None)
    torn(res)
    kernel.fails_at = 5.0
    with pytest.raises(Exception, match="no fit of 5"):
        run(kernel, source, resume=res, **UNITS)
    (found,) = js.find(tmp_path / "o.zarr")
    assert found.state == "partial"
    kernel.fails_at = None
    kernel.seen.clear()
    assert run(kernel, source, tmp_path / "o.zarr", **UNITS).state == "complete"
    assert kernel.seen == [5.0]


@pytest.mark.parametrize("target", TARGETS)
def test_a_result_can_be_named_to_be_continued_or_not_at_all(tmp_path, target):
    place, source, kernel = place_of(tmp_path, target), CountingSource("raw", X, 1), Counted()
    first = interrupted(kernel, source, place, {0})
    fresh = run(kernel, source, place, resume=False, **UNITS)
    assert fresh.name != first.name
    assert first.state == "partial"
    kernel.seen.clear()
    assert run(kernel, source, resume=first, **UNITS).name == first.name
    assert sorted(kernel.seen) == list(range(1, 20))
    assert first.state == "complete"
    with pytest.raises(ValueError, match="Leave out one"):
        run(kernel, source, resume=first, override=True)


def test_a_result_of_another_computation_is_not_continued(tmp_path):
    res = run(peak, X, tmp_path / "o.zarr", params={"width": 2})
    before = files(tmp_path)
    with pytest.raises(
        MismatchError, match=r"another computation: params.width is 2 there and 3 here.*Give what"
    ):
        run(peak, X, resume=res, params={"width": 3})
    assert files(tmp_path) == before


@pytest.mark.parametrize("target", ["o.zarr", "o.h5"])
def test_what_does_not_fit_any_more_changes_nothing(tmp_path, target):
    source = zarr_file(tmp_path / "s.zarr", waves(40, 50000), chunks=(10, 50000))
    interrupted(peak, source, str(tmp_path / target), {1}, chunks=10, batch_size=10)
    before = files(tmp_path)
    with pytest.raises(
        TooLargeError, match=r"a unit of 10 items takes .* and memory is 1.* Give memory="
    ):
        run(peak, source, tmp_path / target, memory="1 MiB", source_token="t")
    assert files(tmp_path) == before
    assert (
        run(peak, source, tmp_path / target, memory="64 MiB", source_token="t").state == "complete"
    )


def test_a_result_keeps_its_sizes_whatever_is_asked_for_later(tmp_path):
    source = CountingSource("raw", waves(), 4)
    one = interrupted(peak, source, str(tmp_path / "o.zarr"), {0, 3}, chunks=4, batch_size=3)
    wanted = bits(run(peak, source, "memory", chunks=4, batch_size=3, source_token="t"))
    res = run(
        peak, source, tmp_path / "o.zarr", chunks=7, batch_size=20, memory="1GB", source_token="t"
    )
    assert res.name == one.name
    assert res.provenance["plan"]["unit_items"] == 4
    assert bits(res) == wanted


@pytest.mark.parametrize("target", ["o.zarr", "o.h5"])
def test_array_parameters_are_there_though_a_kill_came_before_they_were_written(tmp_path, target):
    def kernel(x, *, w):
        return x * w

    params = {"w": np.arange(2.0, dtype="f4")}
    source = CountingSource("raw", X, 1)
    res = interrupted(kernel, source, str(tmp_path / target), {0}, params=params, select=[4, 2, 1])
    owner = res.place.open(res.name, role="owner")
    owner.write("_params/w", (0,), np.full(2, np.nan, "f4"))
    owner.close()
    again = run(kernel, source, tmp_path / target, params=params, select=[4, 2, 1], **UNITS)
    assert again.name == res.name
    assert np.array_equal(again.params["w"], params["w"])


def test_another_function_under_the_same_version_does_not_go_on_with_its_result(tmp_path):
    source = CountingSource("raw", X, 1)
    interrupted(lambda x: {"a": x}, source, str(tmp_path / "o.zarr"), {0}, version="1", name="p")
    with pytest.raises(
        MismatchError, match=r"begun with the outputs .*'a'.*gives .*'b'.*another version"
    ):
        run(lambda x: {"b": x}, source, tmp_path / "o.zarr", version="1", name="p", **UNITS)


@pytest.mark.parametrize("target", ["o.zarr", "o.h5"])
def test_a_result_that_is_worked_on_is_not_touched(tmp_path, target):
    source, kernel = CountingSource("raw", X, 1), Counted()
    res = interrupted(kernel, source, str(tmp_path / target), {0})
    owner = res.place.open(res.name, role="owner")
    kernel.seen.clear()
    with pytest.raises(BusyError):
        run(kernel, source, tmp_path / target, **UNITS)
    assert kernel.seen == []
    owner.close()
    assert run(kernel, source, tmp_path / target, **UNITS).state == "complete"


@pytest.mark.parametrize("reduce", ["mean", "variance", "max"])
def test_reductions_are_continued_bit_for_bit(tmp_path, reduce):
    source, settings = (
        CountingSource("raw", waves(), 3),
        {"reduce": reduce, "chunks": 3, "batch_size": 3},
    )

    def kernel(x):
        return x * x[0]

    wanted = bits(run(kernel, source, "memory", source_token="t", **settings))
    interrupted(kernel, source, str(tmp_path / "o.zarr"), {1, 4}, **settings)
    assert bits(run(kernel, source, tmp_path / "o.zarr", source_token="t", **settings)) == wanted


def test_marks_say_what_is_to_do_done_and_failed(tmp_path):
    kernel, source = Counted(fails_at=4.0), CountingSource("raw", X, 1)
    with pytest.raises(Exception, match="no fit"):
        run(kernel, source, tmp_path / "o.zarr", **UNITS)
    (found,) = js.find(tmp_path / "o.zarr", state="partial")
    assert found.status.tolist() == [DONE] * 4 + [TODO] * 16
    res = run(kernel, source, tmp_path / "o.zarr", on_error="record", **UNITS)
    assert res.status.tolist() == [DONE] * 4 + [FAILED] + [DONE] * 15


def test_a_kill_just_after_damaged_units_were_unmarked_leaves_the_result_partial(
    tmp_path, monkeypatch
):
    kernel, source = Counted(), CountingSource("raw", X, 1)
    res = run(kernel, source, tmp_path / "o.zarr", **UNITS, compression=None)
    torn(res)
    set_marks, calls = ZarrResult.set_marks, []

    def killed(self, marks):
        set_marks(self, marks)
        calls.append(marks)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ZarrResult, "set_marks", killed)
        with pytest.raises(KeyboardInterrupt):
            run(kernel, source, resume=res, **UNITS)
    assert calls
    (found,) = js.find(tmp_path / "o.zarr")
    assert (found.state, int((found.status == DONE).sum())) == ("partial", 18)
