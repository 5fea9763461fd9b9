"""The commands `jaxstore demo`, `info`, `verify`, `watch`, `plot` and `convert`.

Owned here: arguments, and errors as one line on stderr. What the commands do is in `face`, and is
imported when it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jaxstore.errors import JaxstoreError
from jaxstore.saving.layout import versions

app = typer.Typer(
    help="Sampling and storage for JAX: make runs, and see what lies on disk.",
    epilog="Commands end with 0 if all is well, 1 after an error or if something is damaged, "
    "2 for a command that is no command, 130 after Ctrl-C.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# What may be missing, and the extra that brings it.
EXTRAS = {
    "blackjax": "demo", "sklearn": "demo", "arviz": "demo", "xarray": "demo", "flax": "demo",
    "optax": "demo", "matplotlib": "analysis",
}  # fmt: skip
RunPath = Annotated[str, typer.Argument(metavar="PATH", help="Path or URL, Zarr or HDF5.")]


@contextmanager
def errors_told(
    interrupted: str = "interrupted; draws that were committed stay readable",
) -> Iterator[None]:
    """Tell an error that a user can act on, and end with code 1; 130 after Ctrl-C."""
    try:
        yield
    except (JaxstoreError, OSError, MemoryError, ModuleNotFoundError) as error:
        typer.echo(f"jaxstore: {message_of(error)}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo(f"jaxstore: {interrupted}", err=True)
        raise typer.Exit(130) from None


def message_of(error: Exception) -> str:
    """An error as a user reads it; a missing extra as the command that installs it.

    Raises:
        ModuleNotFoundError: A module is missing that no extra brings; this is a bug.
    """
    if not isinstance(error, ModuleNotFoundError):
        return str(error) or type(error).__name__
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        raise error
    return f"this needs {module}. Install it with: pip install 'jaxstore[{EXTRAS[module]}]'"


def tell_version(is_wanted: bool) -> None:  # noqa: FBT001 -- typer calls it so
    """Print the version and end."""
    if is_wanted:
        typer.echo(f"jaxstore {versions().get('jaxstore', 'of a source tree')}")
        raise typer.Exit


@app.callback()
def main(
    *,
    is_version_wanted: Annotated[
        bool,
        typer.Option("--version", callback=tell_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Sampling and storage for JAX: make runs, and see what lies on disk."""


@app.command(epilog="Example: jaxstore demo --dir /tmp/demo")
def demo(
    *,
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the stores and pictures go.")
    ] = Path("jaxstore-demo"),
    is_fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew; removes what an earlier demo made there.")
    ] = False,
) -> None:
    """Save, process and load on real data: sample a posterior, predict from it, learn from it.

    Takes about a minute and needs no network. Stop it whenever you like: the same command goes on.
    """
    with errors_told("interrupted; the same command goes on from here"):
        from jaxstore.face.demo import run_demo

        run_demo(directory, is_fresh=is_fresh)


@app.command(epilog="Example: jaxstore info run.zarr")
def info(
    path: RunPath,
    *,
    is_json: Annotated[bool, typer.Option("--json", help="As JSON, for machines.")] = False,
) -> None:
    """Tell what a path holds, how far it is, how big, and from which settings."""
    with errors_told():
        from jaxstore.face.facts import facts_of, text_of

        facts = facts_of(path)
        typer.echo(json.dumps(facts, indent=2) if is_json else text_of(facts))
        if facts.get("damage"):
            raise typer.Exit(1)


@app.command(epilog="Example: jaxstore verify run.zarr --json")
def verify(
    path: RunPath,
    *,
    is_json: Annotated[bool, typer.Option("--json", help="As JSON, for machines.")] = False,
) -> None:
    """Read every committed chunk and tell which are damaged; ends with 1 if any is."""
    with errors_told():
        from jaxstore.face.checking import verify_path

        report = verify_path(path)
        typer.echo(json.dumps(report.to_json(), indent=2) if is_json else str(report))
        if not report.is_sound:
            raise typer.Exit(1)


@app.command(epilog="Example: jaxstore watch run.zarr --every 5")
def watch(
    path: RunPath,
    *,
    every_s: Annotated[
        float, typer.Option("--every", min=0.05, help="Seconds between two looks.")
    ] = 1.0,
    is_once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    is_json: Annotated[
        bool, typer.Option("--json", help="A JSON object per look, for machines.")
    ] = False,
) -> None:
    """Follow a run until it ends: how far, how fast, R-hat and ESS so far. Disturbs no writer."""
    with errors_told("stopped watching; the run goes on"):
        from jaxstore.face.watch import watch

        watch(path, every_s=every_s, is_once=is_once, is_json=is_json)


@app.command(epilog="Example: jaxstore plot run.zarr --var beta -o beta.png")
def plot(
    path: RunPath,
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The PNG; else NAME.png, here.")
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option("--var", help="A leaf to show; may be repeated.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Group to show; else posterior, or the first.")
    ] = None,
    max_vars: Annotated[int, typer.Option(min=1, help="Rows at most.")] = 8,
) -> None:
    """Draw traces and marginals of a run, a row per component, as a PNG."""
    with errors_told():
        from jaxstore.face.picture import draw_run, write_picture
        from jaxstore.saving.run import open_run

        with open_run(path) as run:
            figure = draw_run(run, names=names or (), group=group, max_vars=max_vars)
        target = output or Path(f"{Path(path.rstrip('/')).stem}.png")
        write_picture(figure, target)
        typer.echo(f"picture at {target}")


class Compression(StrEnum):
    """How chunks are packed."""

    zstd = "zstd"
    lz4 = "lz4"
    none = "none"


@app.command(epilog="Example: jaxstore convert run.zarr run.h5")
def convert(
    source: Annotated[str, typer.Argument(metavar="A", help="Path or URL: Zarr, HDF5 or npz.")],
    target: Annotated[
        str, typer.Argument(metavar="B", help="Where nothing is yet; .h5 gets HDF5, else Zarr.")
    ],
    *,
    compression: Annotated[Compression, typer.Option(help="Of chunks.")] = Compression.zstd,
    chunk_rows: Annotated[
        int | None,
        typer.Option(min=1, help="Draws of a run, or rows of arrays, per chunk; else as they are."),
    ] = None,
    is_json: Annotated[bool, typer.Option("--json", help="As JSON, for machines.")] = False,
) -> None:
    """Write a run, a storage, results or arrays in another format or in other chunks.

    Keeps every bit, attributes, checkpoints and marks: what was killed resumes from the copy too.
    Of a run that is being written, the copy holds what is committed. Storages go into .npz as well.
    """
    with errors_told("stopped; what was written of the target does not count"):
        from jaxstore.face.convert import convert

        packed = None if compression is Compression.none else compression.value
        done = convert(source, target, compression=packed, chunk_rows=chunk_rows)
        typer.echo(json.dumps(done.to_json(), indent=2) if is_json else str(done))
