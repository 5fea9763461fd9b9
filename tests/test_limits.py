from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from arrays import spec

from jaxstore.errors import TooLargeError
from jaxstore.stores import limits
from jaxstore.stores.zarr3 import ZarrStore


def test_what_fits_is_let_through_and_what_never_can_is_refused() -> None:
    most = limits.memory_bytes()
    assert 1 << 28 < most < 1 << 50
    limits.check_memory(most, "it")
    with pytest.raises(TooLargeError, match=r"'x': all takes .* bytes, there are .*Index a part"):
        limits.check_memory(most + 1, "'x': all")
    assert issubclass(TooLargeError, MemoryError)


@pytest.mark.parametrize(
    ("membership", "file", "text", "wanted"),
    [
        ("0::/a/b", "a/memory.max", "4096", [4096]),
        ("0::/a/b", "a/b/memory.max", "max", []),
        ("0::/on/the/host", "memory.max", "8192", [8192]),
        ("4:memory:/a", "memory/a/memory.limit_in_bytes", "4096", [4096]),
        ("4:memory:/a", "memory/memory.limit_in_bytes", "4096", [4096]),
        ("3:cpu:/a", "memory.max", "4096", []),
    ],
)
def test_the_limit_of_a_cgroup_counts(
    tmp_path: Path, membership: str, file: str, text: str, wanted: list[int]
) -> None:
    (tmp_path / "cgroup").write_text(f"{membership}\n")
    place = tmp_path / "mount" / file
    place.parent.mkdir(parents=True)
    place.write_text(f"{text}\n")
    assert limits._cgroup_limits(tmp_path / "cgroup", tmp_path / "mount") == wanted


def test_a_region_that_fits_is_read_out_of_an_array_that_does_not(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    store.create(spec("x", (2**45, 2), (4, 2)))
    store.write("x", (2**44, 0), np.ones((1, 2), "float32"))
    with pytest.raises(TooLargeError, match="'x' in .*Index a part"):
        store.read("x")
    assert store.read("x", (slice(2**44, 2**44 + 1),)).tolist() == [[1.0, 1.0]]
