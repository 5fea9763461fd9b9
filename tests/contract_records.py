"""What every store promises about attributes and the record; a part of `StoreContract`."""

from __future__ import annotations

import pytest
from arrays import Reopen, assert_same_bits, ramp, spec

from jaxstore.errors import ExistsError, MissingError
from jaxstore.stores.base import Store

ATTRS = {
    "text": "Größe, 尺寸, 🙂",
    "quote": 'a "b" \\ c\n',
    "float": 0.1,
    "int": 2**40,
    "none": None,
    "true": True,
    "list": [1, [2.5, "x"], {}],
    "nested": {"a": {"ß": []}},
    "schlüssel": 1,
    "empty": "",
}


class RecordContract:
    @pytest.mark.parametrize("name", ["", "group/of/mine", "a/x"])
    def test_attributes_come_back_as_they_were(
        self, store: Store, reopen: Reopen, name: str
    ) -> None:
        store.create(spec("a/x", (1, 2), (1, 2), "bfloat16", unit="m"))
        store.set_attrs(ATTRS, name)
        store.set_attrs({"int": 3, "more": [1]}, name)
        wanted = {**ATTRS, "int": 3, "more": [1], **({"unit": "m"} if name == "a/x" else {})}
        assert store.attrs(name) == wanted
        again = reopen()
        assert again.attrs(name) == wanted
        assert again.names() == ["a/x"]

    def test_a_long_attribute_comes_back(self, store: Store, reopen: Reopen) -> None:
        store.set_attrs({"long": "ü" * 100_000}, "a")
        assert reopen().attrs("a") == {"long": "ü" * 100_000}

    def test_groups_on_the_way_have_no_attributes(self, store: Store, reopen: Reopen) -> None:
        store.create(spec("a/b/x", (1, 2), (1, 2)))
        again = reopen()
        assert [again.attrs(name) for name in ("", "a", "a/b", "a/b/x")] == [{}, {}, {}, {}]

    def test_changing_what_attrs_returned_changes_nothing(self, store: Store) -> None:
        store.set_attrs({"a": {"b": 1}})
        store.attrs()["a"]["b"] = 2
        assert store.attrs() == {"a": {"b": 1}}

    def test_a_record_replaces_the_one_before(self, store: Store, reopen: Reopen) -> None:
        store.set_attrs({"kept": 1})
        assert store.committed() is None
        for n in range(3):
            store.commit({"draws": [n, n], "nonce": f"é{n}", "slot": None})
            assert store.committed() == {"draws": [n, n], "nonce": f"é{n}", "slot": None}
        store.commit({"draws": [7]})
        assert store.attrs() == {"kept": 1}
        again = reopen()
        assert again.committed() == {"draws": [7]}
        assert again.attrs() == {"kept": 1}

    def test_a_record_that_is_no_json_leaves_the_one_before(
        self, store: Store, reopen: Reopen
    ) -> None:
        store.commit({"draws": 1})
        with pytest.raises(TypeError):
            store.commit({"draws": object()})
        assert store.committed() == {"draws": 1}
        assert reopen().committed() == {"draws": 1}

    def test_a_sealed_store_goes_on_when_written_again(self, store: Store, reopen: Reopen) -> None:
        store.create(spec("x", (1, 4), (1, 4)))
        store.write("x", (0, 0), ramp((1, 4)))
        store.commit({"draws": 4})
        store.seal()
        assert_same_bits(store.read("x"), ramp((1, 4)))
        store.write("x", (0, 4), ramp((1, 4)))
        store.resize("x", (1, 8))
        store.create(spec("a/y", (1, 4), (1, 4)))
        store.commit({"draws": 8})
        store.seal()
        again = reopen()
        assert again.names() == ["a/y", "x"]
        assert again.spec("x").shape == (1, 8)
        assert again.committed() == {"draws": 8}

    # --- blobs ---

    def test_blobs_come_back_joined_and_replace_one_another(
        self, store: Store, reopen: Reopen
    ) -> None:
        store.create(spec("g/x", (1, 4), (1, 4)))
        values = ramp((2, 3))
        store.put_blob("g/x", "checkpoint-0", [b"old and longer than what follows"])
        store.put_blob("g/x", "checkpoint-0", [b"head", memoryview(values), b"", bytearray(b"end")])
        store.put_blob("g/x", "tail-1", [])
        wanted = b"head" + values.tobytes() + b"end"
        assert store.get_blob("g/x", "checkpoint-0") == wanted
        store.commit({"draws": 0})
        again = reopen()
        assert again.get_blob("g/x", "checkpoint-0") == wanted
        assert again.get_blob("g/x", "tail-1") == b""
        assert again.get_blob("g/x", "checkpoint-1") is None

    def test_blobs_are_no_part_of_their_array(self, store: Store, reopen: Reopen) -> None:
        store.create(spec("g/x", (2, 4), (1, 2)))
        store.create(spec("scalar", (), ()))
        store.write("g/x", (0, 0), ramp((2, 8)))
        for name in ("g/x", "scalar"):
            store.put_blob(name, "checkpoint-0", [b"state"])
        store.resize("g/x", (2, 2))  # removes chunks, and nothing else
        store.commit({"draws": 2})
        again = reopen()
        assert again.names() == ["g/x", "scalar"]
        assert again.attrs("g/x") == {}
        assert_same_bits(again.read("g/x"), ramp((2, 8))[:, :2])
        assert again.get_blob("g/x", "checkpoint-0") == b"state"

    def test_blobs_outlive_sealing(self, store: Store, reopen: Reopen) -> None:
        store.create(spec("x", (1, 4), (1, 4)))
        store.put_blob("x", "checkpoint-0", [b"first"])
        store.commit({"draws": 4})
        store.seal()
        assert store.get_blob("x", "checkpoint-0") == b"first"
        store.put_blob("x", "checkpoint-0", [b"second"])
        store.commit({"draws": 4})
        store.seal()
        assert reopen().get_blob("x", "checkpoint-0") == b"second"

    def test_a_blob_can_be_removed(self, store: Store, reopen: Reopen) -> None:
        store.create(spec("x", (1, 4), (1, 4)))
        for key in ("tail-0", "tail-1"):
            store.put_blob("x", key, [b"rows"])
        store.delete_blob("x", "tail-0")
        store.delete_blob("x", "checkpoint-0")
        assert store.get_blob("x", "tail-0") is None
        again = reopen()
        assert again.get_blob("x", "tail-0") is None
        assert again.get_blob("x", "tail-1") == b"rows"
        assert again.names() == ["x"]

    def test_a_blob_needs_an_array(self, store: Store) -> None:
        store.create(spec("g/x", (1, 4), (1, 4)))
        for name in ("g/y", "g"):
            with pytest.raises(MissingError, match="g/x"):
                store.put_blob(name, "checkpoint-0", [b"state"])

    def test_other_keys_are_refused(self, store: Store) -> None:
        store.create(spec("x", (1, 4), (1, 4)))
        paths = ("", "c", "0", "zarr.json", "../x-0", "a/b-0")
        for key in (*paths, "A-0", "a_b-0", "a-0\n", "claim-1"):
            with pytest.raises(ValueError, match="is no key of a blob"):
                store.put_blob("x", key, [b"state"])
            with pytest.raises(ValueError, match="is no key of a blob"):
                store.get_blob("x", key)

    def test_a_lease_is_some_seconds_or_none(self, store: Store) -> None:
        assert store.lease_s is None or store.lease_s >= 1

    # --- closing ---

    def test_it_can_be_closed_twice(self, store: Store) -> None:
        store.close()
        store.close()

    # --- labels and readers ---

    def test_labels_come_back_and_are_no_array(self, store: Store, reopen: Reopen) -> None:
        store.create(spec("g/x", (1, 2), (1, 2)))
        store.create_labels("g/city", ["Zürich", "", "尺寸 🙂", "a" * 1000])
        store.create_labels("g/none", [])
        with pytest.raises(ExistsError, match="'g/x'"):
            store.create_labels("g/x", ["a"])
        with pytest.raises(ExistsError, match="'g/city'"):
            store.create_labels("g/city", ["a"])
        again = reopen()
        assert again.labels("g/city") == ["Zürich", "", "尺寸 🙂", "a" * 1000]
        assert again.labels("g/none") == []
        assert again.names() == ["g/x"]
        for other in ("g/x", "g", "nothing"):
            assert again.labels(other) is None

    def test_a_reader_reads_when_the_writer_is_closed(self, store: Store) -> None:
        store.create(spec("g/x", (1, 4), (1, 4)))
        store.write("g/x", (0, 0), ramp((1, 4)))
        store.commit({"draws": 4})
        store.seal()
        reader = store.reader()
        store.close()
        assert reader.committed() == {"draws": 4}
        assert_same_bits(reader.read("g/x"), ramp((1, 4)))
        reader.close()
