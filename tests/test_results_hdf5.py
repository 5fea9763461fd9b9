"""Results in HDF5: the contract, and what is HDF5's own."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from contract_results import (
    MANIFEST,
    NAME,
    UNITS,
    ResultContract,
    array,
    assert_filled,
    fill,
    made,
    regions,
    values,
)

from jaxstore.errors import BusyError, ExistsError
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.hdf5_journal import epoch_of
from jaxstore.stores.results import DONE, TODO, ResultPlace
from jaxstore.stores.results_hdf5 import HDF5Results

PROGRAM = Path(__file__).parent / "programs" / "results_hdf5_killed.py"
RAW = np.arange(30.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.h5"


@pytest.fixture
def source(path: Path) -> Path:
    """A file with data of its user."""
    with h5py.File(path, "w") as file:
        file["raw"] = RAW
    return path


class TestHDF5Results(ResultContract):
    @pytest.fixture
    def place(self, path: Path) -> ResultPlace:
        return HDF5Results(path)

    @pytest.fixture
    def other_place(self, path: Path) -> ResultPlace:
        return HDF5Results(path)


class TestDurableInAGroup(ResultContract):
    @pytest.fixture
    def place(self, path: Path) -> ResultPlace:
        return HDF5Results(path, group="/measurement/0/", compression=None, durable=True)

    @pytest.fixture
    def other_place(self, path: Path) -> ResultPlace:
        return HDF5Results(path, group="measurement/0", compression="lz4")


@pytest.fixture
def kill(tmp_path: Path) -> Any:
    def killed(*arguments: str) -> list[dict[str, Any]]:
        folder = tmp_path / "killed"
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, str(PROGRAM), str(folder), *arguments],
            env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        kills = [json.loads(line) for line in done.stdout.splitlines()]
        assert [kill["wrong"] for kill in kills] == [[]] * len(kills)
        assert any(kill["done"] for kill in kills)
        return kills

    return killed


EVERY = [pytest.param("1", marks=pytest.mark.slow)]


@pytest.mark.parametrize("step", ["13", *EVERY])
def test_a_kill_in_the_midst_of_any_change_costs_nothing(kill: Any, step: str) -> None:
    assert len(kill("points", step, "3")) > 5


@pytest.mark.parametrize("n", ["25", pytest.param("200", marks=pytest.mark.slow)])
def test_kills_at_random_moments_cost_nothing(kill: Any, n: str) -> None:
    assert len(kill("random", n, "1")) == int(n)


@pytest.mark.parametrize("step", ["20", *EVERY])
def test_a_kill_in_the_midst_of_a_recovery_costs_nothing(kill: Any, step: str) -> None:
    assert len(kill("recovery", step, "48")) > 5


@pytest.mark.parametrize("step", ["17", *EVERY])
def test_a_kill_in_the_midst_of_a_join_costs_nothing(kill: Any, step: str) -> None:
    assert len(kill("join", step, "12")) > 2


def test_a_full_disk_is_an_error_and_the_file_is_as_of_its_last_commit(disk: Path) -> None:
    path = disk / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = RAW
    epoch = epoch_of(path)
    n, size = 40, (100_000, 3)
    place = HDF5Results(path, compression=None)
    x = ArraySpec("x", (n * size[0], 3), size, np.dtype("f4"), ("i", "j"))
    group = place.create("big_000", manifest={}, specs=[x], n_units=n)
    block = np.random.default_rng(0).random(size, "f4")
    done = []

    def fill_all() -> None:
        for unit in range(n):
            group.write("x", (unit * size[0], 0), block)
            group.mark([unit], DONE)
            done.append(unit)

    with pytest.raises(OSError, match="No space") as full:
        fill_all()
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(BusyError, match="an earlier write failed"):
        group.mark([0], TODO)
    group.close()
    assert 2 < len(done) < 8
    again = place.open("big_000")
    assert np.flatnonzero(again.marks() == DONE).tolist() == done
    for unit in done:
        part = (slice(unit * size[0], (unit + 1) * size[0]),)
        assert np.array_equal(again.read("x", part, is_strict=True), block)
    again.close()
    assert epoch_of(path) == epoch
    assert [x.name for x in disk.iterdir()] == ["a.h5"]
    # In the same process, with what room is left.
    group = place.open("big_000", role="owner")
    group.mark([n - 1], DONE)
    group.close()


def test_what_jaxstore_adds_is_no_change_of_the_source_and_what_others_add_is(source: Path) -> None:
    epoch = epoch_of(source)
    assert epoch == os.stat(source).st_mtime_ns
    for turn in range(2):
        group = HDF5Results(source).create(
            f"x_{turn}", manifest={}, specs=[array("amp")], n_units=5
        )
        assert epoch_of(source) == epoch
        fill(group, 1)
        assert epoch_of(source) == epoch
        group.close()
        assert epoch_of(source) == epoch
        assert os.stat(source).st_mtime_ns != epoch
    with h5py.File(source, "r+") as file:
        file["raw"][0] = 9
    assert epoch_of(source) == os.stat(source).st_mtime_ns != epoch


def test_the_source_is_read_while_the_result_is_written_into_its_file(source: Path) -> None:
    with h5py.File(source, "r", locking=False) as file:
        group = made(HDF5Results(source))
        fill(group, 0, 1)
        assert np.array_equal(file["raw"][()], RAW)
        with h5py.File(source, "r", locking=False) as other:
            assert np.array_equal(other["raw"][()], RAW)
            assert NAME in other
        group.close()


def test_a_name_that_the_user_has_is_refused(source: Path) -> None:
    before = source.read_bytes()
    with pytest.raises(ExistsError, match="'raw' is already in"):
        HDF5Results(source).create("raw", manifest={}, specs=[], n_units=1)
    assert source.read_bytes() == before
    assert list(HDF5Results(source).manifests()) == []


def test_two_results_of_one_file_are_written_at_once(source: Path) -> None:
    first, second = (
        HDF5Results(source, group=group).create(NAME, manifest={}, specs=[array("amp")], n_units=5)
        for group in ("a", "b")
    )
    fill(first, 0)
    fill(second, 1)
    first.close()
    fill(second, 2)
    second.close()
    for group, units in (("a", [0]), ("b", [1, 2])):
        reader = HDF5Results(source, group=group).open(NAME)
        assert_filled(reader, *units)
        reader.close()


def test_another_program_that_has_the_file_is_told(source: Path) -> None:
    with h5py.File(source, "r+"), pytest.raises(BusyError, match="Another program has the file"):
        made(HDF5Results(source))


def test_hundreds_of_results_are_listed_quickly(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for i in range(300):
            file.create_group(f"x_{i:03d}").attrs["jaxstore_result"] = json.dumps(MANIFEST)
    place = HDF5Results(path)
    start = time.perf_counter()
    found = list(place.manifests())
    took_s = time.perf_counter() - start
    assert [name for name, _ in found] == [f"x_{i:03d}" for i in range(300)]
    assert took_s < 2  # 0.05 on two busy cores


def test_a_damaged_chunk_of_a_member_leaves_its_unit_to_do(path: Path) -> None:
    place = HDF5Results(path)
    group = made(place)
    group.share()
    member = place.open(NAME, role="member", writer="rank-1")
    fill(member, 0, 1, 3)
    member.close()
    (part,) = path.parent.glob("*.parts/rank-1.h5")
    with h5py.File(part, "r") as file:
        where = file["amp"].id.get_chunk_info_by_coord((2, 0)).byte_offset
    data = bytearray(part.read_bytes())
    data[where + 12] ^= 1
    part.write_bytes(data)
    group.join(regions)
    assert_filled(group, 0, 3)
    assert group.marks()[1] == TODO
    group.close()
    assert [x.name for x in path.parent.iterdir()] == ["a.h5"]


def test_an_owner_that_shares_is_named(path: Path) -> None:
    place = HDF5Results(path)
    group = made(place)
    group.share()
    with pytest.raises(BusyError, match=f"this process .{os.getpid()}.*shares this result"):
        place.open(NAME, role="owner")
    group.close()
    place.open(NAME, role="owner").close()


def test_a_member_of_an_earlier_sharing_is_refused(path: Path) -> None:
    place = HDF5Results(path)
    group = made(place)
    group.share()
    old = place.open(NAME, role="member", writer="old")
    group.join(regions)
    group.share()
    for call in (lambda: fill(old, 2), old.keep):
        with pytest.raises(BusyError, match="another owner took over"):
            call()
    old.close()
    group.join(regions)
    assert_filled(group)
    group.close()


class TestUsersOwnHandle:
    @pytest.fixture
    def file(self, source: Path) -> Iterator[h5py.File]:
        with h5py.File(source, "r+") as file:
            yield file

    def test_results_lie_in_it_and_it_stays_open(self, file: h5py.File) -> None:
        place = HDF5Results(file.create_group("m"))
        group = made(place)
        assert group.location.endswith(f"a.h5:/m/{NAME}")
        with pytest.raises(BusyError, match="has an owner in this process"):
            place.open(NAME, role="owner")
        fill(group, *range(UNITS))
        group.close()
        assert_filled(HDF5Results(file, group="m").open(NAME), *range(UNITS))
        assert np.array_equal(file["m"][NAME]["amp"][:2], values(0))
        assert [name for name, _ in place.manifests()] == [NAME]

    def test_what_is_added_is_no_change_of_the_source(self, file: h5py.File, source: Path) -> None:
        file.flush()
        epoch = epoch_of(source)
        for turn in range(2):
            group = made(HDF5Results(file), name=f"x_{turn}")
            fill(group, 0)
            group.close()
        assert epoch_of(source) == epoch

    def test_it_is_not_shared_and_has_to_be_writable(self, file: h5py.File, source: Path) -> None:
        group = made(HDF5Results(file))
        with pytest.raises(BusyError, match="Give the path of the file"):
            group.share()
        group.close()
        file.close()
        with h5py.File(source, "r") as read:
            with pytest.raises(BusyError, match=r"h5py.File\(path, 'r\+'\)"):
                HDF5Results(read).open(NAME, role="owner")
            assert HDF5Results(read).open(NAME).names() == ["amp"]
