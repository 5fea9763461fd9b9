"""The README: its code runs, its commands have the agreed shape, its tests exist."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BEGIN = "python3 -m venv .uv && .uv/bin/pip install -q uv && .uv/bin/uv run "
TESTS = BEGIN + "pytest"
DEMO = BEGIN + "--no-dev --extra demo jaxstore demo"


def python_blocks() -> list[tuple[str, str]]:
    """Heading of level two, and code, of each block."""
    section, found = "", []
    for match in re.finditer(r"^## ([^\n]+)$|^```python\n(.*?)^```$", README, re.M | re.S):
        if match[1]:
            section = match[1]
        else:
            # The line numbers of the README, for tracebacks.
            line = README[: match.start(2)].count("\n")
            found.append((section, "\n" * line + match[2]))
    return found


# The blocks of a section share their names.
SECTIONS = {
    section: [code for _, code in blocks]
    for section, blocks in groupby(python_blocks(), key=lambda block: block[0])
}


# What a loader prints of itself, and a plan; the sizes at its end are those of one XLA.
DESCRIPTION, PLAN = re.findall(r"^```text\n(.*?)^```$", README, re.M | re.S)


def test_there_is_code_to_run() -> None:
    assert set(SECTIONS) == {"Save", "Load", "Process", "Extend"}
    assert DESCRIPTION


@pytest.mark.parametrize(
    ("section", "shown"),
    [
        ("Save", "theta[north]"),
        ("Load", DESCRIPTION),
        ("Process", PLAN.partition("  items")[0]),
        ("Extend", "0 [1.5]"),
        ("Extend", "\n9801.0"),
    ],
)
def test_the_code_runs(
    section: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("arviz")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in SECTIONS[section]:
        exec(compile(code, "README.md", "exec"), names)
    assert shown in capsys.readouterr().out


def test_the_commands_have_the_agreed_shape() -> None:
    commands = re.findall(r"^```sh\n(.*?)\n```$", README, re.M | re.S)
    assert commands == [DEMO, TESTS]
    assert f"`uv run {DEMO.removeprefix(BEGIN)}` and `uv run pytest`" in README


def test_the_ci_runs_the_test_command() -> None:
    assert TESTS in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("where", sorted(set(re.findall(r"`(tests/\w+\.py::\w+)`", README))))
def test_each_named_test_exists(where: str) -> None:
    path, _, name = where.partition("::")
    assert re.search(rf"^ *def {name}\(", (ROOT / path).read_text(), re.M)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:jaxstore|tests)/[\w/]+\.py)`", README)))
)
def test_each_named_file_exists(path: str) -> None:
    assert (ROOT / path).is_file()
