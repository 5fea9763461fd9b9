from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxstore.errors import FormatError
from jaxstore.stores.plain_files import ANY_BYTES, PlainFiles


def test_a_file_is_read_and_an_absent_one_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"xyz")
    files = PlainFiles(str(tmp_path))
    assert files.read("a/b", 3) == b"xyz"
    assert [files.read(key, 3) for key in ("a/c", "c/d", "a/b/c")] == [None, None, None]
    with pytest.raises(FormatError, match="'a/b' in .* has 3 bytes, it should have 2 at most"):
        files.read("a/b", 2)


def test_a_folder_that_appears_later_is_seen(tmp_path: Path) -> None:
    files = PlainFiles(str(tmp_path))
    assert files.read("a/b", ANY_BYTES) is None
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"x")
    assert files.read("a/b", ANY_BYTES) == b"x"


def test_errors_of_the_system_pass(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File name too long"):
        PlainFiles(str(tmp_path)).read("x" * 300, ANY_BYTES)


def test_a_file_is_read_into_parts_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abcde")
    files = PlainFiles(str(tmp_path))
    parts = [np.zeros(3, np.uint8), np.zeros(2, np.uint8)]
    asked: list[int] = []
    assert files.read_into("a", lambda n: asked.append(n) or parts) == 5  # type: ignore[func-returns-value]
    assert (asked, b"".join(parts)) == ([5], b"abcde")
    assert files.read_into("b", lambda n: parts) is None


def test_a_file_that_is_cut_while_it_is_read_is_no_short_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abcde")
    part = np.zeros(5, np.uint8)

    def cut(n_bytes: int) -> list[np.ndarray]:
        (tmp_path / "a").write_bytes(b"abc")
        return [part]

    with pytest.raises(FormatError, match="'a' in .* was cut short"):
        PlainFiles(str(tmp_path)).read_into("a", cut)
