from __future__ import annotations

from pathlib import Path

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
