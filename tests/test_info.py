"""`jaxstore info`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import make_named_run, make_run, run_cli, told

import jaxstore as js
from jaxstore.saving.layout import layout_of, manifest_of
from jaxstore.stores.run_format import MANIFEST
from jaxstore.stores.zarr3 import ZarrStore


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_named_run(tmp_path_factory.mktemp("run") / "run.zarr")


class TestInfo:
    def test_a_run_in_words(self, run_path: Path) -> None:
        out = run_cli("info", run_path).stdout
        assert f"run at {run_path}" in out
        assert "complete, 3 chains of 100 draws" in out
        assert "by me" in out
        assert "length 100" in out
        assert "3 x 100 x 4" in out
        assert "chain, draw, site" in out
        assert "KiB on disk" in out
        assert "numpy" in out

    @pytest.mark.parametrize("kind", ["zarr", "hdf5"])
    def test_a_run_for_machines(self, kind: str, run_path: Path, tmp_path: Path) -> None:
        path = run_path
        if kind == "hdf5":
            path = tmp_path / "run.h5"
            make_run(js.HDF5Collector(path))
        facts = json.loads(run_cli("info", path, "--json").stdout)
        assert facts["kind"] == "run"
        assert facts["state"] == "complete"
        assert facts["draws"] == [100, 100, 100]
        assert facts["last_step"] == 99
        assert facts["groups"] == ["samples"]
        names = [array["name"] for array in facts["arrays"]]
        assert names == [f"samples/{name}" for name in ("a/b", "a/z", "c", "key", "n")]
        shapes = [array["shape"] for array in facts["arrays"]]
        assert shapes == [[3, 100, 4], [3, 100], [3, 100], [3, 100], [3, 100]]
        assert all(min(array["chunks"]) >= 1 for array in facts["arrays"])
        files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
        assert facts["disk_bytes"] == sum(f.stat().st_size for f in files)

    def test_a_run_that_stopped_says_up_to_which_step(self, tmp_path: Path) -> None:
        path = tmp_path / "run.zarr"

        def fail(i: Any) -> None:
            if i >= 30:
                raise OSError(28, "No space left on device")

        def step(x: Any, i: Any) -> tuple[Any, Any]:
            jax.debug.callback(fail, i)
            return x + 1, {"x": x}

        with pytest.raises(jax.errors.JaxRuntimeError), js.ZarrCollector(path) as collector:
            js.scan(step, 0.0, jnp.arange(100), collector=collector, buffer_draws=10)
        out = run_cli("info", path).stdout
        assert "interrupted, 1 chain of" in out
        assert " of 100" in out

    @pytest.mark.parametrize("kind", ["zarr", "hdf5", "npz"])
    def test_a_storage(self, kind: str, tmp_path: Path) -> None:
        from jaxstore.saving import storages

        path = tmp_path / {"zarr": "p.zarr", "hdf5": "p.h5", "npz": "p.npz"}[kind]
        made: Any
        if kind == "npz":
            made = storages.NumpyStorage(2, path)
        else:
            made = {"zarr": storages.ZarrStorage, "hdf5": storages.HDF5Storage}[kind](2, 4, path)
        with made as storage:
            for i in range(21):
                storage.store(0.1 * i, np.full((2, 5), i), i)
        out = run_cli("info", path).stdout
        assert f"storage at {path}" in out
        assert "complete, 11 snapshots" in out
        assert "0 to 2" in out
        if kind != "npz":
            assert "stride 2" in out
            assert "11 x 2 x 5" in out
        assert json.loads(run_cli("info", path, "--json").stdout)["snapshots"] == 11

    def test_an_empty_storage(self, tmp_path: Path) -> None:
        from jaxstore.saving import storages

        storages.ZarrStorage(2, 4, tmp_path / "p.zarr").close()
        assert "0 snapshots" in run_cli("info", tmp_path / "p.zarr").stdout

    def test_what_is_no_run_is_told_apart(self, tmp_path: Path) -> None:
        assert "nothing is there" in told(run_cli("info", tmp_path / "absent"))
        (tmp_path / "a.txt").write_text("words")
        assert "zarr.json" in told(run_cli("info", tmp_path))
        assert "neither an HDF5 file nor" in told(run_cli("info", tmp_path / "a.txt"))
        (tmp_path / "a.npz").write_text("words")
        assert "a.npz is no npz file" in told(run_cli("info", tmp_path / "a.npz"))
        zarr = pytest.importorskip("zarr")
        group = zarr.open_group(tmp_path / "other.zarr", mode="w")
        group.attrs["jaxstore"] = {"kind": "of another time"}
        assert "neither a jaxstore run nor" in told(run_cli("info", tmp_path / "other.zarr"))

    @pytest.mark.parametrize("has_manifest", [False, True])
    @pytest.mark.parametrize("command", ["info", "verify", "watch"])
    def test_a_run_that_was_killed_before_its_first_commit_is_no_damage(
        self, command: str, *, has_manifest: bool, tmp_path: Path
    ) -> None:
        store = ZarrStore.new(str(tmp_path / "run.zarr"))
        if has_manifest:
            layout = layout_of({"x": 0.0}, group="samples", dims={})
            manifest = manifest_of(layout, settings={}, created_at="2026-01-01T00:00:00+00:00")
            store.set_attrs({MANIFEST: manifest})
        store.close()
        message = told(run_cli(command, tmp_path / "run.zarr"))
        assert "run.zarr holds no run yet: nothing was committed" in message
        assert "run it again with resume=True" in message


class TestPlaces:
    """What is no run, storage or result, and what holds several of them."""

    def test_arrays_are_told_as_a_loader_finds_them(self, tmp_path: Path) -> None:
        zarr, h5py = pytest.importorskip("zarr"), pytest.importorskip("h5py")
        values = np.arange(12.0).reshape(6, 2)
        group = zarr.open_group(tmp_path / "a.zarr", mode="w")
        group.create_array("deep/x", data=values, chunks=(4, 2), dimension_names=("row", None))
        text = np.array(["a", "b"], dtype=np.dtypes.StringDType())
        group.create_array("site", data=text, dimension_names=("site",))
        zarr.create_array(
            store=str(tmp_path / "v2.zarr"), data=values, chunks=(4, 2), zarr_format=2
        )
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("deep/x", data=values)
            file["words"] = ["a", "b"]
        np.savez(tmp_path / "a.npz", x=values)
        out = run_cli("info", tmp_path / "a.zarr").stdout
        assert f"arrays at {tmp_path / 'a.zarr'}\n" in out
        assert "deep/x  6 x 2  float64  4 x 2   row, dim_1" in out
        assert "site    2      text" in out
        for name in ("a.zarr", "a.h5", "a.npz"):
            facts = json.loads(run_cli("info", tmp_path / name, "--json").stdout)
            assert facts["kind"] == "arrays"
            assert (facts["arrays"][0]["shape"], facts["arrays"][0]["dtype"]) == ([6, 2], "float64")
            assert facts["decoded_bytes"] == 96
            assert facts["disk_bytes"] > 96
        assert "words" in run_cli("info", tmp_path / "a.h5").stdout
        assert "6 x 2  float64  4 x 2" in run_cli("info", tmp_path / "v2.zarr").stdout

    def test_results_are_found_at_any_depth(self, tmp_path: Path) -> None:
        h5py = pytest.importorskip("h5py")
        path = tmp_path / "data.h5"
        with h5py.File(path, "w") as file:
            file["scan/1/raw"] = np.eye(4, dtype="f4")

        def peak(x: Any) -> Any:
            return {"amp": x.max()}

        result = js.process(peak, f"{path}:/scan/1/raw", progress=False)
        deep = js.process(peak, f"{path}:/scan/1/raw", f"{path}:/deep/er", progress=False)
        out = run_cli("info", path).stdout
        assert f"arrays and results at {path}" in out
        assert "scan/1/raw  4 x 4" in out
        for one in (result, deep):
            assert f"result at {one.location}\n" in out
        facts = json.loads(run_cli("info", path, "--json").stdout)
        assert [len(facts["results"]), len(facts["arrays"])] == [2, 1]
        assert "2 arrays, 2 chunks" in run_cli("verify", path).stdout
        alone = run_cli("info", result.location).stdout
        assert alone.startswith(f"result at {result.location}\n")

    def test_a_run_with_results_is_told_and_verified_with_them(self, tmp_path: Path) -> None:
        path = tmp_path / "run.zarr"
        make_run(js.ZarrCollector(path))
        js.process(lambda x: {"top": x.max()}, f"{path}:/samples/n", name="top", progress=False)
        out = run_cli("info", path).stdout
        assert f"run at {path}" in out
        assert f"result at {path}/samples/n-top_000" in out
        assert "7 arrays" in run_cli("verify", path).stdout
        (chunk,) = path.glob("samples/n-top_000/top/c/0")
        chunk.unlink()
        assert run_cli("verify", path).exit_code == 1

    def test_a_folder_lists_what_is_in_it_a_line_each(self, tmp_path: Path) -> None:
        make_run(js.ZarrCollector(tmp_path / "run.zarr"))
        np.savez(tmp_path / "a.npz", x=np.zeros(3), y=np.zeros(4))
        (tmp_path / "torn.h5").write_text("words")
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / "empty").mkdir()
        lines = run_cli("info", tmp_path).stdout.splitlines()
        assert lines[0] == f"folder {tmp_path}"
        assert lines[1].startswith("  a.npz  2 arrays, 56 B decoded, ")
        assert lines[2].startswith("  run.zarr  run, complete, 3 chains of 100 draws, ")
        assert lines[3].startswith("  torn.h5  ")
        assert "neither an HDF5 file" in lines[3]
        assert len(lines) == 4
        facts = json.loads(run_cli("info", tmp_path, "--json").stdout)
        assert [one["kind"] for one in facts["contents"]] == ["arrays", "run", "unreadable"]
        assert "nothing is there" in told(run_cli("info", tmp_path / "empty"))
