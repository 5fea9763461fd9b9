"""HDF5 sources: each format as `dataset[:]` gives it, damage by name, no lock of HDF5 taken."""

import ctypes
import os
import threading
import zlib
from pathlib import Path

import h5py
import hdf5plugin
import ml_dtypes
import numcodecs
import numpy as np
import pytest
from row_sources import rows_of

from jaxstore.errors import BusyError, FormatError, MissingError
from jaxstore.sources.fetch_hdf5 import open_hdf5_arrays
from jaxstore.sources.fetch_hdf5_codec import chunk_decoder
from jaxstore.sources.fetch_hdf5_direct import ChunkedRows, ContiguousRows
from jaxstore.sources.fetch_hdf5_sliced import SlicedRows
from jaxstore.sources.fetch_scratch import Scratch

RNG = np.random.default_rng(0)
SHAPE, CHUNKS = (37, 6, 10), (8, 6, 10)
BLOSC = [
    {**hdf5plugin.Blosc(cname=name, shuffle=how)}
    for name in ("blosclz", "lz4", "lz4hc", "zlib", "zstd")
    for how in (0, 1, 2)
]
DIRECT = {
    "none": {},
    "shuffle": {"shuffle": True},
    "fletcher32": {"fletcher32": True},
    "shuffle+fletcher32": {"shuffle": True, "fletcher32": True},
    "gzip": {"compression": "gzip"},
    "gzip+shuffle": {"compression": "gzip", "shuffle": True},
    "gzip+shuffle+fletcher32": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "zstd": {**hdf5plugin.Zstd()},
    "zstd+shuffle": {"shuffle": True, **hdf5plugin.Zstd()},
    "zstd+fletcher32": {"fletcher32": True, **hdf5plugin.Zstd()},
    "lz4": {**hdf5plugin.LZ4()},
    "lz4+shuffle": {"shuffle": True, **hdf5plugin.LZ4()},
    "lz4 blocks": {**hdf5plugin.LZ4(nbytes=1000)},
    "lz4 blocks+shuffle": {"shuffle": True, **hdf5plugin.LZ4(nbytes=1000)},
    "blosc+shuffle": {"shuffle": True, **hdf5plugin.Blosc(shuffle=0)},
    **{f"blosc {i}": options for i, options in enumerate(BLOSC)},
}
SLICED = {
    "lzf": {"compression": "lzf"},
    "scaleoffset": {"scaleoffset": 3},
    "bitshuffle": {**hdf5plugin.Bitshuffle()},
    "snappy": {**hdf5plugin.Blosc(cname="snappy")},
    "blosc2": {**hdf5plugin.Blosc2()},
}


def smooth(shape=SHAPE, dtype="f4"):
    return np.round(np.cumsum(RNG.normal(size=shape), axis=0), 1).astype(dtype)


def write(path, name="x", data=None, **options):
    with h5py.File(path, "a") as file:
        file.create_dataset(name, data=smooth() if data is None else data, **options)
    with h5py.File(path) as file:
        return file[name][:]


def one(where, name="x", *, axis=0, is_strict=True):
    return open_hdf5_arrays(where, [name], axis=axis, is_strict=is_strict)[name]


@pytest.mark.parametrize(
    "chunks", [CHUNKS, (8, 3, 10), (8, 4, 7), (37, 6, 10), (1, 6, 10), (8, 7, 12)]
)
@pytest.mark.parametrize("filters", DIRECT)
def test_every_known_filter_is_decoded_past_hdf5(tmp_path, filters, chunks):
    maxshape = (None,) * 3  # so that a chunk may be wider than the array
    wanted = write(tmp_path / "a.h5", chunks=chunks, maxshape=maxshape, **DIRECT[filters])
    source = one(tmp_path / "a.h5")
    # Chunks at the edge that are only shuffled might as well be not: HDF5 does not tell.
    is_told = filters != "shuffle" or all(n % c == 0 for n, c in zip(SHAPE, chunks, strict=True))
    assert isinstance(source, ChunkedRows if is_told else SlicedRows)
    np.testing.assert_array_equal(rows_of(source), wanted)


@pytest.mark.parametrize("filters", ["shuffle", "gzip+shuffle"])
def test_chunks_at_the_edge_that_a_program_left_unfiltered_are_left_to_hdf5(tmp_path, filters):
    found = sorted(Path(h5py.__file__).parents[1].glob("h5py.libs/libhdf5-*.so*"))
    if not found:
        pytest.skip("only HDF5 itself, here not found, can be asked for that")
    set_chunk_opts = ctypes.CDLL(str(found[0])).H5Pset_chunk_opts
    set_chunk_opts.argtypes = [ctypes.c_int64, ctypes.c_uint]
    data = smooth((10, 5))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4, 5))
        plist.set_shuffle()
        if "gzip" in filters:
            plist.set_deflate(1)
        assert set_chunk_opts(plist.id, 2) == 0
        space = h5py.h5s.create_simple(data.shape)
        dataset = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, space, plist)
        h5py.Dataset(dataset)[:] = data
    np.testing.assert_array_equal(rows_of(one(tmp_path / "a.h5")), data)


@pytest.mark.parametrize("filters", SLICED)
def test_other_filters_are_left_to_hdf5(tmp_path, filters):
    data = smooth(dtype="i4") if filters == "scaleoffset" else smooth()
    wanted = write(tmp_path / "a.h5", data=data, chunks=CHUNKS, **SLICED[filters])
    source = one(tmp_path / "a.h5")
    assert isinstance(source, SlicedRows)
    np.testing.assert_array_equal(rows_of(source), wanted)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (8, 4, 7)}, {"chunks": (8, 4, 7), **DIRECT["gzip+shuffle"]}, SLICED["lzf"]],
)
def test_any_axis_may_be_that_of_the_samples(tmp_path, options, axis):
    wanted = np.moveaxis(write(tmp_path / "a.h5", **options), axis, 0)
    np.testing.assert_array_equal(rows_of(one(tmp_path / "a.h5", axis=axis)), wanted)


@pytest.mark.parametrize(("axis", "n_rows"), [(0, 8), (1, 1), (2, 6)])
def test_a_dataset_without_chunks_is_cut_into_some(tmp_path, monkeypatch, axis, n_rows):
    from jaxstore.sources import fetch_hdf5

    monkeypatch.setattr(fetch_hdf5, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(fetch_hdf5, "RUN_BYTES", 24)
    wanted = np.moveaxis(write(tmp_path / "a.h5"), axis, 0)
    source = one(tmp_path / "a.h5", axis=axis)
    assert isinstance(source, ContiguousRows)
    assert source.geometry.sample_chunk_size == n_rows
    np.testing.assert_array_equal(rows_of(source), wanted)


@pytest.mark.parametrize("options", [{}, {"chunks": CHUNKS}, DIRECT["gzip+shuffle"]])
@pytest.mark.parametrize("dtype", [">f4", ">i2", "?", "c16", "f2", "u1", "i8"])
def test_every_dtype_of_numbers_comes_in_native_byte_order(tmp_path, dtype, options):
    wanted = write(tmp_path / "a.h5", data=smooth().astype(dtype), **options)
    source = one(tmp_path / "a.h5")
    assert not isinstance(source, SlicedRows)
    assert source.geometry.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(rows_of(source), wanted)


def test_integers_that_numpy_does_not_have_are_left_to_hdf5(tmp_path):
    kind = h5py.h5t.NATIVE_INT32.copy()
    kind.set_precision(24)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple((9,))
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b"x", kind, space))
        dataset[:] = np.arange(9) * 70000
    source = one(tmp_path / "a.h5")
    assert isinstance(source, SlicedRows)
    np.testing.assert_array_equal(rows_of(source), np.arange(9) * 70000)


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (0,)])
@pytest.mark.parametrize("chunks", [None, True])
def test_arrays_without_elements_have_no_chunk_to_read(tmp_path, shape, chunks):
    write(tmp_path / "a.h5", data=np.zeros(shape), chunks=chunks and (2,) * len(shape),
          maxshape=(None,) * len(shape) if chunks else None)  # fmt: skip
    source = one(tmp_path / "a.h5")
    assert not any(source.stored_chunks(c) for c in range(source.geometry.n_chunks))
    assert rows_of(source).shape == shape


class TestAbsentChunks:
    @pytest.fixture(params=[{"chunks": (4, 3)}, {"chunks": (4, 3), "compression": "lzf"}, {}],
                    ids=["direct", "sliced", "contiguous"])  # fmt: skip
    def path(self, tmp_path, request):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            x = file.create_dataset("x", (10, 3), "f4", fillvalue=2.5, **request.param)
            if request.param:
                x[4:8] = 1
        return tmp_path / "a.h5"

    def test_hold_fill_values(self, path):
        wanted = h5py.File(path)["x"][:]
        assert (wanted == 2.5).any()
        np.testing.assert_array_equal(rows_of(one(path, is_strict=False)), wanted)

    def test_are_errors_where_it_is_strict(self, path):
        with pytest.raises(FormatError, match=r"'x' in .*a.h5: chunk \(0, 0\) is absent. Restore"):
            rows_of(one(path))


class TestFilterMask:
    @pytest.mark.parametrize("skipped", range(8))
    def test_filters_that_were_left_out_of_a_chunk_are_not_undone(self, tmp_path, skipped):
        data = smooth((8, 60))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            x = file.create_dataset("x", data.shape, "f4", chunks=data.shape,
                                    compression="gzip", shuffle=True, fletcher32=True)  # fmt: skip
            raw = data.view("u1").reshape(-1, 4)
            stored = (raw if skipped & 1 else np.ascontiguousarray(raw.T)).tobytes()
            stored = stored if skipped & 2 else zlib.compress(stored)
            if not skipped & 4:
                stored = numcodecs.Fletcher32().encode(np.frombuffer(stored, "u1"))
            x.id.write_direct_chunk((0, 0), bytes(stored), skipped)
        assert (h5py.File(tmp_path / "a.h5")["x"][:] == data).all()
        np.testing.assert_array_equal(rows_of(one(tmp_path / "a.h5")), data)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_stream_as_long_as_what_it_holds_is_still_unpacked(kind):
    # An incompressible end after some zeros: one length fits exactly.
    for n_zeros in range(8, 60):
        data = np.concatenate([np.zeros(n_zeros, "u1"), RNG.integers(0, 256, 400).astype("u1")])
        packed = (
            zlib.compress(data, 6) if kind == "gzip"
            else numcodecs.zstd.compress(data, 1, True)
        )  # fmt: skip
        if len(packed) == data.size:
            break
    else:
        pytest.fail("no such stream was found")
    decoder = chunk_decoder(data.size, [({"gzip": 1, "zstd": 32015}[kind], ())])
    out = np.empty_like(data)
    padded = np.concatenate(
        [np.zeros(24, "u1"), np.frombuffer(packed, "u1"), np.full(8, 255, "u1")]
    )
    decoder.decode(padded, out, skipped=0, spare=np.empty)
    np.testing.assert_array_equal(out, data)


class TestDamage:
    @pytest.mark.parametrize("filters", [f for f in DIRECT if f not in ("none", "shuffle")])
    def test_a_chunk_that_says_it_holds_more_or_less_is_refused(self, tmp_path, filters):
        for n_rows in (4, 16):
            path = tmp_path / f"{n_rows}.h5"
            write(path, data=smooth((n_rows, 6, 10)), chunks=(n_rows, 6, 10), **DIRECT[filters])
            with h5py.File(path, "r+") as file:
                skipped, data = file["x"].id.read_direct_chunk((0, 0, 0))
                y = file.create_dataset(
                    "y", (8, 6, 10), "f4", chunks=CHUNKS,
                    **{**DIRECT[filters]},
                )  # fmt: skip
                y.id.write_direct_chunk((0, 0, 0), data, skipped)
            with pytest.raises(
                FormatError, match=r"'y' in .*: chunk \(0, 0, 0\) (is damaged|holds)"
            ):
                rows_of(one(path, "y"))

    @pytest.mark.parametrize("filters", ["fletcher32", "gzip", "zstd+shuffle"])
    def test_flipped_bits_are_noticed(self, tmp_path, filters):
        data = RNG.integers(0, 256, SHAPE).astype("u1")  # no byte of it can be left out
        options = {**DIRECT[filters], "fletcher32": filters != "gzip"}
        write(tmp_path / "a.h5", data=data, chunks=CHUNKS, **options)
        with h5py.File(tmp_path / "a.h5") as file:
            info = file["x"].id.get_chunk_info(1)
        with (tmp_path / "a.h5").open("r+b") as file:
            file.seek(info.byte_offset + info.size // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 16]))
        with pytest.raises(FormatError, match=r"chunk \(1, 0, 0\) is damaged"):
            rows_of(one(tmp_path / "a.h5"))

    @pytest.mark.parametrize("options", [{}, {"chunks": CHUNKS}, {"chunks": CHUNKS, **BLOSC[1]}])
    def test_a_file_cut_short_after_it_was_opened_is_noticed(self, tmp_path, options):
        write(tmp_path / "a.h5", **options)
        source = one(tmp_path / "a.h5")
        os.truncate(tmp_path / "a.h5", (tmp_path / "a.h5").stat().st_size // 3)
        with pytest.raises(FormatError, match="'x' in .*is cut short"):
            rows_of(source)

    def test_a_chunk_that_claims_to_be_larger_than_the_file_takes_no_memory(self, tmp_path):
        write(tmp_path / "a.h5", chunks=CHUNKS, **DIRECT["gzip"])
        source = one(tmp_path / "a.h5")
        source.places.sizes[:] = 2**62
        with pytest.raises(FormatError, match="is cut short: the file ends before"):
            rows_of(source)

    def test_damage_that_hdf5_finds_names_the_chunk_too(self, tmp_path):
        write(tmp_path / "a.h5", chunks=CHUNKS, compression="lzf", fletcher32=True)
        with h5py.File(tmp_path / "a.h5") as file:
            info = file["x"].id.get_chunk_info(2)
        with (tmp_path / "a.h5").open("r+b") as file:
            file.seek(info.byte_offset)
            file.write(b"\xff" * 8)
        with pytest.raises(FormatError, match=r"'x' in .*: chunk \(2, 0, 0\) cannot be read"):
            rows_of(one(tmp_path / "a.h5"))


class TestWhatIsThere:
    @pytest.fixture
    def path(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["g/x"] = smooth()
            file["n"] = 3.0
            file["text"] = ["a", "b"]
            file["records"] = np.zeros(3, [("a", "i4")])
            file["soft"] = h5py.SoftLink("/g/x")
            file["outside"] = h5py.ExternalLink("b.h5", "x")
            file.create_dataset("e", (4,), "f4", external=[(str(tmp_path / "e.bin"), 0, 16)])
            layout = h5py.VirtualLayout((37, 6, 10), "f4")
            layout[:] = h5py.VirtualSource(tmp_path / "a.h5", "g/x", SHAPE)
            file.create_virtual_dataset("v", layout)
        (tmp_path / "e.bin").write_bytes(np.arange(4, dtype="f4").tobytes())
        return tmp_path / "a.h5"

    def test_all_arrays_are_those_of_numbers_in_the_file_itself(self, path):
        assert list(open_hdf5_arrays(path, None, is_strict=True)) == ["g/x"]

    @pytest.mark.parametrize(
        ("name", "match"),
        [
            ("n", "'n' in .* is a single value, without an axis"),
            ("text", "'text' in .* holds strings"),
            ("records", "'records' in .* holds records"),
            ("soft", "'soft' in .*SoftLink.*Give the open h5py.Dataset"),
            ("outside", "'outside' in .*ExternalLink.*Give the open h5py.Dataset"),
            ("e", r"'e' in .*external storage\). Give the open h5py.Dataset"),
            ("v", r"'v' in .*virtual storage\). Give the open h5py.Dataset"),
        ],
    )
    def test_what_cannot_be_loaded_is_refused_by_name(self, path, name, match):
        with pytest.raises(FormatError, match=match):
            one(path, name)

    def test_an_axis_for_a_name_that_is_not_there_is_refused(self, path):
        with pytest.raises(
            MissingError, match="sample axis is given for y, but the arrays are g/x"
        ):
            open_hdf5_arrays(path, None, axis={"y": 1}, is_strict=True)

    def test_a_missing_name_lists_those_there_are(self, path):
        with pytest.raises(MissingError, match=r"no 'y' in .*a.h5. There is: .*'g/x'"):
            one(path, "y")

    @pytest.mark.parametrize("name", ["e", "v"])
    def test_an_open_dataset_of_other_files_is_taken_as_asked_for(self, path, name):
        with h5py.File(path) as file:
            wanted = file[name][:]
            source = open_hdf5_arrays(file[name], None, is_strict=False)[name]
            np.testing.assert_array_equal(rows_of(source), wanted)

    def test_which_rows_of_other_files_are_absent_nobody_can_promise(self, path):
        with h5py.File(path) as file, pytest.raises(FormatError, match="without strict=True"):
            open_hdf5_arrays(file["v"], None, is_strict=True)

    def test_a_file_without_arrays_says_what_it_has(self, tmp_path):
        write(tmp_path / "a.h5", "text", data=["a"])
        with pytest.raises(FormatError, match="no array that can be loaded: 'text' holds strings"):
            open_hdf5_arrays(tmp_path / "a.h5", None, is_strict=True)

    def test_a_filter_that_is_not_installed_is_named(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_chunk((4,))
            plist.set_filter(299, h5py.h5z.FLAG_OPTIONAL, ())
            space = h5py.h5s.create_simple((4,))
            h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, space, plist)
        with pytest.raises(FormatError, match="'x' in .* filter 299"):
            one(tmp_path / "a.h5")


class TestHandles:
    def test_a_file_a_group_and_a_dataset_are_taken(self, tmp_path):
        wanted = write(tmp_path / "a.h5", "g/x", chunks=CHUNKS)
        with h5py.File(tmp_path / "a.h5") as file:
            for where, name in ((file, "g/x"), (file["g"], "x"), (file["g/x"], "x")):
                found = open_hdf5_arrays(where, None, is_strict=True)
                assert list(found) == [name]
                assert isinstance(found[name], ChunkedRows)
                np.testing.assert_array_equal(rows_of(found[name]), wanted)
            assert file["g/x"][0, 0, 0] == wanted[0, 0, 0]  # still open

    def test_what_is_written_through_a_handle_comes_by_hdf5(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            x = file.create_dataset("x", data=smooth(), chunks=CHUNKS, **DIRECT["gzip"])
            source = one(file)
            assert isinstance(source, SlicedRows)
            x[:] = RNG.normal(size=SHAPE)  # no longer as small: the chunks move
            np.testing.assert_array_equal(rows_of(source), x[:])

    @pytest.mark.parametrize("options", [{"driver": "core"}, {"userblock_size": 512}])
    def test_files_without_plain_offsets_come_by_hdf5(self, tmp_path, options):
        data = smooth()
        with h5py.File(tmp_path / "a.h5", "w", **options) as file:
            file.create_dataset("x", data=data, chunks=CHUNKS)
        kept = {key: value for key, value in options.items() if key == "driver"}
        with h5py.File(tmp_path / "a.h5", "r", **kept) as file:
            source = one(file)
            assert isinstance(source, SlicedRows)
            np.testing.assert_array_equal(rows_of(source), data)

    def test_a_python_file_comes_by_hdf5(self, tmp_path):
        wanted = write(tmp_path / "a.h5", chunks=CHUNKS)
        with (tmp_path / "a.h5").open("rb") as raw, h5py.File(raw) as file:
            np.testing.assert_array_equal(rows_of(one(file)), wanted)

    def test_a_handle_closed_by_its_user_is_named(self, tmp_path):
        write(tmp_path / "a.h5", chunks=CHUNKS, compression="lzf")
        with h5py.File(tmp_path / "a.h5") as file:
            source = one(file)
        with pytest.raises(BusyError, match="'x': its user closed .*Keep it open"):
            rows_of(source)

    def test_the_file_is_let_go_after_the_last_of_its_arrays(self, tmp_path):
        path = tmp_path / "a.h5"
        for name, options in {
            "x": {},
            "y": {"chunks": CHUNKS},
            "z": {"compression": "lzf"},
        }.items():
            write(path, name, **options)
        n_before = len(os.listdir("/proc/self/fd"))
        sources = list(open_hdf5_arrays(path, None, is_strict=True).values())
        for source in sources:
            assert len(os.listdir("/proc/self/fd")) > n_before
            source.close()
            with pytest.raises(BusyError, match="is closed"):
                rows_of(source)
        assert len(os.listdir("/proc/self/fd")) == n_before
        with h5py.File(path, "r+"):
            pass

    def test_what_fails_to_open_leaves_nothing_open(self, tmp_path):
        write(tmp_path / "a.h5")
        n_before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ValueError, match="axis 7"):
            one(tmp_path / "a.h5", axis=7)
        assert len(os.listdir("/proc/self/fd")) == n_before


def test_threads_read_while_another_holds_the_lock_of_hdf5(tmp_path):
    wanted = write(tmp_path / "a.h5", chunks=CHUNKS, **DIRECT["gzip+shuffle"])
    source = one(tmp_path / "a.h5")
    found = [None] * 4

    def read(i):
        found[i] = rows_of(source)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    with h5py._hl.base.phil:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
    for rows in found:
        np.testing.assert_array_equal(rows, wanted)


def test_memory_to_decode_in_is_used_again_but_by_its_thread_alone():
    scratch = Scratch()
    mine = scratch.decoded(100)
    found = []
    thread = threading.Thread(target=lambda: found.append(scratch.decoded(100)))
    thread.start()
    thread.join()
    assert np.shares_memory(mine, scratch.decoded(50))
    assert not np.shares_memory(mine, scratch.encoded(100))
    assert not np.shares_memory(mine, found[0])


def test_bits_that_hdf5_has_no_dtype_for_come_as_what_they_stand_for(tmp_path):
    from jaxstore.stores.base import ArraySpec
    from jaxstore.stores.hdf5 import HDF5Store

    values = smooth((6, 4)).astype(ml_dtypes.bfloat16)
    store = HDF5Store.new(tmp_path / "a.h5")
    store.create(ArraySpec("x", (6, 4), (4, 4), values.dtype, ("a", "b")))
    store.write("x", (0, 0), values)
    store.commit({})
    store.seal()
    store.close()
    rows = rows_of(one(tmp_path / "a.h5"))
    assert rows.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(rows, values)
