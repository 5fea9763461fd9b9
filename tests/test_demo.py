"""The demo, as a newcomer meets it: run once, stopped in each part, and called again."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import jaxstore as js
from jaxstore import cli
from jaxstore.errors import ExistsError

for module in ("arviz", "blackjax", "flax", "matplotlib", "optax", "sklearn", "xarray"):
    pytest.importorskip(module)

from jaxstore.face import demo, demo_predictive, demo_surrogate  # noqa: E402
from jaxstore.face.demo_model import load_patients  # noqa: E402
from jaxstore.face.demo_places import Places, make_room, places_in  # noqa: E402
from jaxstore.face.demo_sampling import draws_in  # noqa: E402

SIZES = demo.Sizes(warm_up_steps=300, draws=1200, training_steps=1200)
PARTS = ("warm_up", "save", "process", "load")


def run_cli(*words: str | Path) -> Any:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def bits(places: Places) -> dict[str, Any]:
    """All that the stores hold, but when and by whom it was made."""
    found: dict[str, Any] = {}
    for path in (places.run, places.training):
        with js.open_run(path) as run:
            found |= {f"{path.name}/{leaf.name}": leaf[:].tobytes() for leaf in run.leaves}
            found[f"{path.name} steps"] = run.iteration.tobytes()
            assert run.state == "complete"
    for result in js.find(places.predictive):
        found |= {f"{result.name}/{name}": result[name][...].tobytes() for name in result}
        assert result.state == "complete"
    return found


def files_of(places: Places) -> dict[Path, bytes]:
    return {
        file: file.read_bytes()
        for store in places[:3]
        for file in store.rglob("*")
        if file.is_file() and file.name != "zarr.json"  # which tells who last opened it
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Places, str]:
    """The demo, run once; small, since most of its time goes to compiling."""
    directory = tmp_path_factory.mktemp("demo") / "jaxstore-demo"
    return places_in(directory), told(lambda: demo.run_demo(directory, is_fresh=False, sizes=SIZES))


def told(action: Callable[[], None]) -> str:
    """What an action prints."""
    from contextlib import redirect_stdout
    from io import StringIO

    with redirect_stdout(StringIO()) as out:
        action()
    return out.getvalue()


def test_it_ends_with_three_stores_their_pictures_and_a_summary(made: tuple[Places, str]) -> None:
    places, out = made
    assert {path.name for path in places.run.parent.iterdir()} == {path.name for path in places}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in places[3:])
    for words in (
        "shipped with scikit-learn",
        "r_hat",
        "beta[bmi]",
        "90 % interval",
        "network 0.9",
    ):
        assert words in out
    assert "complete already" not in out


def test_its_chains_agree_and_find_what_is_known(made: tuple[Places, str]) -> None:
    import arviz
    import xarray

    with xarray.open_datatree(made[0].run, engine="zarr") as tree:
        assert list(tree["posterior"].coords["feature"].values[2:4]) == ["bmi", "blood pressure"]
        table = arviz.summary(tree, round_to="none")
        assert not np.any(tree["sample_stats"]["diverging"])
    assert table["r_hat"].max() < 1.01
    assert table["ess_bulk"].min() > 400
    # As least squares has it, and Efron et al. (2004): these matter, age does not.
    assert table["mean"]["beta[bmi]"] == pytest.approx(0.32, abs=0.05)
    assert abs(table["mean"]["beta[age]"]) < 2 * table["sd"]["beta[age]"]


def test_its_intervals_are_those_of_the_new_outcomes(made: tuple[Places, str]) -> None:
    (new,), (checked,) = (
        js.find(made[0].predictive, name=name) for name in ("replicate", "interval")
    )
    y, patients = new["y"][:], load_patients()
    assert y.shape == (SIZES.draws, 4, 442)
    wanted = np.quantile(y.reshape(-1, 442), demo_predictive.INTERVAL, axis=0)
    for name, values in zip(("low", "middle", "high"), wanted, strict=True):
        np.testing.assert_allclose(checked[name][:], values, rtol=1e-4, atol=1e-4)
    is_inside = (checked["low"][:] <= patients.y) & (patients.y <= checked["high"][:])
    assert np.array_equal(checked["is_inside"][:], is_inside)
    assert 0.85 < is_inside.mean() < 0.97
    # The draw of another chain or number has other noise.
    assert len(np.unique(y[:, :, 0])) > 0.999 * y[:, :, 0].size


def test_its_network_beats_a_line_on_draws_it_never_saw(made: tuple[Places, str]) -> None:
    places = made[0]
    manifest = demo_surrogate.split_of(places.run)
    assert not set(manifest.chunks[js.SplitName.TRAIN]) & set(manifest.chunks[js.SplitName.VAL])
    held = demo_surrogate.hold_out(
        places.run, *demo_surrogate.train(places.run, places.training, steps=SIZES.training_steps)
    )
    with js.open_run(places.run) as run:
        lp = run.samples["sample_stats"]["lp"][:]
    assert np.array_equal(held.lp, lp.T[manifest.sample_indices("val")].ravel())
    assert demo_surrogate.r_squared(held, held.surrogate) > 0.95
    assert demo_surrogate.r_squared(held, held.linear) < 0.3


def test_a_complete_demo_says_so_and_computes_nothing(made: tuple[Places, str]) -> None:
    places, before = made
    files = files_of(places)
    out = told(lambda: demo.run_demo(places.run.parent, is_fresh=False, sizes=SIZES))
    assert out.count("are there already") == 3
    assert "complete already. Begin anew with" in out
    assert "--fresh" in out
    numbers = [
        line for line in before.splitlines() if "beta[" in line or "%" in line or "network" in line
    ]
    assert all(line in out for line in numbers)
    assert files_of(places) == files


def test_what_it_says_to_do_next_works(
    made: tuple[Places, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, _, after = made[1].partition("Next, in the shell:")
    shell, _, python = after.partition("and in Python:")
    # `uv run` may stand before them.
    lines = [line.partition("jaxstore ")[2] for line in shell.split("\n") if line.strip()]
    commands = [shlex.split(line) for line in lines]
    assert {words[0] for words in commands} == {"info", "verify", "watch", "plot"}
    for words in commands:
        done = run_cli(*words)
        assert done.exit_code == 0, done.output
    found: dict[str, Any] = {}
    exec("\n".join(line.strip() for line in python.splitlines()), found)
    assert found["beta"].shape == (4, 100, 10)
    assert found["batch"]["posterior/beta"].shape == (64, 4, 10)
    found["loader"].close()


def test_training_that_is_interrupted_goes_on_bit_for_bit(
    made: tuple[Places, str], tmp_path: Path
) -> None:
    steps, path = SIZES.training_steps, tmp_path / "training.zarr"
    with pytest.raises(KeyboardInterrupt), stopping("load", signal.SIGINT):
        demo_surrogate.train(made[0].run, path, steps=steps)
    with js.open_run(path) as run:
        assert 0 < run.sample_count[0] < steps
    demo_surrogate.train(made[0].run, path, steps=steps)
    with js.open_run(path) as run, js.open_run(made[0].training) as whole:
        assert np.array_equal(run.samples["loss"][:], whole.samples["loss"][:])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL], ids=str)
def test_a_demo_stopped_in_each_part_ends_as_one_that_was_not(
    kind: signal.Signals, made: tuple[Places, str], tmp_path: Path
) -> None:
    directory = tmp_path / "jaxstore-demo"
    path = os.pathsep.join([str(Path(js.__file__).parent.parent), *sys.path])
    for part in PARTS:
        command = [sys.executable, __file__, str(directory), part, str(int(kind))]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (130 if kind == signal.SIGINT else -kind), done.stderr
        if kind == signal.SIGINT:
            assert (
                done.stderr.strip() == "jaxstore: interrupted; the same command goes on from here"
            )
        words = {
            "process": "goes on: 500 of",
            "load": "1,200 draws of each chain are there already",
        }
        assert words.get(part, "1,200 draws of each chain ...") in done.stdout
    out = told(lambda: demo.run_demo(directory, is_fresh=False, sizes=SIZES))
    assert "goes on: " in out
    assert bits(places_in(directory)) == bits(made[0])


@pytest.mark.slow
def test_other_sizes_are_refused_with_the_way_to_begin_anew(made: tuple[Places, str]) -> None:
    files = files_of(made[0])
    sizes = demo.Sizes(warm_up_steps=300, draws=100, training_steps=1200)
    with pytest.raises(
        js.MismatchError, match="not shorter(.|\n)*To begin the demo anew: .* --fresh"
    ):
        demo.run_demo(made[0].run.parent, is_fresh=False, sizes=sizes)
    assert files_of(made[0]) == files


def test_a_foreign_picture_is_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    (tmp_path / "surrogate.png").write_text("mine")
    refused = run_cli("demo", "--dir", tmp_path)
    assert refused.exit_code == 1
    assert "jaxstore did not draw it" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["surrogate.png"]


@pytest.mark.parametrize("store", ["run", "predictive", "training"])
def test_fresh_removes_only_what_a_demo_made(
    store: str, made: tuple[Places, str], tmp_path: Path
) -> None:
    places = places_in(tmp_path / "jaxstore-demo")
    own: Path = getattr(places, store)

    def added() -> None:
        shutil.copytree(getattr(made[0], store), own)
        (own / "notes.txt").write_text("mine")

    def foreign() -> None:
        with js.ZarrCollector(own, settings={"made_by": "me"}) as collector:
            js.scan(lambda x, _: (x, {"loss": x}), 0.0, length=3, collector=collector)

    def results() -> None:
        js.process(lambda x: x, np.ones((3, 2), "f4"), own, name="interval", progress=False)

    def link() -> None:
        own.symlink_to(getattr(made[0], store))

    for make in (added, foreign, results, link, lambda: own.write_text("mine")):
        shutil.rmtree(places.run.parent, ignore_errors=True)
        places.run.parent.mkdir()
        others = [path for path in places[:3] if path != own]
        for path in others:
            shutil.copytree(getattr(made[0], path.stem), path)
        make()
        with pytest.raises(ExistsError, match="stays as it is"):
            make_room(places, is_fresh=True)
        assert all(path.exists() for path in places[:3])
    own.unlink()
    shutil.copytree(getattr(made[0], store), own)
    shutil.copy(made[0].posterior_png, places.posterior_png)
    (places.run.parent / "notes.txt").write_text("mine")
    make_room(places, is_fresh=False)
    assert own.exists()
    make_room(places, is_fresh=True)
    assert [path.name for path in places.run.parent.iterdir()] == ["notes.txt"]
    make_room(places, is_fresh=True)


@pytest.mark.parametrize("store", ["run.zarr", "predictive.zarr", "training.zarr"])
def test_a_store_that_was_only_begun_is_the_demos_own(store: str, tmp_path: Path) -> None:
    from jaxstore.stores.location import create_store

    create_store(tmp_path / store).close()
    make_room(places_in(tmp_path), is_fresh=False)
    assert draws_in(tmp_path / store) == 0
    make_room(places_in(tmp_path), is_fresh=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["flax", "optax", "blackjax", "sklearn", "arviz"])
def test_a_missing_module_is_named_with_the_extra_that_brings_it(module: str) -> None:
    message = cli.message_of(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert message == f"this needs {module}. Install it with: pip install 'jaxstore[demo]'"


class stopping:
    """Send this process a signal in the midst of a part of the demo, once."""

    def __init__(self, part: str, kind: int) -> None:
        from jaxstore.face import demo_sampling
        from jaxstore.saving.recording import Recording
        from jaxstore.stores.results_zarr import ZarrResult

        self._kind = kind
        self._owner, self._name, self._is_time = {
            "warm_up": (demo_sampling, "warm_up", lambda *_: True),
            "save": (Recording, "put_checkpoint", lambda _, point: point.step >= 500),
            "process": (ZarrResult, "mark", lambda *_: True),
            "load": (Recording, "put_checkpoint", lambda recording, point: (
                "training" in recording.place and point.step >= 500
            )),
        }[part]  # fmt: skip

    def __enter__(self) -> None:
        from jaxstore.saving import recorder

        self._share = recorder.CHECKPOINT_SHARE
        recorder.CHECKPOINT_SHARE = 1e9  # none is put off because it takes long
        original = self._original = getattr(self._owner, self._name)
        waiting = [self._kind]

        def stopped(*args: Any, **how: Any) -> Any:
            result = original(*args, **how)
            if waiting and self._is_time(*args):
                if hasattr(args[0], "flush"):
                    args[0].flush()  # so that the checkpoint is there
                os.kill(os.getpid(), waiting.pop())
            return result

        setattr(self._owner, self._name, stopped)

    def __exit__(self, *_: object) -> None:
        from jaxstore.saving import recorder

        setattr(self._owner, self._name, self._original)
        recorder.CHECKPOINT_SHARE = self._share


def main(directory: str, part: str, kind: str) -> None:
    """Run the demo until the signal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert demo.run_demo.__kwdefaults__ is not None
    demo.run_demo.__kwdefaults__["sizes"] = SIZES
    with stopping(part, int(kind)):
        cli.app(["demo", "--dir", directory])


if __name__ == "__main__":
    main(*sys.argv[1:])
