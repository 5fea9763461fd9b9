"""Damaged, absent and lying chunks of HDF5 files: each noticed, none read as data."""

import subprocess
import sys

import h5py
import hdf5plugin
import numpy as np
import pytest
from arrays import numbers, ramp, spec
from hdf5_files import COMPRESSIONS, made, opened
from numcodecs import blosc, zstd

from jaxstore.errors import FormatError, TooLargeError

VALUES = numbers((4, 60), "float32")
CHUNKS = (2, 8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


def write(path, compression):
    """A file, and offset and size of each of its chunks."""
    with made(path, compression=compression) as store:
        store.create(spec("g/x", VALUES.shape, CHUNKS))
        store.write("g/x", (0, 0), VALUES)
    with h5py.File(path) as file:
        found = file["g/x"].id
        infos = [found.get_chunk_info(i) for i in range(found.get_num_chunks())]
    return {
        tuple(a // n for a, n in zip(i.chunk_offset, CHUNKS, strict=True)): (i.byte_offset, i.size)
        for i in infos
    }


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("is_strict", [True, False])
def test_each_of_50_flipped_bits_is_noticed_and_none_read_as_data(path, compression, is_strict):
    places = write(path, compression)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(50):
        index = list(places)[rng.integers(len(places))]
        offset, n_bytes = places[index]
        flipped = bytearray(data)
        flipped[offset + rng.integers(n_bytes)] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        with opened(path) as store:
            with pytest.raises(FormatError) as caught:
                store.read("g/x", is_strict=is_strict)
            assert f"'g/x' in {path}: chunk {index} is damaged" in str(caught.value)
            found = list(store.damage("g/x", ()))
            assert len(found) == 1
            assert found[0].startswith(f"chunk {index} is damaged: ")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_file_cut_short_is_never_read_as_data(path, compression):
    places = write(path, compression)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for n_bytes in sorted({0, *rng.integers(len(data), size=50).tolist()}):
        path.write_bytes(data[:n_bytes])
        try:
            with opened(path) as store:
                assert store.read("g/x").tobytes() == VALUES.tobytes()
                assert n_bytes > max(offset + size for offset, size in places.values())
        except FormatError:
            continue


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_absent_chunks_are_named(path, compression):
    with made(path, compression=compression) as store:
        store.create(spec("x", (4, 30), CHUNKS))
        assert len([*store.damage("x", ())]) == 8
        store.write("x", (0, 0), ramp((2, 30)))
        assert [*store.damage("x", (slice(0, 2),))] == []
        wanted = ["chunk (1, 1) is absent", "chunk (1, 2) is absent"]
        assert [*store.damage("x", (slice(1, 4), slice(8, 17)))] == wanted
        assert np.isnan(store.read("x")[2:]).all()
        assert store.read("x", (slice(0, 2),), is_strict=True).tolist() == ramp((2, 30)).tolist()
        with pytest.raises(FormatError, match=r"'x' in .*: chunk \(1, 0\) is absent.*verify"):
            store.read("x", is_strict=True)


def test_chunks_of_foreign_filters_are_checked_by_hdf5(path):
    with h5py.File(path, "w") as file:
        options = {"chunks": (4,), "compression": "gzip", "fletcher32": True}
        file.create_dataset("x", (12,), "f4", **options)[4:] = ramp((8,))
        place = file["x"].id.get_chunk_info_by_coord((8,)).byte_offset
        file["whole"] = ramp((3,))
    data = bytearray(path.read_bytes())
    data[place + 5] ^= 4
    path.write_bytes(data)
    with opened(path) as store:
        absent, damaged = store.damage("x", ())
        assert absent == "chunk (0,) is absent"
        assert damaged.startswith("chunk (2,) is damaged")
        assert [*store.damage("x", (slice(4, 8),))] == []
        assert [*store.damage("whole", ())] == []
        with pytest.raises(FormatError, match=r"chunk \(0,\) is absent"):
            store.read("x", is_strict=True)
        with pytest.raises(OSError, match=r"'x' in .*chunk \(2,\)"):
            store.read("x", (slice(4, 12),))


BIG = 1 << 31


def lie(kind):
    """A chunk of 32 bytes that says or is more, or less; by itself it is sound."""
    zeros = np.zeros(1 << 24, "u1")
    match kind:
        case "long zstd":
            return zstd.compress(zeros, 1, True)
        case "short zstd":
            return zstd.compress(zeros[:16], 1, True)
        case "zstd of no size":  # window of 2 KiB, one raw block of 4 bytes
            return b"\x28\xb5\x2f\xfd\x00\x08" + bytes([0x21, 0, 0]) + b"abcd"
        case "many zstd":
            return zstd.compress(zeros[:32], 1, True) * 1000
        case "long blosc":
            return blosc.compress(zeros, b"lz4", 5, 1)
        case "short blosc":
            return blosc.compress(zeros[:16], b"lz4", 5, 1)
    packed = bytearray(blosc.compress(zeros[:32], b"lz4", 5, 1))
    packed[4:8] = BIG.to_bytes(4, "little")
    return bytes(packed)


def write_lie(dataset, data):
    """Put bytes that are no such chunk, where this HDF5 lets one."""
    try:
        dataset.id.write_direct_chunk((0,), data)
    except OSError as error:
        assert h5py.version.hdf5_version_tuple < (2,)
        pytest.skip(f"HDF5 before 2 writes no such file: {error}")


@pytest.mark.parametrize(
    "kind",
    [
        *("long zstd", "short zstd", "zstd of no size", "many zstd"),
        *("long blosc", "short blosc", "false blosc"),
    ],
)
def test_a_chunk_that_says_or_is_not_a_chunk_is_refused(path, kind):
    filters = hdf5plugin.Blosc(cname="lz4") if "blosc" in kind else hdf5plugin.Zstd()
    with h5py.File(path, "w") as file:
        made = file.create_dataset("x", (8,), "f4", chunks=(8,), **filters)
        write_lie(made, lie(kind))
    with opened(path) as store:
        with pytest.raises(FormatError, match=r"'x' in .*: chunk \(0,\) is damaged"):
            store.read("x")
        assert len([*store.damage("x", ())]) == 1


HOSTILE = """
import resource, sys
import numpy as np
from jaxstore.errors import JaxstoreError
from jaxstore.stores.hdf5 import HDF5Store
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
store = HDF5Store.open(sys.argv[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in ("bomb", "huge", "chunk"):
    try:
        store.spec(name)
        store.read(name)
    except JaxstoreError as error:
        print(name, type(error).__name__)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
"""


def test_absurd_declarations_take_no_memory(path):
    with h5py.File(path, "w") as file:
        made = file.create_dataset("bomb", (8,), "f4", chunks=(8,), **hdf5plugin.Zstd())
        write_lie(made, zstd.compress(np.zeros(BIG, "u1"), 1, True))
        file.create_dataset("huge", (1 << 45,), "f4", chunks=(1 << 10,))
        file.create_dataset("chunk", (1 << 40,), "u1", chunks=((1 << 32) - 1,))
    code = [sys.executable, "-c", HOSTILE, str(path)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=120, check=False)
    *found, more_kb = done.stdout.splitlines()
    names = (FormatError.__name__, TooLargeError.__name__)
    assert found == [f"bomb {names[0]}", f"huge {names[1]}", f"chunk {names[1]}"], done.stderr
    assert int(more_kb) < 300_000
