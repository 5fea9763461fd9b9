from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import obstore.store
import pytest
import zarr
import zarr.storage
from contract_results import NAME, assert_filled, fill, made

from jaxstore.errors import FormatError
from jaxstore.stores.results_memory import MemoryResults
from jaxstore.stores.results_place import results_at
from jaxstore.stores.results_zarr import ZarrResults


def kind(where: object, **settings: object) -> str:
    return type(results_at(where, **settings)).__name__  # type: ignore[arg-type]


def test_what_lies_at_a_path_decides_else_how_it_ends(tmp_path: Path) -> None:
    assert kind(tmp_path / "new") == kind(str(tmp_path / "new.zarr")) == "ZarrResults"
    assert kind((tmp_path / "new.zarr").as_uri()) == "ZarrResults"
    (tmp_path / "folder.h5").mkdir()
    assert kind(tmp_path / "folder.h5") == "ZarrResults"
    assert not (tmp_path / "new").exists()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FormatError, match="neither an HDF5 file nor a Zarr folder"):
        results_at(tmp_path / "notes.txt")
    with pytest.raises(FormatError, match="HDF5 needs a local path"):
        results_at("s3://bucket/data.h5")
    with pytest.raises(TypeError, match="int is no place"):
        results_at(3)


def test_hdf5_is_told_by_its_content_by_its_ending_and_by_its_handle(tmp_path: Path) -> None:
    pytest.importorskip("jaxstore.stores.results_hdf5")
    for name in ("a.h5", "b.HDF5", "c.he5"):
        assert kind(tmp_path / name) == "HDF5Results"
    with h5py.File(tmp_path / "plain.dat", "w") as file:
        assert kind(file) == kind(file.create_group("g")) == "HDF5Results"
    assert kind(tmp_path / "plain.dat") == "HDF5Results"
    assert kind(f"{tmp_path}/plain.dat:/g") == "HDF5Results"


def test_handles_of_zarr_and_obstore_are_places(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    for where in (
        group.create_group("g"),
        zarr.storage.MemoryStore(),
        obstore.store.MemoryStore(),
        zarr.storage.LocalStore(tmp_path / "b"),
    ):
        assert kind(where) == "ZarrResults"


@pytest.mark.parametrize("text", ["r.zarr:/m/fits", "r.zarr:/m/", "r.zarr:/", "r.zarr"])
def test_a_group_is_named_in_the_text_or_beside_it(tmp_path: Path, text: str) -> None:
    inside = text.partition(":/")[2].strip("/")
    rest = "/m/fits".removeprefix(f"/{inside}" if inside else "")
    place = results_at(f"{tmp_path}/{text}", group=rest)
    group = made(place)
    fill(group, 2)
    group.close()
    assert place.location == f"{tmp_path}/r.zarr/m/fits"
    assert_filled(ZarrResults(tmp_path / "r.zarr" / "m" / "fits").open(NAME), 2)
    assert zarr.open_group(tmp_path / "r.zarr", mode="r")[f"m/fits/{NAME}/amp"].shape == (10, 3)


def test_a_path_may_itself_look_like_a_group_in_a_place(tmp_path: Path) -> None:
    path = tmp_path / "odd:" / "name"
    path.mkdir(parents=True)
    assert results_at(str(path)).location == str(path)


def test_settings_reach_the_arrays(tmp_path: Path) -> None:
    made(results_at(tmp_path, compression=None, checksum=False)).close()
    array = zarr.open_array(tmp_path / NAME / "amp", mode="r")
    assert array.compressors == ()


def test_memory_is_a_place_and_a_place_is_itself() -> None:
    place = results_at("memory")
    assert isinstance(place, MemoryResults)
    assert results_at(place) is place
    assert results_at("memory") is not place
    with pytest.raises(TypeError, match="without groups"):
        results_at(place, group="g")
    with pytest.raises(TypeError, match="without groups"):
        results_at("memory", group="g")
    group = made(place)
    group.write("amp", (0, 0), np.zeros((2, 3), "f4"))


@pytest.mark.parametrize("kind_of_place", ["h5py", "obstore", "zarr", "path"])
def test_groups_below_are_found_through_handles_too(tmp_path: Path, kind_of_place: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        store = obstore.store.MemoryStore()
        where: object = {
            "h5py": file,
            "obstore": store,
            "zarr": zarr.storage.ObjectStore(store),
            "path": tmp_path / "a.zarr",
        }[kind_of_place]
        place = results_at(where)
        assert place.groups() == []
        for group in ("b/c", "a", "b"):
            made(results_at(where, group=group)).close()
        assert place.groups() == ["a", "b", "b/c"]
        assert place.within("b").groups() == ["c"]
        assert [name for name, _ in place.within("b").within("c").manifests()] == [NAME]
        assert list(place.manifests()) == []
