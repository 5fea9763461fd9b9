"""The program as a whole, as a user types its commands."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commands import make_named_run, run_cli, told

import jaxstore as js
from jaxstore import cli
from jaxstore.face import screen
from jaxstore.sizes import size

COMMANDS = ("demo", "info", "verify", "watch", "plot", "convert")


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_named_run(tmp_path_factory.mktemp("run") / "run.zarr")


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

    @pytest.mark.parametrize("command", COMMANDS)
    def test_each_command_shows_an_example_that_is_one(self, command: str) -> None:
        words = " ".join(run_cli(command, "--help").stdout.split())
        example = re.search(rf"Example: jaxstore {command}([^│╰]*)", words)
        assert example, words
        # Of words that a command does not take, it says so with 2; all else is help.
        assert run_cli(command, *example[1].split(), "--help").exit_code == 0

    def test_the_help_tells_the_exit_codes(self) -> None:
        words = " ".join(run_cli("--help").stdout.split())
        assert "0 if all is well" in words
        assert "130 after Ctrl-C" in words
        assert run_cli("info").exit_code == 2
        assert run_cli("nothing").exit_code == 2
        assert run_cli("convert", "a", "b", "--compression", "zip").exit_code == 2


class TestConvert:
    def test_it_converts_and_tells_what(self, run_path: Path, tmp_path: Path) -> None:
        target = tmp_path / "run.h5"
        result = run_cli("convert", run_path, target, "--chunk-rows", "8", "--compression", "none")
        assert result.exit_code == 0, result.output
        assert re.fullmatch(
            rf"run at {target}: 6 arrays, [0-9.]+ KiB in [0-9.]+ s\n", result.stdout
        )
        assert "complete, 3 chains of 100 draws" in run_cli("info", target).stdout
        done = json.loads(run_cli("convert", target, tmp_path / "b.zarr", "--json").stdout)
        assert (done["kind"], done["arrays"], done["notes"]) == ("run", 6, [])
        assert done["target"] == str(tmp_path / "b.zarr")

    def test_what_fails_is_one_line(self, run_path: Path, tmp_path: Path) -> None:
        assert "nothing is there" in told(run_cli("convert", tmp_path / "a", tmp_path / "b"))
        assert "will not be overwritten" in told(run_cli("convert", run_path, tmp_path))
        assert "storages only" in told(run_cli("convert", run_path, tmp_path / "b.npz"))
        assert not list(tmp_path.iterdir())

    def test_a_terminal_sees_how_far_it_is(
        self, run_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(screen, "SHOW_EVERY_S", 0.0)
        js.convert(run_path, tmp_path / "quiet.h5", progress=False)
        assert stream.getvalue() == ""
        done = js.convert(run_path, tmp_path / "b.h5")
        shown = stream.getvalue()
        assert "converting █" in shown
        assert f"{size(done.n_bytes)} of {size(done.n_bytes)}" in shown
        assert shown.endswith("\x1b[1A\r\x1b[J")
