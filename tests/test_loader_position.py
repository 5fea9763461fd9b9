"""Where a loader is, and that it goes on there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stored_rows import CountingSource, numbered
from test_loader_views import jitter

import jaxstore as js

N_ROWS = 500


def make(source=None, **settings):
    source = source or CountingSource("x", numbered(N_ROWS), 16)
    settings = {"batch_size": 30, "window_chunks": 4, "to": "numpy", **settings}
    return js.Loader({"x": source}, **settings)


def bits(batches):
    return [(b.epoch, b.index, b["x"].tobytes(), b.mask.tobytes()) for b in batches]


@pytest.mark.parametrize("remainder", ["drop", "pad", "carry"])
@pytest.mark.parametrize("n_before", [0, 1, 9, 16, 17, 20])
def test_the_rest_comes_bit_for_bit(remainder, n_before):
    whole = make(remainder=remainder)
    batches = bits([*whole, *whole, *whole])
    stopped = make(remainder=remainder)
    taken = 0
    while taken < n_before:
        for _ in stopped:
            taken += 1
            if taken == n_before:
                break
    state = json.loads(json.dumps(stopped.state()))
    again = make(remainder=remainder, prefetch=1, max_inflight=3, memory="1MB")
    again.restore(state)
    found = bits([*again, *again])
    assert len(found) > 16
    assert found == batches[n_before:][: len(found)]


def test_batches_that_are_made_ahead_do_not_count():
    loader = make(prefetch=8)
    batches = iter(loader)
    first = next(batches)
    assert loader.state()["batch"] == 1 == first.index + 1
    assert len(batches) == 16


def test_only_what_is_left_is_read():
    source = CountingSource("x", numbered(N_ROWS), 16)
    loader = make(source)
    batches = iter(loader)
    for _ in range(9):
        next(batches)
    state = loader.state()
    batches.close()
    again = make(source)
    again.restore(state)
    source.chunks.clear()
    list(again)
    # 230 rows are left of 500; a window has 4 chunks.
    assert len(source.chunks) <= 230 / 16 + 4
    assert len(source.chunks) == len(set(source.chunks))


def test_a_state_is_small_and_says_what_it_belongs_to():
    state = make().state()
    assert len(json.dumps(state)) < 500
    assert (state["epoch"], state["batch"], state["seed"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 31}, "batch_size is 30 in the state and 31 in this loader"),
        ({"seed": 1}, "seed is 0 in the state and 1"),
        ({"window_chunks": 5}, "window_chunks is 4 in the state and 5"),
        ({"shuffle": False}, "shuffle is True in the state and False"),
        ({"remainder": "carry"}, "remainder is 'pad' in the state and 'carry'"),
        ({"n_rows": 480}, "number of rows is 500 in the state and 480"),
        ({"split": "train"}, "rows of the split is"),
        ({"variables": js.Variable("x", dtype="f8")}, "names, shapes, dtypes or shifts"),
    ],
)
def test_other_batches_are_refused(changed, message):
    state = make().state()
    with pytest.raises(js.MismatchError, match=message):
        make(**changed).restore(state)


def test_another_data_set_of_the_same_shape_is_refused():
    other = CountingSource("x", numbered(N_ROWS) + 1, 16)
    with pytest.raises(js.MismatchError, match="values of the first row"):
        make(other).restore(make().state())


@pytest.mark.parametrize("state", [None, {}, {"format": 2}, "x", {"format": 1}])
def test_what_is_no_state_is_refused(state):
    with pytest.raises((js.FormatError, js.MismatchError), match="restore: "):
        make().restore(state)


@pytest.mark.parametrize("number", [-1, 1.5, "1", True, None])
def test_a_state_with_a_position_that_is_no_count_is_refused(number):
    loader = make()
    with pytest.raises(js.FormatError, match="epoch"):
        loader.restore({**loader.state(), "epoch": number})


def test_a_position_beyond_its_epoch_is_refused():
    loader = make()
    with pytest.raises(js.FormatError, match="batch 18 of epoch 0, which has 17"):
        loader.restore({**loader.state(), "batch": 18})


PROGRAM = """
import json, sys
sys.path.insert(0, {tests!r})
import numpy as np
import jaxstore as js
from test_loader_views import jitter

def main(path, state, process_count, window):
    parts = []
    for rank in range(process_count):
        loader = js.Loader(
            path, ["x"], batch_size=30, window_chunks=4, to="numpy", prefetch=rank, max_inflight=3,
            batch_transform=jitter, process_index=rank, process_count=process_count,
        )
        if state:
            loader.restore(state)
        parts.append(list(loader))
    for batches in zip(*parts, strict=True):
        for label in ("x", "noise"):
            print(batches[0].index, np.concatenate([b[label] for b in batches]).tobytes().hex())

main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), 4)
"""


def test_a_fresh_process_of_another_world_size_goes_on_with_augmentation_and_all(tmp_path):
    import zarr

    array = zarr.open_group(tmp_path / "a.zarr", mode="w").create_array(
        "x", shape=(N_ROWS, 3), chunks=(16, 3), dtype="f4"
    )
    array[:] = numbered(N_ROWS)
    loader = js.Loader(
        tmp_path / "a.zarr", ["x"], batch_size=30, window_chunks=4, to="numpy",
        batch_transform=jitter,
    )  # fmt: skip
    batches = list(loader)
    loader.restore({**loader.state(), "epoch": 0, "batch": 7})
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.zarr", json.dumps(loader.state()), "3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wanted = [
        f"{b.index} {np.asarray(b[k]).tobytes().hex()}" for b in batches[7:] for k in ("x", "noise")
    ]
    assert done.stdout.split("\n")[:-1] == wanted
