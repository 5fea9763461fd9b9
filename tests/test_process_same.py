"""The same computation is found and left alone; anything else is another one."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from processed import QUIET, bits, files, hdf5_file, run, waves, zarr_file

import jaxstore as js
from jaxstore.stores.results import DONE
from jaxstore.stores.results_place import results_at

X = waves()
TARGETS = ["o.zarr", "o.h5"]

PROGRAM = """
import sys
import jax.numpy as jnp
import jaxstore as js

def kernel(x, *, width, mode=None, scale=1.0):
    return {"top": (x * width).max() * scale}

source, target, params, told = sys.argv[1:5]
before = {r.name for r in js.find(target)}
res = js.process(kernel, source, target, params=eval(params), progress=False, engine="serial")
print(res.name, res.name in before, res["top"][0])
"""


def kernel(x, *, width, mode=None, scale=1.0):
    return {"top": (x * width).max() * scale}


def stored_values(res, name, value):
    """Plant a value that no computation would give, so that computing again would show."""
    owner = res.place.open(res.name, role="owner")
    owner.write(name, (0,), np.full(res[name].shape, value, res[name].dtype))
    owner.mark([0], DONE)  # so that it counts
    owner.close()


def digest(location):
    """Of all that is stored of a result, in Zarr or in HDF5."""
    file, _, group = location.partition(":/")
    if not group:
        return files(Path(location))
    found = {}

    def look(name, item):
        values = item[...].tobytes() if isinstance(item, h5py.Dataset) else b""
        # References hold addresses in memory.
        attrs = {
            k: np.asarray(v).tobytes()
            for k, v in item.attrs.items()
            if np.asarray(v).dtype.kind != "O"
        }
        found[name] = (values, {k: v for k, v in attrs.items() if k != "REFERENCE_LIST"})

    with h5py.File(file) as opened:
        opened[group].visititems(look)
    return found


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("made", [zarr_file, hdf5_file])
def test_a_second_call_gives_what_is_there_untouched(tmp_path, target, made):
    source, where = (
        made(tmp_path / ("s.zarr" if made is zarr_file else "s.h5"), X),
        tmp_path / target,
    )
    first = run(kernel, source, where, params={"width": 2})
    stored_values(first, "top", 77)
    before = files(tmp_path)
    second = run(
        kernel,
        source,
        where,
        params={"width": 2},
        engine="threads",
        workers=3,
        chunks=2,
        memory="1GB",
    )
    assert second.name == first.name
    assert np.array_equal(second["top"], np.full(20, 77))
    assert files(tmp_path) == before
    assert js.plan(kernel, source, where, params={"width": 2}).matches == (first.name,)
    assert files(tmp_path) == before


def in_other_process(folder, *args):
    path = folder / "program.py"
    path.write_text(PROGRAM)
    found = subprocess.run(
        [sys.executable, path, *map(str, args), ""],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


def test_a_second_call_in_another_process_too(tmp_path):
    source, where = hdf5_file(tmp_path / "s.h5", X), tmp_path / "s.h5"
    first = run(kernel, source, where, params={"width": 2})
    stored_values(first, "top", 77)
    before = files(tmp_path)
    name, was_there, value = in_other_process(tmp_path, source, where, {"width": 2})
    assert (name, was_there, value) == (first.name, "True", "77.0")
    (tmp_path / "program.py").unlink()
    assert files(tmp_path) == before
    name, was_there, _ = in_other_process(tmp_path, source, where, {"width": 3})
    assert (name, was_there) == ("raw-kernel_001", "False")


@pytest.mark.parametrize("target", TARGETS)
def test_override_twice_makes_two_and_leaves_older_ones_as_they_are(tmp_path, target):
    call = functools.partial(run, kernel, X, tmp_path / target, params={"width": 2})
    first = call()
    stored_values(first, "top", 77)
    kept = digest(first.location)
    second = call(override=True)
    also = digest(second.location)
    third = call(override=True)
    assert [first.name, second.name, third.name] == ["x-kernel_000", "x-kernel_001", "x-kernel_002"]
    assert digest(first.location) == kept
    assert digest(second.location) == also
    assert bits(second) == bits(third) != bits(first)
    assert call().name == third.name  # the newest


OTHERS = [
    ({"width": 2, "mode": 1}, {"width": 2}, "params.mode is 1 there and not given here"),
    ({"width": 2}, {"width": 2, "mode": 1}, "params.mode is not given there and 1 here"),
    ({"width": 2, "mode": None}, {"width": 2, "mode": 1}, "params.mode is None there and 1 here"),
    ({"width": 2, "mode": None}, {"width": 2}, "params.mode is None there and not given here"),
    ({"width": 1e-12}, {"width": 2e-12}, "params.width is 1e-12 there and 2e-12 here"),
    ({"width": 1}, {"width": True}, "params.width is 1 there and True here"),
    ({"width": 1}, {"width": 1.0}, "params.width is 1 there and 1.0 here"),
    ({"width": np.ones((1, 6))}, {"width": np.ones(6)}, "params.width is float64[1, 6] "),
    ({"width": np.full(6, 1e-12)}, {"width": np.full(6, 2e-12)}, "params.width is float64[6] "),
    ({"width": np.zeros(6)}, {"width": -np.zeros(6)}, "params.width is float64[6] "),
    ({"width": 1}, {"width": np.int32(1)}, "params.width is 1 there and int32(1) here"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "why"), OTHERS)
def test_other_parameters_are_another_computation_and_the_log_says_which(caplog, old, new, why):
    place = results_at("memory")
    first = run(kernel, X, place, params=old)
    with caplog.at_level(logging.INFO, "jaxstore"):
        second = run(kernel, X, place, params=new)
    assert second.name != first.name
    assert f"{first.name} is another computation: {why}" in caplog.text
    assert js.plan(kernel, X, place, params=new).differences[0][1].startswith(why)
    assert run(kernel, X, place, params=old).name == first.name


def test_a_shape_of_2_by_3_is_none_of_6():
    place = results_at("memory")
    flat = np.arange(6.0)
    one = run(lambda x, *, w: x * w.sum(), X, place, name="p", params={"w": flat.reshape(2, 3)})
    two = run(lambda x, *, w: x * w.sum(), X, place, name="p", params={"w": flat})
    assert one.name != two.name


def test_a_name_that_contains_another_is_another():
    place = results_at("memory")
    names = [run(lambda x: x, X, place, name=name).name for name in ("Sub", "Su", "Sub_000", "Su")]
    assert names == ["x-Sub_000", "x-Su_000", "x-Sub%5F000_000", "x-Su_000"] or len(set(names)) == 3


@pytest.mark.parametrize(("made", "suffix"), [(zarr_file, "zarr"), (hdf5_file, "h5")])
def test_another_or_an_edited_source_is_another_computation(tmp_path, caplog, made, suffix):
    a, b = made(tmp_path / f"a.{suffix}", X), made(tmp_path / f"b.{suffix}", X)
    target = tmp_path / "shared.zarr"
    caplog.set_level(logging.INFO, "jaxstore")
    one, two = run(lambda x: x, a, target, name="p"), run(lambda x: x, b, target, name="p")
    assert one.name != two.name
    assert "another source: raw in" in caplog.text
    # Edited in place, to the same size, and its time as soon as it may be.
    if made is zarr_file:
        zarr.open_array(tmp_path / "a.zarr" / "raw")[3, 2] += 1
    else:
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            file["raw"][3, 2] += 1
    caplog.clear()
    three = run(lambda x: x, a, target, name="p")
    assert three.name not in (one.name, two.name)
    assert "raw was changed since" in caplog.text
    assert three["result"][3, 2] == X[3, 2] + 1
    assert run(lambda x: x, b, target, name="p").name == two.name


@pytest.mark.parametrize(("made", "suffix"), [(zarr_file, "zarr"), (hdf5_file, "h5")])
def test_results_beside_a_source_do_not_make_it_another(tmp_path, made, suffix):
    source = made(tmp_path / f"a.{suffix}", X)
    names = [run(lambda x, n=n: x * n, source, None, name="p").name for n in (1, 2, 3, 1, 2, 3)]
    assert names[:3] == names[3:] == ["raw-p_000", "raw-p_001", "raw-p_002"]


def test_an_edited_kernel_helper_or_captured_value_is_another_computation(caplog):
    place = results_at("memory")
    caplog.set_level(logging.INFO, "jaxstore")
    space = {"jnp": jnp, "jax": jax}

    def defined(code):
        exec(textwrap.dedent(code), space)
        return space["f"]

    table = np.arange(6.0, dtype="f4")
    space["table"] = table
    f = defined(
        """
        @jax.jit
        def helper(x):
            return x * table
        def f(x):
            return jax.lax.scan(lambda c, v: (c + v, c), 0.0, helper(x))
        """
    )
    one = run(f, X, place)
    assert run(f, X, place).name == one.name
    # The same text elsewhere, and comments, are no edit.
    f = defined(
        """
        # moved
        @jax.jit
        def helper(x):  # renamed what is inside
            y = x * table
            return y
        def f(x):
            return jax.lax.scan(lambda c, v: (c + v, c), 0.0, helper(x))
        """
    )
    assert run(f, X, place).name == one.name
    defined("@jax.jit\ndef helper(x):\n    return x * table * 2\n")
    two = run(f, X, place)  # f itself was not touched
    assert two.name != one.name
    assert np.allclose(two["list_element_0"], 2 * np.asarray(one["list_element_0"]), rtol=1e-5)
    space["table"] = table + 1
    three = run(f, X, place)
    assert three.name not in (one.name, two.name)
    assert not np.allclose(three["list_element_0"], two["list_element_0"])
    assert "the program differs (edited kernel or helper)" in caplog.text
    space["table"] = table
    assert run(f, X, place).name == two.name


def test_a_version_stands_for_the_program():
    place = results_at("memory")
    one = run(lambda x: x, X, place, name="p", version="1")
    assert run(lambda x: x + 1, X, place, name="p", version="1").name == one.name
    two = run(lambda x: x + 1, X, place, name="p", version="2")
    assert two.name != one.name
    assert run(lambda x: x, X, place, name="p").name not in (one.name, two.name)


@pytest.mark.parametrize(
    "settings",
    [
        {"select": [1, 2]},
        {"select": [2, 1]},
        {"axis": 1},
        {"dtype": "float16"},
        {"reduce": "sum"},
        {"reduce": "mean"},
        {"chan_per_worker": 2},
    ],
)
def test_what_decides_values_is_compared(settings):
    place = results_at("memory")
    one = run(lambda x: x, X, place, name="p")
    other = run(lambda x: x, X, place, name="p", **settings)
    assert other.name != one.name
    assert run(lambda x: x, X, place, name="p", **settings).name == other.name
    assert run(lambda x: x, X, place, name="p").name == one.name


def test_how_the_source_is_told_apart_is_the_users_choice(tmp_path):
    a, b = zarr_file(tmp_path / "a.zarr", X), hdf5_file(tmp_path / "b.h5", X)
    place = results_at("memory")
    one = run(lambda x: x, a, place, name="p", source_token="content")
    assert run(lambda x: x, b, place, name="p", source_token="content").name == one.name
    token = run(lambda x: x, a, place, name="p", source_token="v1")
    os.utime(tmp_path / "a.zarr" / "raw" / "c" / "0" / "0", (1, 1))
    assert run(lambda x: x, a, place, name="p", source_token="v1").name == token.name
    assert run(lambda x: x, a, place, name="p", source_token="v2").name != token.name


@pytest.mark.parametrize("target", TARGETS)
def test_finding_is_quick_and_writes_nothing(tmp_path, target):
    where = tmp_path / target
    wanted = run(kernel, X, where, params={"width": 2})
    other = run(kernel, X[:4], where, params={"width": 5})
    place = results_at(where)
    manifest = other.provenance
    for n in range(100 - 2):
        place.create(
            f"x-many_{n:03d}", manifest={**manifest, "state": "partial"}, specs=[], n_units=1
        ).close()
    before = files(tmp_path)
    began = time.perf_counter()
    found = js.find(where)
    took = time.perf_counter() - began
    assert len(found) == 100
    assert took < 5, f"{took:.1f} s"
    assert [r.name for r in js.find(where, params={"width": 2})] == [wanted.name]
    assert [r.name for r in js.find(where, state="complete", name="kernel")] == sorted(
        [wanted.name, other.name]
    )
    assert js.find(where, params={"width": 2.0}) == []
    assert js.find(where, name="kern") == []
    assert files(tmp_path) == before


@pytest.mark.parametrize("target", TARGETS)
def test_results_in_groups_below_are_found_after_those_of_the_place(tmp_path, target):
    where = str(tmp_path / target)
    one = run(kernel, X, f"{where}:/day/fits", params={"width": 2})
    two = run(kernel, X[:4], where, params={"width": 5})
    for result in (one, two):
        result.close()
    if target.endswith(".zarr"):
        (Path(where) / "day" / "again").symlink_to(where)
        zarr.open_group(where, mode="r+").create_array("day/broken", shape=3, dtype="f4")
        (Path(where) / "day" / "broken" / "zarr.json").write_bytes(b"no json")
    else:
        with h5py.File(where, "r+") as file:
            file["day/again"] = file["/"]  # a hard link, which makes a circle
            file["day/soft"] = h5py.SoftLink("/day/fits")
    found = js.find(where)
    assert [r.location for r in found[:2]] == [two.location, one.location]
    assert len({r.location.replace("/day/again", "") for r in found}) == 2
    assert [r.location for r in js.find(f"{where}:/day", params={"width": 2})][:1] == [one.location]
    assert [r.location for r in js.find(one.place)] == [one.location]
    assert js.find(f"{where}:/nothing") == []


def test_a_folder_of_stores_is_no_store_that_is_looked_into(tmp_path):
    run(kernel, X, tmp_path / "o.zarr", params={"width": 2})
    assert js.find(tmp_path) == []


def test_results_are_found_by_their_source(tmp_path):
    a, b = zarr_file(tmp_path / "a.zarr", X), zarr_file(tmp_path / "b.zarr", X)
    place = results_at(tmp_path / "o.zarr")
    one, two = run(lambda x: x, a, place, name="p"), run(lambda x: x, b, place, name="p")
    assert [r.name for r in js.find(place, source=a)] == [one.name]
    assert [
        r.name
        for r in js.find(place, source=zarr.open_array(tmp_path / "b.zarr" / "raw", mode="r"))
    ] == [two.name]


@pytest.mark.parametrize("kind", ["zarr", "hdf5", "beside"])
def test_a_source_that_is_changed_meanwhile_leaves_the_result_partial(tmp_path, kind):
    make = zarr_file if kind == "zarr" else hdf5_file
    path = tmp_path / f"source.{kind}"
    address = make(path, waves())
    target = None if kind == "beside" else tmp_path / "r.zarr"

    def edit():
        if kind == "zarr":
            zarr.open_group(path, mode="r+")["raw"][0, 0] = 5
        elif kind == "hdf5":  # in this process h5py would share the open file
            code = f"import h5py; h5py.File({str(path)!r}, 'r+')['raw'][0, 0] = 5"
            subprocess.run([sys.executable, "-c", code], check=True)

    edits = [edit]

    def kernel(x):
        def note(value):
            while edits and kind != "beside":
                edits.pop()()
            return value

        return {
            "y": jax.pure_callback(
                note, jax.ShapeDtypeStruct((), x.dtype), x.sum(), vmap_method="expand_dims"
            )
        }

    settings = {**QUIET, "engine": "serial", "chunks": 5, "version": "1", "name": "k"}
    if kind == "beside":  # what jaxstore itself adds to the file is no change
        assert js.process(kernel, address, target, **settings).state == "complete"
        return
    with pytest.raises(js.MismatchError, match="raw in .* was changed while it was processed"):
        js.process(kernel, address, target, **settings)
    (left,) = js.find(target)
    assert left.state == "partial"
    assert js.process(kernel, address, target, **settings).name != left.name
