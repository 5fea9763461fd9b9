"""Manifests and records that anyone may have written: refused as such, or read."""

import copy
import json

import jax
import numpy as np
import pytest
from hand_written import HandWritten
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxstore as js
from jaxstore.saving.layout import layout_from_manifest, layout_of, manifest_of
from jaxstore.saving.untrusted import CHECKSUM, brief, check_depth, sealed
from jaxstore.stores.memory import MemoryStore
from jaxstore.stores.run_format import MANIFEST

SETTINGS = {"length": 10, "nested": {"b": [1, None, 2.5], "a": "ü", "nan": float("inf")}}


@pytest.fixture(scope="module")
def run():
    run = HandWritten(MemoryStore(), settings=SETTINGS)
    run.grow(5, 3)
    return run


def read_all(store):
    """What a reader does with a run; every error must be one of ours."""
    run = js.open_run(store)
    run.describe(), run.nbytes, run.settings, run.versions, run.created_at, run.groups
    assert run.samples is not None or not run.leaves
    for leaf in run.leaves:
        assert (leaf.dtype, leaf.shape) != (None, None)


def nested(depth, value=1):
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = [
    *(None, True, -1, 10**18, 2**63, 10**400, 1.5, float("nan"), "", "x" * 10**6, "../x", "/x"),
    *(
        "a/../b",
        "C:\\x",
        "a\0b",
        "zarr.json",
        [],
        {},
        [[]],
        nested(400),
        [10**18],
        [-1],
        [2**40] * 3,
    ),
    *([True], ["a", "a"], {"key": "%i3"}, {"key": "%l"}, [None] * 1000, "float32", "O", "object"),
    *("<f4,<f8", "threefry2x32", "rbg", "samples", "iteration"),
]


def paths_in(value, path=()):
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from paths_in(inner, (*path, key))


def put(value, path, new):
    if not path:
        return new
    value = copy.deepcopy(value)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    if new is DELETE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = new
    return value


DELETE = object()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def attempt(run, manifest, record):
    store = run.store
    good = store._attrs[""], store._record
    try:
        store._attrs[""] = json.dumps({MANIFEST: manifest})
        store._record = json.dumps(record)
        message = ""
        try:
            read_all(store)
        except js.JaxstoreError as error:
            message = str(error)
        try:
            report = js.verify(store)
            message += "".join(map(str, report.damage))
        except js.FormatError as error:
            message += str(error)
        assert len(message) < 20_000
    finally:
        store._attrs[""], store._record = good


@settings(max_examples=400, deadline=None)
@given(data=st.data(), seals=st.booleans())
def test_a_manifest_that_was_tampered_with_gives_our_errors_or_none(run, data, seals):
    manifest = run.store.attrs()[MANIFEST]
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(paths_in(manifest))))
        new = data.draw(st.sampled_from([*HOSTILE, DELETE]) | JSON)
        if not path and new is DELETE:
            continue
        manifest = put(manifest, path, new)
        if not isinstance(manifest, dict):
            break
    if seals and isinstance(manifest, dict) and "kind" in manifest:
        manifest.pop(CHECKSUM, None)
    attempt(run, manifest, run.store.committed())


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_record_that_was_tampered_with_gives_our_errors_or_none(run, data):
    point = {"key": "checkpoint-0", "nonce": "n", "step": 3, "draws": [3, 3]}
    record = run.store.committed() | {"checkpoint": point, "tail": {"key": "tail-0", "nonce": "n"}}
    path = data.draw(st.sampled_from(list(paths_in(record))))
    new = data.draw(st.sampled_from([*HOSTILE, DELETE]) | JSON)
    if path or new is not DELETE:
        record = put(record, path, new)
    attempt(run, run.store.attrs()[MANIFEST], record)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "samples/../x"}, {"name": "/x"}, {"name": "x"}, {"name": "samples/iteration"},
        {"name": "other/x"}, {"name": "samples//x"}, {"name": "samples/a\\b"}, {"name": 3},
        {"shape": [-1]}, {"shape": [2**50]}, {"shape": [3, 3]}, {"shape": "3"}, {"shape": [True]},
        {"dtype": "O"}, {"dtype": "datetime64"}, {"dtype": ["f4"]}, {"dims": ["../x"]},
        {"dims": [3]}, {"dims": ["a", "b"]}, {"key_impl": "none"}, {"key_impl": "rbg"},
        {"shape": [2**40, 2**40], "dims": ["a", "b"]},
        {"keys": nested(50)}, {"keys": "x"}, {"keys": ["a"] * 500},
    ],
)  # fmt: skip
def test_leaves_that_make_no_sense_are_refused(run, change):
    manifest = run.store.attrs()[MANIFEST]
    leaf = next(leaf for leaf in manifest["leaves"] if leaf["name"] == "samples/x")
    leaf |= change
    with pytest.raises(js.FormatError, match="manifest of here was damaged"):
        layout_from_manifest(sealed({**manifest, CHECKSUM: ""}), location="here")


def test_the_checksum_covers_every_entry_and_may_be_absent(run):
    manifest = run.store.attrs()[MANIFEST]
    assert layout_from_manifest(manifest, location="here") == run.layout
    for path in paths_in(manifest):
        if path and path[0] not in (CHECKSUM, "kind", "format_version"):
            with pytest.raises(js.FormatError, match="checksum differs"):
                layout_from_manifest(put(manifest, path, "changed"), location="here")
    older = {key: value for key, value in manifest.items() if key != CHECKSUM}
    assert layout_from_manifest(older, location="here") == run.layout


def test_settings_of_any_json_survive_their_checksum(tmp_path):
    odd = {"tuple": (1, 2), 10: "a", 9: "b", "nan": float("nan"), "big": 2**80, "ü": "\ud800"}
    with js.ZarrCollector(tmp_path / "run.zarr", settings=odd) as collector:
        js.scan(lambda x, _: (x, x), 0.0, length=3, collector=collector, progress=False)
    found = js.open_run(tmp_path / "run.zarr").settings
    assert (found["10"], found["big"], found["tuple"]) == ("a", 2**80, [1, 2])


def test_dimensions_that_would_lead_out_of_the_group_are_refused_before_anything_is_written():
    for dim in ("..", "../x", "", "a/../b", "."):
        with pytest.raises(js.FormatError, match="cannot name a dimension"):
            layout_of({"x": np.zeros(3)}, group="samples", dims={"x": [dim]})


def test_what_can_be_written_can_be_read():
    sample = {
        "k" * 5000: 1.0,
        "a": [{(1, None, "x"): np.zeros((0, 3))}],
        "": jax.random.key(0, impl="rbg"),
    }
    deep = 2.0
    for _ in range(100):
        deep = {"d": deep}
    for value in (sample, {"deep": deep}, np.zeros(0), {"x": np.zeros((2,) * 20)}):
        layout = layout_of(value, group="ünï", dims={})
        manifest = manifest_of(layout, settings={}, created_at="now")
        assert layout_from_manifest(json.loads(json.dumps(manifest)), location="here") == layout


def test_depth_is_measured_without_recursion():
    check_depth(nested(90), what="it")
    check_depth([[]] * 1000, what="it")
    with pytest.raises(js.FormatError, match="it is nested deeper"):
        check_depth(nested(100_000), what="it")
    assert [brief(v) for v in ("x" * 70, 10**300, [1, 2], None)] == [
        repr("x" * 60 + "..."), "a huge number", "a list of 2", "None"
    ]  # fmt: skip
