"""`jaxstore plot`, as a user types it, and what is in its pictures."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from commands import MAGIC, make_named_run, make_run, run_cli, size_of, told

import jaxstore as js


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_named_run(tmp_path_factory.mktemp("run") / "run.zarr")


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

    def test_what_is_no_run_is_told_with_who_opens_it(self, tmp_path: Path) -> None:
        with js.ZarrStorage(1, 4, tmp_path / "a.zarr") as storage:
            storage.store(0.0, np.zeros((2, 3)), 0)
        message = told(run_cli("plot", tmp_path / "a.zarr", "-o", tmp_path / "a.png"))
        assert "a.zarr is not a jaxstore run" in message
        assert "jaxstore.open_storage" in message
        assert not (tmp_path / "a.png").exists()
