"""Chunks in HDF5 files: their bytes, their damage, and files that lie."""

import dataclasses
import re
import threading
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from arrays import numbers, ramp, spec
from h5py._objects import phil
from hdf5_files import COMPRESSIONS, made, opened

from jaxstore.errors import FormatError, MismatchError
from jaxstore.stores.hdf5 import HDF5Store
from jaxstore.stores.hdf5_arrays import StoredArray, find_array
from jaxstore.stores.hdf5_direct import read_chunk, write_chunk


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


@pytest.fixture
def store(path):
    store = HDF5Store.new(path)
    yield store
    store.close()


class Late:
    """A dataset, and its `id`, with a chunk that another thread writes when it was not found."""

    def __init__(self, dataset, data):
        self._dataset, self._data = dataset, data

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    @property
    def id(self):
        return Late(self._dataset.id, self._data)

    def get_chunk_info_by_coord(self, origin):
        self._dataset.write_direct_chunk(origin, self._data)
        return self._dataset.get_chunk_info_by_coord(origin)


class TestChunks:
    def test_a_chunk_that_comes_while_it_is_looked_for_is_read(self, path):
        with made(path, compression=None, checksum=False) as store:
            store.create(spec("x", (2,), (2,)))
        with h5py.File(path, "r+") as file:
            array = find_array(file, "x", location="here")
            array = dataclasses.replace(array, dataset=Late(array.dataset, ramp((2,)).tobytes()))
            assert array.read((slice(0, 2),), is_strict=True).tolist() == [1, 2]

    @pytest.mark.parametrize("way", ["write", "read"])
    def test_no_chunk_goes_in_or_out_while_another_thread_is_in_hdf5(self, path, way):
        with h5py.File(path, "w") as file:
            # Its `id` alone: to ask a dataset for that takes the lock too.
            dataset = SimpleNamespace(id=file.create_dataset("x", (2,), "f4", chunks=(2,)).id)
            data, found = ramp((2,)).tobytes(), []
            write_chunk(dataset, (0,), data)
            call = {
                "write": lambda: write_chunk(dataset, (0,), data),
                "read": lambda: read_chunk(dataset, (0,)),
            }
            thread = threading.Thread(target=lambda: found.append(call[way]()))
            with phil:  # as h5py holds it in all other calls
                thread.start()
                thread.join(0.3)
                assert not found
            thread.join()
            assert found == [None if way == "write" else (0, data)]

    @pytest.mark.parametrize("compression", COMPRESSIONS)
    @pytest.mark.parametrize("dtype", ["uint8", "bool", "float16", "float32", "complex128"])
    def test_h5py_reads_what_was_written(self, path, compression, dtype):
        values = numbers((5, 33), dtype)
        with made(path, compression=compression) as store:
            store.create(spec("x", (5, 33), (2, 8), dtype))
            store.write("x", (0, 0), values)
        with h5py.File(path) as file:
            assert file["x"].dtype == dtype
            assert file["x"].maxshape == (None, None)
            assert file["x"][:].tobytes() == values.tobytes()

    @pytest.mark.parametrize("compression", COMPRESSIONS)
    def test_chunks_are_the_bytes_that_hdf5_would_write(self, path, compression):
        # So that any decoder of the filters, and not HDF5 alone, takes them.
        values = np.cumsum(numbers((64, 8), "int32") % 7, axis=0).astype("float32")
        with made(path, compression=compression) as store:
            store.create(spec("ours", (64, 8), (64, 8)))
            store.create(spec("theirs", (64, 8), (64, 8)))
            store.write("ours", (0, 0), values)
        with h5py.File(path, "r+") as file:
            file["theirs"][:] = values
        with h5py.File(path) as file:
            ours, theirs = (file[k].id.get_chunk_info(0).size for k in ("ours", "theirs"))
        # The checksum of a zstd frame is the one thing that HDF5's filter leaves out.
        assert ours - theirs == (4 if compression == "zstd" else 0)

    @pytest.mark.parametrize("compression", COMPRESSIONS)
    @pytest.mark.parametrize("is_partial", [True, False])
    def test_any_flipped_bit_raises_and_names_array_and_chunk(
        self, path, compression, is_partial
    ) -> None:
        values = np.random.default_rng(0).normal(size=(2, 512)).astype("float32")
        with made(path, compression=compression) as store:
            store.create(spec("a/x", (2, 1024), (2, 512)))
            store.write("a/x", (0, 512), values[:, :300] if is_partial else values)
        with h5py.File(path) as file:
            chunk = file["a/x"].id.get_chunk_info(0)
        data = bytearray(path.read_bytes())
        for place in np.random.default_rng(1).integers(0, 8 * chunk.size, 40):
            byte, bit = divmod(int(place), 8)
            flipped = bytearray(data)
            flipped[chunk.byte_offset + byte] ^= 1 << bit
            path.write_bytes(flipped)
            with opened(path) as store:
                with pytest.raises(FormatError, match=r"'a/x' in .*a\.h5: chunk \(0, 1\) is dam"):
                    store.read("a/x")
                assert [*store.damage("a/x", ())][1].startswith("chunk (0, 1) is damaged")
                store.read("a/x", (slice(None), slice(0, 512)))

    def test_filters_of_other_writers_are_written_through_hdf5(self, path):
        with h5py.File(path, "w") as file:
            file.create_dataset("x", (8,), "f4", chunks=(4,), compression="gzip", maxshape=(None,))
            file.create_dataset("whole", (8,), "f4")
        with opened(path, mode="r+") as store:
            store.write("x", (0,), ramp((8,)))
            store.write("whole", (2,), ramp((3,)))
        with opened(path) as store:
            assert store.spec("x").dims == ("dim_0",)
            assert store.spec("whole").chunks == (8,)
            assert store.read("x").tolist() == ramp((8,)).tolist()
            assert store.read("whole").tolist() == [0, 0, 1, 2, 3, 0, 0, 0]

    def test_a_missing_filter_is_an_error_that_names_the_array(self, path):
        with h5py.File(path, "w") as file:
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            properties.set_chunk((4,))
            properties.set_filter(301, h5py.h5z.FLAG_OPTIONAL)  # not a registered filter
            space = h5py.h5s.create_simple((4,))
            made = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, space, properties)
            made.write_direct_chunk((0,), b"0" * 16)
        with opened(path) as store, pytest.raises(OSError, match=r"'x' .*filter"):
            store.read("x")

    def test_values_of_another_rank_are_refused_and_the_store_lives(self, store):
        store.create(spec("x", (2, 4), (2, 4)))
        with pytest.raises(MismatchError, match="2 axes"):
            store.write("x", (0,), ramp((2,)))
        with pytest.raises(MismatchError, match="cannot become"):
            store.resize("x", (3,))
        store.write("x", (0, 0), ramp((2, 4)))

    def test_whole_chunks_are_not_read_back(self, path, store, monkeypatch):
        store.create(spec("x", (10, 4), (4, 4)))
        reads = []
        plain = StoredArray._fetch
        monkeypatch.setattr(StoredArray, "_fetch", lambda *a: reads.append(a) or plain(*a))
        store.write("x", (0, 0), ramp((10, 4)))  # the short last chunk is whole, too
        assert reads == []
        store.write("x", (1, 0), ramp((1, 4)))
        assert len(reads) == 1

    def test_what_was_never_published_is_cut_by_seal(self, path, store):
        store.create(spec("x", (2, 0), (2, 4)))
        store.write("x", (0, 0), ramp((2, 12)))
        store.resize("x", (2, 6))
        store.seal()
        with h5py.File(path) as file:
            assert file["x"].shape == (2, 6)


class TestHostileFiles:
    @pytest.fixture
    def hostile(self, path, tmp_path):
        secret = tmp_path / "secret"
        secret.write_bytes(b"s" * 16)
        with h5py.File(tmp_path / "other.h5", "w") as other:
            other["x"] = ramp((4,))
        with h5py.File(path, "w") as file:
            file["x"] = ramp((4,))
            file["soft"] = h5py.SoftLink("/x")
            file["away"] = h5py.ExternalLink("other.h5", "x")
            file["group"] = h5py.ExternalLink("other.h5", "/")
            file.create_dataset("raw", (4,), "f4", external=[(str(secret), 0, 16)])
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4,))
            file.create_virtual_dataset("virtual", layout)
        with opened(path) as store:
            yield store

    @pytest.mark.parametrize("name", ["soft", "away", "group/x", "raw", "virtual"])
    def test_data_outside_the_file_are_refused(self, hostile, name):
        with pytest.raises(FormatError, match=re.escape(repr(name))):
            hostile.read(name)
        with pytest.raises(FormatError, match=re.escape(repr(name))):
            hostile.spec(name)

    def test_links_are_not_listed(self, hostile):
        assert hostile.names() == ["raw", "virtual", "x"]
        assert hostile.read("x").tolist() == [1, 2, 3, 4]
