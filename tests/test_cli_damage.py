"""`jaxstore verify`, and `jaxstore info` on what is damaged, as a user types them."""

import json
import re

import jax.numpy as jnp
import pytest
from hand_written import HandWritten
from storing import feed, make
from typer.testing import CliRunner

import jaxstore as js
from jaxstore import cli
from jaxstore.stores.memory import MemoryStore
from jaxstore.stores.run_format import MANIFEST


def run_cli(*words):
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.fixture
def path(tmp_path):
    with js.ZarrCollector(tmp_path / "run.zarr") as collector:
        js.scan(
            lambda x, _: (x + 1, {"x": x, "n": x[0]}), jnp.zeros(2), length=100,
            collector=collector, progress=False,
        )  # fmt: skip
    return tmp_path / "run.zarr"


def break_json(file):
    """Change one digit of a document, so that it is still JSON."""
    text = file.read_text()
    place = re.search(r'"chunk_shape": ?\[\s*\d', text) or re.search(r'"zarr_format": ?\d', text)
    file.write_text(text[: place.end() - 1] + "7" + text[place.end() :])


class TestVerify:
    def test_a_sound_run_ends_with_0_and_a_summary(self, path):
        result = run_cli("verify", path)
        assert result.exit_code == 0
        assert re.fullmatch(
            r".*run.zarr: all sound; 3 arrays, \d+ chunks, 2.0 KiB in \d+\.\d s\n", result.stdout
        )
        found = json.loads(run_cli("verify", path, "--json").stdout)
        assert (found["is_sound"], found["arrays"], found["damage"]) == (True, 3, [])

    def test_each_damage_is_a_line_and_ends_with_1(self, path):
        files = sorted(p for p in (path / "samples/x/c").rglob("*") if p.is_file())
        files[1].unlink()
        files[2].write_bytes(files[2].read_bytes()[:-3])
        result = run_cli("verify", path)
        assert result.exit_code == 1
        lines = result.stdout.splitlines()
        assert lines[0].startswith("samples/x: chunk (0, 1, 0) is ")
        assert lines[1].startswith("samples/x: chunk (0, 2, 0) is ")
        assert "2 damaged; 3 arrays" in lines[2]
        result = run_cli("verify", path, "--json")
        assert result.exit_code == 1
        assert [d["place"] for d in json.loads(result.stdout)["damage"]] == ["samples/x"] * 2

    @pytest.mark.parametrize("name", ["samples/x/zarr.json", "samples/zarr.json"])
    def test_damaged_documents_are_found(self, path, name):
        assert run_cli("verify", path).exit_code == 0
        break_json(path / name)
        result = run_cli("verify", path)
        assert result.exit_code == 1
        assert name.rpartition("/")[0] in result.stdout + result.stderr

    def test_a_storage(self, tmp_path):
        with make("zarr", tmp_path) as storage:
            feed(storage, range(9))
        assert "all sound; 2 arrays, 6 chunks" in run_cli("verify", tmp_path / "paths.zarr").stdout

    def test_what_is_no_run_is_one_line(self, tmp_path):
        result = run_cli("verify", tmp_path / "absent")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "nothing is there" in result.stderr

    def test_a_terminal_sees_how_far_it_is(self, path, monkeypatch):
        import io
        import sys

        from jaxstore.face import checking, screen

        class Terminal(io.StringIO):
            def isatty(self):
                return True

        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(screen, "SHOW_EVERY_S", 0.0)
        assert checking.verify_path(str(path)).is_sound
        shown = stream.getvalue()
        assert "KiB of 2.0 KiB" in shown or "B of 2.0 KiB" in shown
        assert shown.endswith("\x1b[1A\r\x1b[J")


class TestInfo:
    def test_a_damaged_array_is_told_among_the_sound_ones(self, path):
        break_json(path / "samples/x/zarr.json")
        result = run_cli("info", path)
        assert result.exit_code == 1
        assert "complete, 1 chain of 100 draws" in result.stdout
        assert re.search(r"samples/x +1 x 100 x 2 +float32 +damaged", result.stdout)
        assert re.search(r"samples/n +1 x 100 +float32 +1 x \d+ +chain, draw", result.stdout)
        assert f"jaxstore verify {path}" in result.stdout
        facts = json.loads(run_cli("info", path, "--json").stdout)
        assert len(facts["damage"]) == 1
        assert "damage" in facts["arrays"][1]

    def test_steps_that_cannot_be_read_are_told(self, path):
        last = max((path / "samples/iteration/c/0").iterdir(), key=lambda p: int(p.name))
        last.write_bytes(last.read_bytes()[:-1])
        result = run_cli("info", path)
        assert result.exit_code == 1
        assert "100 draws" in result.stdout
        assert "damaged    " in result.stdout
        assert "samples/iteration" in result.stdout

    def test_a_damaged_manifest_leaves_the_counts_and_the_arrays(self):
        from jaxstore.face.facts import facts_of_store, text_of

        run = HandWritten(MemoryStore())
        run.grow(5, 3)
        manifest = run.store.attrs()[MANIFEST]
        run.store.set_attrs({MANIFEST: {**manifest, "groups": []}})
        facts = facts_of_store("memory", run.store) | {"disk_bytes": None}
        text = text_of(facts)
        assert "damaged, last seen running, 2 chains of 3 to 5 draws" in text
        assert "samples/deep/key" in text
        assert "its checksum differs" in text

    def test_a_damaged_record_leaves_the_arrays(self):
        from jaxstore.face.facts import facts_of_store, text_of

        run = HandWritten(MemoryStore())
        run.grow(5, 3)
        run.store.commit({"draws": "many"})
        text = text_of(facts_of_store("memory", run.store) | {"disk_bytes": 7})
        assert "commit record of memory is damaged" in text
        assert "samples/x" in text
        assert "7 B on disk" in text
        assert "jaxstore verify memory" in text
