"""The commands, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

import jaxstore as js
from jaxstore import cli
from jaxstore.errors import ExistsError

MAGIC = b"\x89PNG\r\n\x1a\n"


def run_cli(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def told(result: Result) -> str:
    """What a command that fails as it should says on stderr."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def size_of(png: Path) -> tuple[int, int]:
    head = png.read_bytes()[:24]
    assert head.startswith(MAGIC)
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def make_run(collector: Any, *, length: int = 100, **options: Any) -> None:
    def step(x: Any, _: Any) -> tuple[Any, Any]:
        x = 0.9 * x + jnp.sin(jnp.arange(3)[:, None] + 7 * x)
        n = jnp.round(x[:, 0]).astype(jnp.int32)
        sample = {"a": {"b": x, "z": x[:, 0] * 1j}, "n": n, "c": jnp.zeros(3, bool)}
        return x, {**sample, "key": jax.vmap(jax.random.key)(n)}

    x = jnp.ones((3, 4)) * jnp.arange(4)
    with collector:
        js.scan(step, x, length=length, chains=3, collector=collector, progress=False, **options)


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    coords = {"site": ["x", "y", "z", "w"]}
    make_run(js.ZarrCollector(path, dims={"a/b": ["site"]}, coords=coords, settings={"by": "me"}))
    return path


class TestProgram:
    def test_it_tells_its_version_and_what_it_can(self) -> None:
        version = run_cli("--version")
        assert version.exit_code == 0
        assert version.stdout.startswith("jaxstore ")
        words = run_cli("--help").stdout
        assert all(command in words for command in ("demo", "info", "plot"))

    def test_it_loads_nothing_heavy_before_a_command_needs_it(self) -> None:
        code = "import sys, jaxstore.cli; print({'matplotlib', 'arviz', 'zarr'} & {*sys.modules})"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "set()"

    @pytest.mark.parametrize(
        ("command", "module", "extra"),
        [("demo", "blackjax", "demo"), ("plot", "matplotlib", "analysis")],
    )
    def test_a_missing_extra_is_named_with_its_install(
        self,
        command: str,
        module: str,
        extra: str,
        run_path: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name in [name for name in sys.modules if name.startswith("jaxstore.face")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, module, None)
        place = ("--dir", tmp_path / "d") if command == "demo" else (run_path,)
        message = told(run_cli(command, *place))
        assert f"this needs {module}" in message
        assert f"pip install 'jaxstore[{extra}]'" in message
        assert not list(tmp_path.iterdir())

    def test_a_missing_module_that_no_extra_brings_is_a_bug_and_raised(self) -> None:
        with pytest.raises(ModuleNotFoundError), cli.errors_told():
            raise ModuleNotFoundError("no", name="something")

    def test_ctrl_c_ends_with_130(self) -> None:
        with pytest.raises(typer.Exit) as caught, cli.errors_told():
            raise KeyboardInterrupt
        assert caught.value.exit_code == 130


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
        np.savez(tmp_path / "a.npz", x=1)
        assert "not an npz file with time" in told(run_cli("info", tmp_path / "a.npz"))
        zarr = pytest.importorskip("zarr")
        zarr.open_group(tmp_path / "other.zarr", mode="w")
        assert "neither a jaxstore run nor" in told(run_cli("info", tmp_path / "other.zarr"))


class TestPlot:
    @pytest.fixture(autouse=True)
    def _needs_matplotlib(self) -> None:
        pytest.importorskip("matplotlib")

    def test_a_picture_has_a_row_per_component(self, run_path: Path, tmp_path: Path) -> None:
        heights: list[int] = []
        for names in (["n"], ["n", "c"], ["a/b"]):
            png = tmp_path / f"{len(heights)}.png"
            words = [word for name in names for word in ("--var", name)]
            result = run_cli("plot", run_path, "-o", png, *words)
            assert result.stdout == f"picture at {png}\n"
            heights.append(size_of(png)[1])
        row = heights[1] - heights[0]
        assert heights[2] == pytest.approx(heights[0] + 3 * row, abs=3)

    def test_the_name_and_the_number_of_rows_have_defaults(
        self, run_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert run_cli("plot", run_path).stdout == "picture at run.png\n"
        assert run_cli("plot", run_path, "--max-vars", "2", "-o", "two.png").exit_code == 0
        assert size_of(tmp_path / "run.png")[1] > size_of(tmp_path / "two.png")[1]

    def test_only_our_own_pictures_are_replaced(self, run_path: Path, tmp_path: Path) -> None:
        mine = tmp_path / "mine.png"
        mine.write_bytes(MAGIC + b"a photograph")
        assert "jaxstore did not draw it" in told(run_cli("plot", run_path, "-o", mine))
        assert mine.read_bytes() == MAGIC + b"a photograph"
        for _ in range(2):
            assert run_cli("plot", run_path, "-o", tmp_path / "own.png").exit_code == 0
        assert {p.name for p in tmp_path.iterdir()} == {"mine.png", "own.png"}

    def test_names_that_are_not_there_are_answered_with_those_that_are(
        self, run_path: Path, tmp_path: Path
    ) -> None:
        png = tmp_path / "a.png"
        message = told(run_cli("plot", run_path, "-o", png, "--var", "beta"))
        assert "has no beta in 'samples'. Choose from a/b, a/z, c, n." in message
        message = told(run_cli("plot", run_path, "-o", png, "--group", "posterior"))
        assert "Choose one of samples" in message
        assert not png.exists()

    def test_a_missing_directory_is_one_line(self, run_path: Path, tmp_path: Path) -> None:
        assert "No such file" in told(run_cli("plot", run_path, "-o", tmp_path / "no" / "a.png"))

    def test_a_users_backend_and_figures_stay(self, run_path: Path, tmp_path: Path) -> None:
        import matplotlib

        from jaxstore.face.picture import draw_run, write_picture

        before = dict(matplotlib.rcParams)
        with js.open_run(run_path) as run:
            write_picture(draw_run(run), tmp_path / "a.png")
        assert dict(matplotlib.rcParams) == before

    def test_unequal_chains_end_where_they_end(self, tmp_path: Path) -> None:
        from jaxstore.face.picture import contents_of

        path = tmp_path / "run.zarr"
        stops = jnp.array([0, 60, 4000])
        make_run(js.ZarrCollector(path), length=4000, keep=lambda i: i < stops)
        with js.open_run(path) as run:
            contents = contents_of(run, names=["a/b", "n"], group=None, max_vars=3)
        assert [row.label for row in contents.rows] == ["a/b[0]", "a/b[1]", "a/b[2]"]
        assert [len(chain) for chain in contents.rows[0].chains] == [0, 60, 4000]
        assert all(np.isfinite(chain).all() for chain in contents.rows[0].chains)
        assert contents.title == "samples of run.zarr: 3 chains of 0 to 4,000 draws, complete"
        assert contents.note.startswith("3 of 5 components")
        assert "one draw of 3" in contents.note
        assert run_cli("plot", path, "-o", tmp_path / "a.png").exit_code == 0

    def test_components_carry_their_coordinates_and_complex_ones_their_size(
        self, run_path: Path
    ) -> None:
        from jaxstore.face.picture import contents_of

        with js.open_run(run_path) as run:
            contents = contents_of(run, names=(), group=None, max_vars=8)
        labels = ["a/b[x]", "a/b[y]", "a/b[z]", "a/b[w]", "|a/z|", "c", "n"]
        assert [row.label for row in contents.rows] == labels
        assert [row.is_whole for row in contents.rows] == [False] * 5 + [True] * 2
        assert contents.note == ""

    def test_a_density_has_area_one_and_stays_within_the_values(self) -> None:
        from jaxstore.face.curves import marginal

        values = np.random.default_rng(0).exponential(size=5000)
        curve = marginal(values, is_whole=False)
        assert curve is not None
        assert np.sum(curve.y) * (curve.x[1] - curve.x[0]) == pytest.approx(1)
        assert values.min() <= curve.x[0]
        assert curve.x[-1] <= values.max()
        assert curve.y[0] == pytest.approx(1, abs=0.15)  # not halved at the bound

    @pytest.mark.parametrize("values", [[], [np.nan], [1.0], [2.0, 2.0], [np.inf, np.inf]])
    def test_what_has_no_density_shows_none(self, values: list[float]) -> None:
        from jaxstore.face.curves import marginal

        assert marginal(np.array(values), is_whole=False) is None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The demo as it is, run once."""
    for module in ("arviz", "blackjax", "sklearn"):
        pytest.importorskip(module)
    directory = tmp_path_factory.mktemp("demo") / "jaxstore-demo"
    return directory, run_cli("demo", "--dir", directory)


class TestDemo:
    def test_it_ends_with_a_run_a_summary_and_a_picture(self, made: tuple[Path, Result]) -> None:
        directory, result = made
        assert result.exit_code == 0, result.output
        assert {p.name for p in directory.iterdir()} == {"run.zarr", "posterior.png"}
        assert "shipped with scikit-learn" in result.stdout
        assert "r_hat" in result.stdout
        assert "beta[bmi]" in result.stdout
        assert f"jaxstore info {directory}/run.zarr" in result.stdout
        width, height = size_of(directory / "posterior.png")
        assert width > 1200
        assert height > 2000

    def test_its_chains_agree_and_find_what_is_known(self, made: tuple[Path, Result]) -> None:
        import arviz
        import xarray

        with xarray.open_datatree(made[0] / "run.zarr", engine="zarr") as tree:
            assert list(tree["posterior"].coords["feature"].values[2:4]) == [
                "bmi",
                "blood pressure",
            ]
            table = arviz.summary(tree, round_to="none")
            assert not np.any(tree["sample_stats"]["diverging"])
        assert table["r_hat"].max() < 1.01
        assert table["ess_bulk"].min() > 400
        # As least squares has it, and Efron et al. (2004): these matter, age does not.
        assert table["mean"]["beta[bmi]"] == pytest.approx(0.32, abs=0.05)
        assert abs(table["mean"]["beta[age]"]) < 2 * table["sd"]["beta[age]"]

    def test_an_earlier_run_stays_unless_a_fresh_one_is_asked_for(
        self, made: tuple[Path, Result]
    ) -> None:
        message = told(run_cli("demo", "--dir", made[0]))
        assert "holds the run of an earlier demo" in message
        assert "--fresh" in message

    def test_a_foreign_picture_is_refused_before_anything_is_sampled(self, tmp_path: Path) -> None:
        pytest.importorskip("blackjax")
        (tmp_path / "posterior.png").write_text("mine")
        assert "jaxstore did not draw it" in told(run_cli("demo", "--dir", tmp_path))
        assert [p.name for p in tmp_path.iterdir()] == ["posterior.png"]

    def test_fresh_removes_only_what_a_demo_made(
        self, made: tuple[Path, Result], run_path: Path, tmp_path: Path
    ) -> None:
        import shutil

        from jaxstore.face.demo import make_room

        own = tmp_path / "own.zarr"
        shutil.copytree(made[0] / "run.zarr", own)
        added, other, file, link = (tmp_path / name for name in ("added", "other", "file", "link"))
        shutil.copytree(own, added)
        (added / "notes.txt").write_text("mine")
        shutil.copytree(run_path, other)
        file.write_text("mine")
        link.symlink_to(own)
        for path in (added, other, file, link):
            with pytest.raises(ExistsError, match="stays as it is"):
                make_room(path, is_fresh=True)
            assert path.exists()
        make_room(own, is_fresh=True)
        assert not own.exists()
        make_room(own, is_fresh=True)
