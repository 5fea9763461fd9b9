"""Stores made to harm who reads them: each ends in an error of ours, and takes little memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from arrays import ramp, spec
from numcodecs import blosc

from jaxstore.errors import FormatError
from jaxstore.stores.zarr3 import ZarrStore

MOST_MB = 300
# Reads each store as far as it goes; prints the error and how much memory it took.
READ = """
import resource, sys
from jaxstore.errors import FormatError, TooLargeError
from jaxstore.stores.zarr3 import ZarrStore
for line in open("/proc/self/status"):
    if line.startswith("VmSize"):
        used = int(line.split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + (MOST_MB << 20),) * 2)
for path in sys.argv[1:]:
    try:
        store = ZarrStore.open(path)
        for name in store.names():
            store.spec(name)
            store.read(name)
        print("read")
    except (FormatError, TooLargeError) as error:
        print(type(error).__name__, str(error)[:300])
"""


def document(folder: Path, **fields: Any) -> None:
    """Replace fields of the array's document, which is a foreign one then."""
    path = folder / "x/zarr.json"
    found = json.loads(path.read_text())
    found["attributes"].pop("jaxstore_checksum")
    path.write_text(json.dumps({**found, **fields}))


def grid(*chunks: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": chunks}}


def chunk(folder: Path, data: bytes) -> None:
    document(folder, codecs=json.loads((folder / "x/zarr.json").read_text())["codecs"][:2])
    (folder / "x/c/0/0").write_bytes(data)


def bomb() -> bytes:
    """A Blosc chunk that says that it is 1 GB; 64 bytes are asked for."""
    packed = bytearray(blosc.compress(bytes(1 << 20), b"zstd", 1, 1))
    packed = packed[:76]
    packed[4:8], packed[12:16] = (1 << 30).to_bytes(4, "little"), (76).to_bytes(4, "little")
    return bytes(packed)


def deep(folder: Path, attributes: str) -> None:
    text = f'{{"zarr_format": 3, "node_type": "group", "attributes": {attributes}}}'
    (folder / "zarr.json").write_text(text)


def sparse(path: Path, n_bytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(n_bytes)


CORPUS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a shape of 2^45": (lambda p: document(p, shape=[1, 2**45]), "TooLargeError .*'x' in .* part"),
    "2^45 chunks": (
        lambda p: document(p, shape=[2**45, 0], chunk_grid=grid(1, 1)),
        "read",
    ),
    "a chunk of 2^40": (
        lambda p: document(p, chunk_grid=grid(1, 2**40)),
        "FormatError 'x' declares chunks",
    ),
    "shards of 2^40": (
        lambda p: document(
            p,
            chunk_grid=grid(1, 2**40),
            codecs=[
                {
                    "name": "sharding_indexed",
                    "configuration": {"chunk_shape": [1, 2**40], "codecs": [{"name": "bytes"}]},
                }
            ],
        ),
        "FormatError 'x' declares chunks",
    ),
    "a negative shape": (lambda p: document(p, shape=[1, -16]), "FormatError .*'x'.*its shape"),
    "a shape of text": (lambda p: document(p, shape="16"), "FormatError .*'x'.*its shape"),
    "another rank": (lambda p: document(p, shape=[16]), "FormatError .*its chunk_shape"),
    "no codecs": (lambda p: document(p, codecs=None), "FormatError .*its codecs"),
    "a codec of nobody": (lambda p: document(p, codecs=[{"name": "evil"}]), "FormatError .*'x'"),
    "a dtype of nobody": (lambda p: document(p, data_type="object"), "FormatError dtype 'object'"),
    "a bomb": (lambda p: chunk(p, bomb()), r"FormatError .*chunk \(0, 0\) is damaged: it holds"),
    "a chunk of 1 TB": (
        lambda p: sparse(p / "x/c/0/0", 1 << 40),
        r"FormatError .*chunk \(0, 0\) is damaged: .* has 1,099,511,627,776 bytes",
    ),
    "a document of 1 TB": (
        lambda p: sparse(p / "x/zarr.json", 1 << 40),
        r"FormatError 'x/zarr.json' in .* has 1,099,511,627,776 bytes",
    ),
    "a huge attribute": (
        lambda p: deep(p, json.dumps({"a": "x" * (80 << 20)})),
        "FormatError 'zarr.json' in .* bytes",
    ),
    "JSON too deep to parse": (
        lambda p: deep(p, '{"a": ' + "[" * 400_000),
        "FormatError .*zarr.json of 'the root' cannot be read",
    ),
    "JSON too deep to trust": (
        lambda p: deep(p, '{"a": ' + "[" * 300 + "]" * 300 + "}"),
        "FormatError .*'the root' cannot be read: .* 200 deep",
    ),
    "a number too long": (lambda p: deep(p, '{"a": ' + "1" * 10_000 + "}"), "FormatError .*root"),
    "a pipe": (
        lambda p: ((p / "x/c/0/0").unlink(), os.mkfifo(p / "x/c/0/0")),
        "FormatError .*is no file",
    ),
    "a folder": (
        lambda p: ((p / "x/c/0/0").unlink(), (p / "x/c/0/0").mkdir()),
        "FormatError .*is no file",
    ),
}


def make(folder: Path) -> ZarrStore:
    store = ZarrStore.new(folder)
    store.create(spec("x", (1, 16), (1, 16)))
    store.write("x", (0, 0), ramp((1, 16)))
    store.close()
    return store


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="limits memory as Linux does")
def test_each_hostile_store_ends_in_our_error_and_takes_little_memory(tmp_path: Path) -> None:
    paths = []
    for i, (spoil, _) in enumerate(CORPUS.values()):
        make(tmp_path / str(i))
        spoil(tmp_path / str(i))
        paths.append(str(tmp_path / str(i)))
    code = READ.replace("MOST_MB", str(MOST_MB))
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (title, (_, wanted)), line in zip(CORPUS.items(), done.stdout.splitlines(), strict=True):
        assert re.match(wanted, line), f"{title}: {line}"


# --- what leads elsewhere ---


@pytest.mark.parametrize("link", ["zarr.json", "x/zarr.json", "x/c/0/0", "x/c/0", "x/c", "x"])
def test_links_out_of_a_store_are_not_followed(tmp_path: Path, link: str) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / link).rename(tmp_path / "elsewhere")
    (tmp_path / "a" / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FormatError, match=f"'{link}' in .* is a link to another place"):
        ZarrStore.open(tmp_path / "a").read("x")


def test_damage_names_a_chunk_that_is_a_link(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a/x/c/0/0").rename(tmp_path / "elsewhere")
    (tmp_path / "a/x/c/0/0").symlink_to(tmp_path / "elsewhere")
    (damage,) = ZarrStore.open(tmp_path / "a").damage("x", ())
    assert "chunk (0, 0) is damaged" in damage
    assert "a link to another place" in damage


def test_a_store_may_be_reached_over_a_link(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert ZarrStore.open(tmp_path / "b").read("x").shape == (1, 16)


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "a/../x", "/x", "x/", "x//c", "./x", "x\\c", "zarr.json", "x\0", "x" * 300],
)
def test_names_that_lead_elsewhere_are_not_read(tmp_path: Path, name: str) -> None:
    make(tmp_path / "x")  # so that ../x is there
    make(tmp_path / "a")
    store = ZarrStore.open(tmp_path / "a")
    for read in (store.read, store.spec, store.attrs, store.labels):
        with pytest.raises(FormatError, match="is no name in a store") as caught:
            read(name)
        assert repr(name) in str(caught.value)
