"""Commands for tests, as a user types them, and a run to give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from typer.testing import CliRunner, Result

import jaxstore as js
from jaxstore import cli

MAGIC = b"\x89PNG\r\n\x1a\n"


def run_cli(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def told(result: Result) -> str:
    """What a command that fails as it should says on stderr."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def size_of(png: Path) -> tuple[int, int]:
    head = png.read_bytes()[:24]
    assert head.startswith(MAGIC)
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def make_run(collector: Any, *, length: int = 100, **options: Any) -> None:
    def step(x: Any, _: Any) -> tuple[Any, Any]:
        x = 0.9 * x + jnp.sin(jnp.arange(3)[:, None] + 7 * x)
        n = jnp.round(x[:, 0]).astype(jnp.int32)
        sample = {"a": {"b": x, "z": x[:, 0] * 1j}, "n": n, "c": jnp.zeros(3, bool)}
        return x, {**sample, "key": jax.vmap(jax.random.key)(n)}

    x = jnp.ones((3, 4)) * jnp.arange(4)
    with collector:
        js.scan(step, x, length=length, chains=3, collector=collector, progress=False, **options)


def make_named_run(path: Path) -> Path:
    """A run with coordinates and settings."""
    coords = {"site": ["x", "y", "z", "w"]}
    make_run(js.ZarrCollector(path, dims={"a/b": ["site"]}, coords=coords, settings={"by": "me"}))
    return path
