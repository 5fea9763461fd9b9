"""What cannot be done is refused before anything is made, and what fails costs nothing else."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import threading

import h5py
import jax
import numpy as np
import pytest
import zarr
from pairs import in_turn
from processed import Counted, bits, files, hdf5_file, numbers, peak, run, waves, zarr_file
from stored_rows import CountingSource

import jaxstore as js
from jaxstore.stores.results import DONE, FAILED

X = waves()
ITEMS = numbers(20)
UNITS = {"chunks": 4, "batch_size": 4, "source_token": "t"}


def no_keyword(x):
    return x


def no_array(x):
    return {"a": "text"}


REFUSED = {
    "unknown parameter": (
        dict(function=no_keyword, params={"width": 3}),
        js.MismatchError,
        r"no_keyword\(x\).*\['width'\].*It takes \['x'\]",
    ),
    "parameter of no kind": (dict(params={"width": object()}), TypeError, "width"),
    "no array out": (
        dict(function=no_array),
        js.FormatError,
        r"output\['a'\] of no_array is 'text' of type str.*Return arrays",
    ),
    "no items": (
        dict(source=np.zeros((0, 3), "f4")),
        js.MismatchError,
        r"shape \(0, 3\).*no items",
    ),
    "no source": (dict(source={}), js.MismatchError, r"source is \{\}.*Name one"),
    "nothing there": (
        dict(source="nothing.zarr:/raw"),
        js.MissingError,
        r"nothing.zarr.*Correct the path",
    ),
    "no place": (dict(source=3.5j), TypeError, "complex.*Give a path"),
    "lengths differ": (
        dict(source=(X, X[:5]), function=no_keyword),
        js.MismatchError,
        r"'x' 20 .*'x' 5 .*Give the sample axis",
    ),
    "axis of no array": (dict(axis=5), (ValueError, IndexError), "axis"),
    "axes of another structure": (
        dict(axis=(0, 1)),
        js.MismatchError,
        r"axis is \(0, 1\).*Give one for all",
    ),
    "item there is not": (dict(select=[3, 20]), IndexError, "item 20, but the source has 20 items"),
    "nothing selected": (dict(select=[]), ValueError, "none of the 20 items"),
    "mask too short": (dict(select=np.ones(3, bool)), ValueError, "mask of 3, the source has 20"),
    "select of no kind": (dict(select=[0.5]), TypeError, "float64.*Give a slice"),
    "memory too small": (
        dict(memory="100 B"),
        js.TooLargeError,
        r"takes .* and memory is 100 B.*Give memory=",
    ),
    "memory of no kind": (dict(memory="much"), ValueError, "memory.*much"),
    "no such engine": (
        dict(engine="gpu farm"),
        ValueError,
        "engine is 'gpu farm'. Choose 'serial'",
    ),
    "no workers": (dict(engine="threads", workers=0), ValueError, "workers must be >= 1, got 0"),
    "no chunks": (dict(chunks=0), ValueError, "chunks must be >= 1, got 0"),
    "no batch": (dict(batch_size=-1), ValueError, "batch_size must be >= 1, got -1"),
    "on_error of no kind": (
        dict(on_error="ignore"),
        ValueError,
        "on_error is 'ignore'. Choose 'raise' or 'record'",
    ),
    "retries below 0": (dict(retries=-1), ValueError, "retries must be >= 0, got -1"),
    "no such reduction": (dict(reduce="median"), (ValueError, js.MismatchError), "median"),
    "reduce that records": (dict(reduce="mean", on_error="record"), ValueError, "Leave out one"),
    "channels that reduce": (
        dict(chan_per_worker=2, reduce="mean", function=no_keyword),
        js.MismatchError,
        "Leave it out",
    ),
    "channels that vanish": (
        dict(chan_per_worker=2),
        js.MismatchError,
        r"makes \(\) of 2 channels",
    ),
    "channel axis of no item": (
        dict(chan_per_worker=2, channel_axis=3, function=no_keyword),
        js.MismatchError,
        r"channel_axis is 3.*\[\(6,\)\]",
    ),
    "dims of no output": (
        dict(dims={"top": ["x"]}),
        js.MismatchError,
        r"\['top'\].*outputs are \['amp'",
    ),
    "dims too many": (dict(dims={"amp": ["x"]}), js.MismatchError, r"'amp' is \(\).*\('x',\)"),
    "attrs of no JSON": (dict(attrs={"a": np.float32(1)}), TypeError, "attrs=.*Give what JSON has"),
    "no such compression": (dict(compression="gzip"), ValueError, "gzip"),
    "64 bits": (dict(source=X.astype("f8")), js.MismatchError, r"item is float64.*jax_enable_x64"),
    "text": (
        dict(source=np.array([b"a", b"b"])),
        (js.MismatchError, js.FormatError),
        r"\|?S1|text",
    ),
    "not traced": (
        dict(function=lambda x: float(x[0])),
        Exception,
        "Abstract tracer|ConcretizationTypeError|concrete",
    ),
}


@pytest.mark.parametrize(("what", "target"), in_turn(REFUSED, ["o.zarr", "o.h5"], every=2))
def test_what_cannot_be_done_is_refused_with_words_and_leaves_nothing(
    tmp_path, what, target, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    given, kind, words = REFUSED[what]
    call = {"function": peak, "source": X, **given}
    with pytest.raises(kind, match=f"(?s){words}"):
        run(call.pop("function"), call.pop("source"), tmp_path / target, **call)
    assert list(tmp_path.iterdir()) == []


def test_targets_that_cannot_hold_results_are_refused_and_kept(tmp_path):
    source = zarr_file(tmp_path / "s.zarr", X)
    (tmp_path / "text.txt").write_text("mine")
    hdf5_file(tmp_path / "s.h5", X)
    zarr.open_group(tmp_path / "v2.zarr", mode="w", zarr_format=2)
    before = files(tmp_path)
    for target, words in [
        (source, "is an array, so it cannot hold"),  # inside of its source
        (f"{tmp_path}/s.h5:/raw", "is an array"),
        (tmp_path / "text.txt", "text.txt"),
        (tmp_path / "v2.zarr", "Zarr v2.*Name another place"),
        (5, "int"),
    ]:
        with pytest.raises((js.JaxstoreError, TypeError), match=f"(?s){words}"):
            run(peak, source, target)
    with (
        h5py.File(tmp_path / "s.h5", "r") as file,
        pytest.raises(js.MismatchError, match="open for reading.*give the path"),
    ):
        run(peak, file["raw"], None)
    assert files(tmp_path) == before


@pytest.mark.parametrize("engine", [{"engine": "serial"}, {"engine": "threads", "workers": 2}])
@pytest.mark.parametrize("target", ["o.zarr", "o.h5"])
def test_an_item_that_fails_is_raised_with_its_index_and_what_was_done_is_kept(
    tmp_path, engine, target
):
    kernel, source = Counted(fails_at=10.0), CountingSource("raw", ITEMS, 4)
    with pytest.raises(Exception, match="no fit of 10") as caught:
        run(kernel, source, tmp_path / target, **UNITS, **engine)
    assert "in item 10 of the result, unit 2" in caught.value.__notes__
    (found,) = js.find(tmp_path / target)
    assert found.state == "partial"
    done = np.flatnonzero(found.status == DONE)
    assert {0, 1} <= set(done.tolist())
    assert 2 not in done
    kernel.fails_at = None
    kernel.seen.clear()
    res = run(kernel, source, tmp_path / target, **UNITS, **engine)
    assert res.name == found.name
    assert min(kernel.seen) == 8
    assert np.array_equal(res["double"], 2 * np.arange(20))


def test_one_item_of_many_is_found_by_few_tries():
    kernel, source = Counted(fails_at=900.0), CountingSource("raw", numbers(1000), 1000)
    with pytest.raises(Exception, match="no fit") as caught:
        run(kernel, source, chunks=1000, batch_size=8, source_token="t")
    assert "in item 900 of the result, unit 0" in caught.value.__notes__
    assert len(source.chunks) < 20


@pytest.mark.parametrize("target", ["o.zarr", "o.h5", "memory"])
def test_items_that_fail_are_recorded_and_can_be_tried_again(tmp_path, target, caplog):
    where = target if target == "memory" else tmp_path / target
    kernel, source = Counted(fails_at=10.0), CountingSource("raw", ITEMS, 4)
    res = run(kernel, source, where, on_error="record", **UNITS)
    assert res.state == "partial"
    assert list(res.errors) == [10]
    assert "no fit of 10" in res.errors[10]
    assert res.status.tolist() == [DONE, DONE, FAILED, DONE, DONE]
    assert np.isnan(res["double"][10])
    others = np.arange(20) != 10
    assert np.array_equal(res["double"][:][others], 2 * np.arange(20)[others])
    assert "item 10 failed" in caplog.text
    assert res.verify().is_sound
    kernel.fails_at = None
    kernel.seen.clear()
    again = res.retry_failed()
    assert sorted(set(kernel.seen)) == [8, 9, 10, 11]  # its unit alone
    assert (again.name, again.state, again.errors) == (res.name, "complete", {})
    assert np.array_equal(again["double"], 2 * np.arange(20))
    if target != "memory":
        with pytest.raises(js.MissingError, match="was found, not computed.*resume=result"):
            js.find(where)[0].retry_failed()


def test_errors_of_blocks_of_channels_do_not_replace_each_other(tmp_path):
    def refuse(x):
        if x[0] in (1.0, 62.0):
            raise RuntimeError(f"no fit of {x[0]}")
        return x

    def kernel(x):
        return jax.pure_callback(
            refuse, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential"
        )

    values = np.arange(30, dtype="f4").reshape(10, 3) + 100
    values[2, 0], values[3, 2] = 1.0, 62.0
    res = run(
        kernel,
        values,
        tmp_path / "o.zarr",
        chan_per_worker=1,
        chunks=5,
        on_error="record",
        name="c",
    )
    assert list(res.errors) == [2, 3]
    assert "no fit of 1.0" in res.errors[2]
    assert "no fit of 62.0" in res.errors[3]
    found, wanted = res["result"][:], values
    assert np.isnan(found[2, 0])
    assert np.isnan(found[3, 2])
    assert np.isnan(found).sum() == 2
    assert np.array_equal(found[~np.isnan(found)], wanted[~np.isnan(found)])


def test_a_unit_is_tried_again_before_it_fails(caplog):
    kernel, source = Counted(fails_at=10.0, until=2), CountingSource("raw", ITEMS, 4)
    res = run(kernel, source, retries=2, **UNITS)
    assert res.state == "complete"
    assert caplog.text.count("unit 2 failed and is tried again") == 2
    kernel.until = 2
    with pytest.raises(Exception, match="no fit"):
        run(kernel, source, retries=1, **UNITS)


def test_an_error_of_the_source_comes_as_itself():
    source = CountingSource("raw", ITEMS, 4, fails_at=3, error=OSError(errno.EIO, "no such luck"))
    with pytest.raises(OSError, match="no such luck") as caught:
        run(no_keyword, source, **UNITS)
    assert caught.value.errno == errno.EIO
    assert "in item 12 of the result, unit 3" in caught.value.__notes__


def test_a_damaged_chunk_of_the_source_is_named_and_the_rest_is_kept(tmp_path):
    source = zarr_file(tmp_path / "s.zarr", X)
    (tmp_path / "s.zarr" / "raw" / "c" / "2" / "0").write_bytes(b"torn")
    with pytest.raises(js.FormatError, match=r"'raw' in .*s.zarr: chunk \(2, 0\)") as caught:
        run(peak, source, tmp_path / "o.zarr", chunks=4)
    assert "in item 8 of the result, unit 2" in caught.value.__notes__
    assert js.find(tmp_path / "o.zarr")[0].status.tolist() == [1, 1, 0, 0, 0]
    res = run(peak, source, tmp_path / "o.zarr", chunks=4, on_error="record")
    assert list(res.errors) == [8, 9, 10, 11]


def test_absent_chunks_are_fill_values_or_errors(tmp_path):
    source = zarr_file(tmp_path / "s.zarr", X)
    (tmp_path / "s.zarr" / "raw" / "c" / "2" / "0").unlink()
    assert not run(no_keyword, source)["result"][8:12].any()
    with pytest.raises(js.FormatError, match=r"chunk \(2, 0\)"):
        run(no_keyword, source, strict=True)


@pytest.mark.parametrize("target", ["o.zarr", "o.h5"])
def test_a_full_disk_is_an_error_with_errno_and_what_was_done_is_kept(disk, tmp_path, target):
    values = np.random.default_rng(0).random((64, 1 << 16), "f4")
    source = CountingSource("raw", values, 4, pause_s=0.1)
    settings = {**UNITS, "compression": None, "name": "copy"}
    with pytest.raises(OSError, match="(?i)space|write") as caught:  # 16 MiB into 8
        run(lambda x: x * 2, source, disk / target, **settings)
    assert caught.value.errno == errno.ENOSPC
    (found,) = js.find(disk / target)
    done = np.flatnonzero(found.status == DONE).tolist()
    for unit in done:
        rows = slice(4 * unit, 4 * unit + 4)
        assert np.array_equal(found["result"][rows], source.values[rows] * 2)
    found.close()
    assert done
    subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
    res = run(lambda x: x * 2, source, disk / target, **settings)
    assert res.name == found.name
    assert np.array_equal(res["result"], source.values * 2)
    res.close()


CTRL_C = """
import os, signal, sys, time
import numpy as np
import jaxstore as js
from jaxstore.processing.work import Input

read, seen, pause_s = Input.read, [], 0.5  # for the main thread to hear of it
def noted(self, unit, items):
    seen.append(unit)
    if len(seen) == 6:
        os.kill(os.getpid(), signal.SIGINT)
    if len(seen) >= 6:
        time.sleep(pause_s)
    return read(self, unit, items)
Input.read = noted
try:
    js.process(lambda x: x + 1, np.arange(40, dtype="f4").reshape(20, 2), sys.argv[1], name="p",
               chunks=1, engine=sys.argv[2], workers=2, progress=False)
except KeyboardInterrupt:
    print("interrupted")
n, pause_s = len(seen), 0
res = js.process(lambda x: x + 1, np.arange(40, dtype="f4").reshape(20, 2), sys.argv[1], name="p",
                 engine="serial", progress=False)
print(n, len(set(seen)), res.name, res.state, float(res["result"][:].sum()))
"""


@pytest.mark.parametrize(("target", "engine"), [("o.zarr", "threads"), ("o.h5", "serial")])
def test_ctrl_c_is_a_keyboard_interrupt_and_the_next_call_goes_on(tmp_path, target, engine):
    program = tmp_path / "program.py"
    program.write_text(CTRL_C)
    child = subprocess.run(
        [sys.executable, program, tmp_path / target, engine],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert child.stdout.startswith("interrupted\n"), child.stderr
    n, n_units, name, state, total = child.stdout.split()[1:]
    assert int(n) < 12
    assert int(n_units) == 20
    assert (name, state, float(total)) == ("x-p_000", "complete", 40 * 39 / 2 + 40)
    assert re.search("Traceback", child.stderr) is None


def test_two_threads_on_one_target_get_one_result_each_or_a_word(tmp_path):
    source, found = CountingSource("raw", ITEMS, 1, pause_s=0.01), []

    def work():
        try:
            found.append(
                run(
                    lambda x: x + 1,
                    source,
                    tmp_path / "o.zarr",
                    name="p",
                    chunks=1,
                    source_token="t",
                )
            )
        except js.BusyError as error:
            found.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = [one for one in found if not isinstance(one, Exception)]
    assert len(found) == 3
    assert results
    for res in js.find(tmp_path / "o.zarr"):
        assert res.state == "complete"
        assert np.array_equal(res["result"], ITEMS + 1)
    assert len({bits(res)["result"] for res in results}) == 1
