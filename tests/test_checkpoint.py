"""Checkpoints, tails and records as data: what is put comes back, or is refused."""

from __future__ import annotations

import io
import json
import random
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import assert_same_bits, numbers, spec
from collecting import assert_same
from hypothesis import given
from hypothesis import strategies as st

from jaxstore.errors import FormatError, MismatchError
from jaxstore.saving.blob import pack, unpack
from jaxstore.saving.checkpoint import (
    Checkpoint,
    SenderState,
    get_checkpoint,
    layout_of_state,
    put_checkpoint,
)
from jaxstore.saving.parts import Gathering, Part, join_parts
from jaxstore.saving.record import CheckpointMark, Mark, Record
from jaxstore.saving.tail import Piece, get_tail, put_tail, with_tail
from jaxstore.stores.memory import MemoryStore

DTYPES = ["bool", "int8", "uint64", "float16", "float64", "complex64", "bfloat16", "int4"]
NAME = "samples/iteration"


@pytest.fixture
def store():
    store = MemoryStore()
    store.create(spec(NAME, (0, 0), (1, 4), "int64"))
    return store


def state():
    return {
        "solver_state": (jax.random.key(3), [jnp.ones((2, 3)), None, jnp.bfloat16(2.5)]),
        "scheduler_state": {"i": jnp.int8(7), "a/b": jnp.zeros((0, 2), bool)},
    }


def checkpoint(tree, **how):
    raw = [
        jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a
        for a in jax.tree.leaves(tree)
    ]
    sender = SenderState((), (0, 1), 2**32 + 5, True, (7, -1))
    return Checkpoint(
        step=12,
        draws=(3, 4),
        layout=layout_of_state(tree),
        leaves=tuple(map(np.asarray, raw)),
        lanes=(),
        senders=(sender,),
        **how,
    )


# --- blobs ---


@given(st.data())
def test_arrays_of_any_dtype_come_back_out_of_a_blob(data):
    arrays = [
        numbers(data.draw(st.tuples(*[st.integers(0, 4)] * rank)), dtype)
        for rank, dtype in data.draw(
            st.lists(st.tuples(st.integers(0, 3), st.sampled_from(DTYPES)), max_size=4)
        )
    ]
    meta = {"step": 3, "words": ["é", None, {"a": [1.5]}]}
    found_meta, found = unpack(bytes(pack(meta, arrays)), what="it")
    assert found_meta == meta
    for a, b in zip(found, arrays, strict=True):
        assert_same_bits(a, b)


def test_every_flipped_bit_and_every_cut_of_a_blob_is_noticed():
    values = numbers((40,), "float32")
    blob = bytes(pack({"nonce": "abc"}, [values]))
    rng = random.Random(5)
    unnoticed = 0
    for _ in range(300):
        damaged = bytearray(blob)
        damaged[rng.randrange(len(blob))] ^= 1 << rng.randrange(8)
        try:
            meta, found = unpack(bytes(damaged), what="it")
        except FormatError:
            continue
        unnoticed += 1  # a time stamp or flag of the zip, which nobody reads
        assert meta == {"nonce": "abc"}
        assert_same_bits(found[0], values)
    assert unnoticed < 100
    for _ in range(50):
        with pytest.raises(FormatError, match="it is damaged"):
            unpack(blob[: rng.randrange(len(blob))], what="it")


def test_a_blob_with_pickle_or_compression_is_refused():
    def npz(save, **arrays):
        file = io.BytesIO()
        save(file, meta=np.frombuffer(json.dumps({"dtypes": ["float64"]}).encode(), "u1"), **arrays)
        return file.getvalue()

    with pytest.raises(FormatError, match="it is compressed"):
        unpack(npz(np.savez_compressed, array_0=np.zeros(10_000)), what="it")
    objects = np.array([{}], object)
    with pytest.raises(FormatError, match="allow_pickle"):
        unpack(npz(lambda f, **a: np.savez(f, allow_pickle=True, **a), array_0=objects), what="it")


def test_a_blob_that_declares_too_much_takes_no_memory():
    file = io.BytesIO()
    header = np.lib.format.magic(1, 0)
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }"
    text = text.ljust(117) + b"\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("array_0.npy", header + len(text).to_bytes(2, "little") + text)
        meta = io.BytesIO()
        np.save(meta, np.frombuffer(b'{"dtypes": ["float64"]}', "u1"))
        archive.writestr("meta.npy", meta.getvalue())
    with pytest.raises(FormatError, match="it is damaged"):
        unpack(file.getvalue(), what="it")


# --- checkpoints ---


def test_a_checkpoint_comes_back_as_it_was(store):
    mark = Mark.next("checkpoint", None)
    point = checkpoint(state(), loaders=({"epoch": 3, "row": [1, 2]},))
    put_checkpoint(store, NAME, mark, point)
    found = get_checkpoint(store, NAME, mark)
    assert (found.step, found.draws, found.lanes) == (12, (3, 4), ())
    assert found.senders == point.senders
    assert found.loaders == point.loaders
    assert found.layout == point.layout
    nested = found.solver_state
    assert_same(nested["list_element_0"], state()["solver_state"][0])
    assert_same(nested["list_element_1"]["list_element_2"], jnp.bfloat16(2.5))
    assert set(found.scheduler_state) == {"i", "a/b"}


def test_a_template_gives_the_structure():
    point = checkpoint(state())
    shaped = Checkpoint(**{**fields(point), "templates": state()})
    assert_same(jax.tree.leaves(shaped.solver_state), jax.tree.leaves(state()["solver_state"]))
    assert jax.tree.structure(shaped.solver_state) == jax.tree.structure(state()["solver_state"])


def fields(point):
    return {name: getattr(point, name) for name in point.__slots__}


def test_no_state_is_none():
    point = checkpoint({"solver_state": None, "scheduler_state": None})
    assert point.solver_state is None
    assert point.scheduler_state is None


def test_a_state_of_64_bits_is_not_made_shorter():
    point = checkpoint({"solver_state": np.zeros(2)})
    wide = Checkpoint(**{**fields(point), "leaves": (np.zeros(2),)})
    with pytest.raises(MismatchError, match="which JAX makes float32 here. Set jax_enable_x64"):
        _ = wide.solver_state


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda blob: None, "checkpoint-0 of memory is gone, and the commit record counts on it"),
        (lambda blob: blob[:-9], "checkpoint-0 of memory is damaged"),
        (lambda blob: bytes(pack({"nonce": "other"}, [])), "is another one than the commit record"),
        (lambda blob: bytes(pack({"nonce": "n"}, [])), "is no checkpoint: KeyError"),
    ],
)
def test_a_checkpoint_that_is_not_the_one_is_refused(store, spoil, message):
    mark = Mark("checkpoint-0", "n")
    put_checkpoint(store, NAME, mark, checkpoint(state()))
    spoilt = spoil(store.get_blob(NAME, mark.key))
    if spoilt is None:
        mark = Mark("checkpoint-1", "n")
        message = message.replace("-0", "-1")
    else:
        store.put_blob(NAME, mark.key, [spoilt])
    with pytest.raises(FormatError, match=message):
        get_checkpoint(store, NAME, mark)


# --- parts ---


def part(step, chains, **how):
    leaf = np.asarray(chains, np.float32)[:, None] * [1, 10] + step
    return Part(
        step=step,
        layout=layout_of_state({"solver_state": np.zeros(2, np.float32)}),
        leaves=(leaf.astype(np.float32),),
        lanes=(len(chains),),
        sender=SenderState(chains, chains, 3, False, (5,) * len(chains)),
        draws=dict.fromkeys(chains, step),
        loaders=(),
        treedef=None,
        **how,
    )


def test_parts_wait_for_all_senders_and_join_in_the_order_of_chains():
    gathering = Gathering()
    assert gathering.take(part(10, (2, 3)), n_senders=2) == []
    assert gathering.take(part(20, (2, 3)), n_senders=2) == []
    parts = gathering.take(part(10, (0, 1)), n_senders=2)
    point = join_parts(parts, ended={4: 99})
    assert (point.step, point.draws, point.lanes) == (10, (10, 10, 10, 10, 99), (4,))
    assert point.solver_state[:, 0].tolist() == [10, 11, 12, 13]
    assert len(gathering.take(part(20, (0, 1)), n_senders=2)) == 2


def test_a_step_that_not_all_have_reported_is_dropped_when_a_later_one_is_whole():
    gathering = Gathering()
    gathering.take(part(10, (0,)), n_senders=1)
    assert gathering.take(part(20, (0,)), n_senders=2) == []
    gathering.take(part(30, (0,)), n_senders=2)
    assert len(gathering.take(part(30, (1,)), n_senders=2)) == 2
    assert gathering.take(part(20, (1,)), n_senders=2) == []  # too late, and kept for nobody


# --- tails ---


@given(st.data())
def test_a_store_with_a_tail_reads_as_if_it_were_written(data):
    """Any region, of chains with and without a tail, equals the same in one plain array."""
    n_chains, chunk = 4, 3
    counts = [data.draw(st.integers(0, 11)) for _ in range(n_chains)]
    whole = np.arange(n_chains * 12 * 2, dtype=np.float32).reshape(n_chains, 12, 2)
    store = MemoryStore()
    store.create(spec(NAME, (0, 0), (1, 4), "int64"))
    store.create(spec("samples/x", (n_chains, 0, 2), (1, chunk, 2)))
    pieces = []
    stored = [n // chunk * chunk for n in counts]
    for c in range(n_chains):
        store.write("samples/x", (c, 0, 0), whole[c : c + 1, : stored[c]])
        if counts[c] > stored[c]:
            pieces.append(Piece("samples/x", c, stored[c], whole[c : c + 1, stored[c] : counts[c]]))
    store.resize("samples/x", (n_chains, max(stored), 2))
    mark = Mark.next("tail", None)
    put_tail(store, NAME, mark, pieces)
    assert [p.first_draw for p in get_tail(store, NAME, mark)] == [p.first_draw for p in pieces]
    tailed = with_tail(store, NAME, mark)
    first = data.draw(st.integers(0, n_chains - 1))
    chains = slice(first, data.draw(st.integers(first + 1, n_chains)))
    end = min(counts[chains])
    start = data.draw(st.integers(0, end))
    draws = slice(start, data.draw(st.integers(start, end)))
    inner = (slice(0, 2),) if data.draw(st.booleans()) else ()
    found = tailed.read("samples/x", (chains, draws, *inner), is_strict=True)
    assert_same_bits(np.ascontiguousarray(found), np.ascontiguousarray(whole[chains, draws]))
    assert list(tailed.damage("samples/x", (chains, draws, slice(0, 2)))) == []


# --- records ---

COUNTS = st.lists(st.integers(0, 2**40), max_size=4).map(tuple)
MARKS = st.builds(Mark, st.sampled_from(["tail-0", "tail-1"]), st.text("abc0", min_size=1))
RECORDS = st.builds(
    Record,
    COUNTS,
    st.sampled_from(["running", "complete", "interrupted"]),
    st.text("abc"),
    st.text("0123-:T"),
    st.none() | st.builds(CheckpointMark, MARKS, st.integers(0, 2**40), COUNTS),
    st.none() | MARKS,
)


@given(RECORDS)
def test_a_record_comes_back_as_it_was(record):
    told = json.loads(json.dumps(record.to_json()))
    assert Record.from_json(told, location="here") == record


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(RECORDS, st.sampled_from(["draws", "state", "nonce", "checkpoint", "tail"]), JSON)
def test_a_record_with_anything_in_it_is_read_or_refused(record, key, value):
    told = {**record.to_json(), key: value}
    try:
        found = Record.from_json(told, location="here")
    except FormatError:
        return
    del told["nonce" if key != "nonce" else key]  # any text will do
    assert {name: found.to_json()[name] for name in told if name != key} == {
        name: value for name, value in told.items() if name != key
    }


def test_marks_take_turns():
    first = Mark.next("tail", None)
    second = Mark.next("tail", first)
    third = Mark.next("tail", second)
    assert [m.key for m in (first, second, third)] == ["tail-0", "tail-1", "tail-0"]
    assert len({first.nonce, second.nonce, third.nonce}) == 3


def test_no_record_is_told():
    with pytest.raises(FormatError, match="here is a run without a commit record: nobody knows"):
        Record.from_json(None, location="here")
