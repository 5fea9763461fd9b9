"""Files whose writer was killed, made whole before the next one writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from arrays import assert_same_bits, numbers, spec

from jaxstore.errors import FormatError
from jaxstore.stores.hdf5 import HDF5Store


def as_if_killed(path: Path, folder: Path) -> Path:
    """All that a kill at this moment would leave: a copy, which nobody locks."""
    folder.mkdir()
    for part in path.parent.glob(f"{path.name}*"):
        shutil.copy(part, folder / part.name)
    return folder / path.name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "first").mkdir()
    return tmp_path / "first" / "a.h5"


def test_chunks_that_were_cut_after_the_last_commit_are_left_out(path, tmp_path):
    values = numbers((1, 64), "float64")
    store = HDF5Store.new(path, compression=None, checksum=True)
    store.create(spec("g/x", (1, 0), (1, 8), "float64"))
    store.write("g/x", (0, 0), values)
    store.resize("g/x", (1, 64))
    store.commit({"draws": 40})
    store.resize("g/x", (1, 40))  # HDF5 may give the end of the file back from here on
    killed = as_if_killed(path, tmp_path / "second")
    store.close()
    lines = map(json.loads, Path(f"{killed}.chunks").read_text().splitlines())
    first_cut = next(line[2] for line in lines if line[:2] == ["g/x", [0, 5]] and len(line) == 4)
    with killed.open("r+b") as file:
        file.truncate(first_cut)
    again = HDF5Store.open(killed, mode="r+")
    assert_same_bits(again.read("g/x", (slice(0, 1), slice(0, 40)), is_strict=True), values[:, :40])
    assert again.committed() == {"draws": 40}
    again.close()


def test_a_damaged_chunk_that_nobody_cut_is_an_error_and_the_file_stays(path, tmp_path):
    store = HDF5Store.new(path, compression=None, checksum=True)
    store.create(spec("g/x", (1, 0), (1, 8), "float64"))
    store.write("g/x", (0, 0), numbers((1, 64), "float64"))
    store.resize("g/x", (1, 64))
    store.commit({"draws": 64})
    killed = as_if_killed(path, tmp_path / "second")
    store.close()
    data = bytearray(killed.read_bytes())
    data[-20] ^= 1
    data[:4] = b"torn"  # HDF5 does not open it
    killed.write_bytes(data)
    with pytest.raises(FormatError):
        HDF5Store.open(killed, mode="r+")
    assert killed.read_bytes() == bytes(data)
