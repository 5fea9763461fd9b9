"""Benchmarks run from end to end, in sizes that prove nothing about speed."""

import doctest
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
ROWS = {
    "scan_memory", "scan_zarr", "triple", "chains", "big_draws", "checkpoints", "peers", "memory",
}  # fmt: skip
N_TARGETS = 20  # besides peers, of whom some may not be installed


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    pytest.importorskip("matplotlib")
    out, draws = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("draws")
    environment = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    script = BENCHMARKS / "saving.py"
    sizes = ["--quick", "--scale", "0.001"]
    subprocess.run(
        [sys.executable, script, *sizes, "--out", out, "--dir", draws],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert list(draws.iterdir()) == []
    return out


@pytest.fixture(scope="module")
def lines(results):
    text = (results / "saving.jsonl").read_text(encoding="utf-8")
    found = {"configuration": [], "timing": [], "figure": []}
    for line in text.splitlines():
        record = json.loads(line)
        found[record.pop("kind")].append(record)
    return found


def test_every_row_has_figures_and_they_are_numbers(lines):
    assert {figure["row"] for figure in lines["figure"]} == ROWS
    for figure in lines["figure"]:
        if figure["value"] is None:
            assert figure["verdict"] == "not measured"
            assert "not installed" in figure["against"]
        else:
            assert math.isfinite(figure["value"])


def test_every_target_is_judged(lines):
    judged = [f for f in lines["figure"] if f["target"] and f["row"] != "peers"]
    assert len(judged) == N_TARGETS
    assert all(f["verdict"] == "met" or f["verdict"].startswith("missed") for f in judged)
    assert sum(f["row"] == "peers" and f["target"] is not None for f in lines["figure"]) >= 3


def test_a_run_calls_the_host_no_more_often_than_it_flushes(lines):
    calls = [f for f in lines["figure"] if f["what"].startswith("host calls")]
    assert len(calls) == 2
    assert all(0 < f["value"] <= 1 for f in calls)


def test_the_lines_say_where_and_with_what_it_was_measured(lines):
    (configuration,) = lines["configuration"]
    assert configuration["rounds"] == 3
    assert configuration["sizes"]["n_chains"] == 64
    assert {"cpu", "cores", "file_system", "versions", "commit", "load"} <= set(configuration)
    assert all(len(t["wall_s"]) == 3 for t in lines["timing"] if "wall_s" in t)


def test_the_table_and_the_picture_show_the_same_figures(results, lines):
    table = (results / "saving.md").read_text(encoding="utf-8")
    assert all(f["what"] in table for f in lines["figure"])
    assert (results / "saving.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["timing", "figures", "table"])
def test_examples_in_docstrings_hold(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    assert doctest.testmod(importlib.import_module(name)).failed == 0
