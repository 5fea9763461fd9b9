from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import xarray
import zarr
from arrays import assert_same_bits, ramp, spec

from jaxstore.errors import FormatError
from jaxstore.stores.zarr3 import ZarrStore
from jaxstore.stores.zarr3_checksum import CHECKSUM

DIFFERS = r"zarr\.json of '{}' was damaged, or changed by another program"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = ZarrStore.new(tmp_path / "a")
    store.set_attrs({"ours": 1})
    store.create(spec("g/x", (2, 8), (2, 4), "bfloat16", unit="m"))
    store.write("g/x", (0, 0), ramp((2, 8), "bfloat16"))
    store.create_labels("g/city", ["a"])
    store.commit({"draws": [8, 8]})
    store.close()
    return tmp_path / "a"


def edit(folder: Path, name: str, **fields: Any) -> None:
    path = folder / name / "zarr.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_attr(folder: Path, name: str, key: str, value: Any) -> None:
    path = folder / name / "zarr.json"
    attrs = json.loads(path.read_text())["attributes"]
    edit(folder, name, attributes={**attrs, key: value})


def test_every_document_has_a_checksum_that_attrs_do_not_show(folder: Path) -> None:
    for path in folder.rglob("zarr.json"):
        assert CHECKSUM in json.loads(path.read_text())["attributes"]
    store = ZarrStore.open(folder)
    assert [store.attrs(name) for name in ("", "g", "g/x")] == [{"ours": 1}, {}, {"unit": "m"}]
    with pytest.raises(ValueError, match="jaxstore's own"):
        ZarrStore.open(folder, mode="r+").set_attrs({CHECKSUM: 1})


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("g/x", "unit", "km"),
        ("g/x", "jaxstore_dtype", "float16"),
        ("", "ours", 2),
        ("", "jaxstore_commit", '{"draws": [9, 8]}'),
        ("g", CHECKSUM, '{"crc32c": "00000000", "of": {}}'),
        ("g", CHECKSUM, "no JSON"),
        ("g", CHECKSUM, 3),
    ],
)
def test_our_attributes_are_covered(
    folder: Path, name: str, key: str, value: Any, mode: str
) -> None:
    edit_attr(folder, name, key, value)
    with pytest.raises(FormatError, match=DIFFERS.format(name or "the root")):
        ZarrStore.open(folder, mode=mode).attrs(name)


@pytest.mark.parametrize(
    "fields", [{"shape": [2, 7]}, {"fill_value": 1}, {"data_type": "int16"}, {"attributes": {}}]
)
def test_fields_are_covered(folder: Path, fields: dict[str, Any]) -> None:
    if "attributes" in fields:  # the name of the attribute is damaged, its text is not
        text = json.loads((folder / "g/x/zarr.json").read_text())["attributes"][CHECKSUM]
        fields = {"attributes": {"jaxstore_chucksum": text}}
    edit(folder, "g/x", **fields)
    with pytest.raises(FormatError, match=DIFFERS.format("g/x")):
        ZarrStore.open(folder).read("g/x")


def test_a_field_that_nobody_knows_is_refused(folder: Path) -> None:
    edit(folder, "g", attribvtes={})
    with pytest.raises(FormatError, match="'attribvtes' is not known"):
        ZarrStore.open(folder).names()


def test_what_was_changed_on_purpose_is_read_without_the_checksum(folder: Path) -> None:
    path = folder / "g/x/zarr.json"
    document = json.loads(path.read_text())
    del document["attributes"][CHECKSUM]
    document["attributes"]["unit"] = "km"
    path.write_text(json.dumps(document))
    assert ZarrStore.open(folder).attrs("g/x") == {"unit": "km"}


@pytest.mark.parametrize("is_sealed", [False, True])
def test_others_may_add_attributes_and_change_them(folder: Path, *, is_sealed: bool) -> None:
    if is_sealed:
        ZarrStore.open(folder, mode="r+").seal()
    for value in (1, 2):
        group = zarr.open_group(folder, mode="r+", use_consolidated=False)
        for node in (group, group["g"], group["g/x"], group["g/city"]):
            node.attrs["note"] = value
        store = ZarrStore.open(folder, mode="r+")
        assert store.attrs("g/x")["note"] == store.attrs()["note"] == value
        store.set_attrs({"more": value}, "g/x")
        store.commit({"draws": [8, 8]})
        store.close()
    assert ZarrStore.open(folder).attrs("g/x") == {"unit": "m", "note": 2, "more": 2}
    document = json.loads((folder / "g/x/zarr.json").read_text())
    covered = json.loads(document["attributes"][CHECKSUM])["of"]
    assert sorted(covered) == ["jaxstore_dtype", "more", "unit"]
    del zarr.open_group(folder, mode="r+")["g/x"].attrs["more"]
    with pytest.raises(FormatError, match=DIFFERS.format("g/x")):
        ZarrStore.open(folder).read("g/x")


def test_documents_of_others_stay_without(folder: Path) -> None:
    made = zarr.open_group(folder, mode="r+").create_array("z", shape=(4,), dtype="f4")
    made[:] = 1
    store = ZarrStore.open(folder, mode="r+")
    store.set_attrs({"a": 1}, "z")
    store.close()
    made = zarr.open_group(folder, mode="r+")["z"]
    assert dict(made.attrs) == {"a": 1}
    made.resize((6,))
    assert ZarrStore.open(folder).spec("z").shape == (6,)


def test_copies_that_others_have_renewed_are_accepted(folder: Path) -> None:
    ZarrStore.open(folder, mode="r+").seal()
    zarr.open_group(folder, mode="r+", use_consolidated=False)["g/x"].attrs["note"] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata is not in the specification
        zarr.consolidate_metadata(folder)
    assert ZarrStore.open(folder).attrs("g/x") == {"unit": "m", "note": 1}


@pytest.mark.parametrize("field", ["shape", "fill_value"])
def test_copies_that_differ_are_noticed(folder: Path, field: str) -> None:
    ZarrStore.open(folder, mode="r+").seal()
    root = json.loads((folder / "zarr.json").read_text())
    root["consolidated_metadata"]["metadata"]["g/x"][field] = [7, 7]
    edit(folder, "", **root)
    with pytest.raises(FormatError, match=DIFFERS.format("the root")):
        ZarrStore.open(folder).committed()


def test_foreign_readers_open_it_without_warnings(folder: Path, tmp_path: Path) -> None:
    ZarrStore.open(folder, mode="r+").seal()
    with xarray.open_datatree(folder, engine="zarr") as tree:
        assert_same_bits(tree["g/x"].values, ramp((2, 8), "bfloat16").view("uint16"))
        tree["g"].to_dataset().drop_vars("city").to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    assert zarr.open_group(folder, use_consolidated=True)["g/x"].shape == (2, 8)


def test_the_record_in_a_group_of_the_user_is_covered_too(tmp_path: Path) -> None:
    store = ZarrStore.new(zarr.open_group(tmp_path / "a"))
    store.commit({"draws": 1})
    store.close()
    edit_attr(tmp_path / "a", "", "jaxstore_commit", '{"draws": 2}')
    with pytest.raises(FormatError, match=DIFFERS.format("the root")):
        ZarrStore.open(tmp_path / "a")
