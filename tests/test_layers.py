"""Who may import whom, read from the source: what DESIGN.md section 3 draws."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent / "jaxstore"
MODULES = sorted(path.relative_to(ROOT.parent) for path in ROOT.rglob("*.py"))
WINGS = ("saving", "loading", "processing")
MAX_FILE_LINES = 350
MAX_BODY_LINES = 45
# From low to high; a module imports only from its own layer and those below.
LAYERS = (
    ("errors", "names", "tree", "topology", "fingerprint", "sizes", "card", "interrupt"),
    ("stores",),
    ("sources",),
    WINGS,
    ("face",),
    ("cli",),
    ("__main__",),
)
# Where a library may be imported, as prefixes of paths below jaxstore/.
BORDERS = {
    "h5py": ("stores/hdf5", "stores/results_hdf5", "sources/fetch"),
    "hdf5plugin": ("stores/hdf5",),
    "zarr": ("stores/zarr3", "stores/blobs", "sources/fetch"),
    "obstore": ("stores/blobs", "stores/zarr3", "sources/fetch"),
    "icechunk": ("stores/blobs_icechunk",),
    "mpi4py": ("topology", "processing/engines"),
    "distributed": ("processing/engines_dask",),
    "cloudpickle": ("processing/engines_dask",),
    "xarray": ("saving/datatree", "processing/dataset", "face/"),
    "arviz": ("face/",),
    "matplotlib": ("face/",),
    "blackjax": ("face/",),
    "sklearn": ("face/",),
    "typer": ("cli",),
    "tqdm": ("saving/progress", "loading/progress", "processing/progress"),
}
CALLBACKS = ("saving/channel", "loading/feed")
THREADS = ("saving/writer", "loading/blocks", "loading/prefetch", "processing/engines")


class Import(NamedTuple):
    """One name that a module imports."""

    module: str  # "jaxstore.saving.run"
    name: str | None  # None for `import module`
    line: int
    is_at_top: bool  # runs when the module is imported


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT.parent / path).read_text(), str(path))


def below(path: Path) -> str:
    """ "saving/run" for jaxstore/saving/run.py."""
    return path.relative_to("jaxstore").with_suffix("").as_posix()


def dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    return tuple(walk(tree_of(path), path, is_at_top=True))


def walk(node: ast.AST, path: Path, *, is_at_top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, None, child.lineno, is_at_top)
        elif isinstance(child, ast.ImportFrom):
            package = path.parent.parts[: len(path.parent.parts) - child.level + 1]
            base = ".".join((*package, child.module or "")).rstrip(".") if child.level else ""
            for alias in child.names:
                yield Import(base or child.module or "", alias.name, child.lineno, is_at_top)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, path, is_at_top=is_at_top and not is_function)


KNOWN = {dotted(path) for path in MODULES}


def targets(imported: Import) -> Iterator[str]:
    """The modules of jaxstore that an import may load: `from a import b` loads a, maybe a.b."""
    for name in (imported.module, f"{imported.module}.{imported.name}"):
        if name in KNOWN and name.startswith("jaxstore."):
            yield name


def layer_of(name: str) -> int:
    part = name.split(".")[1]
    return next(i for i, layer in enumerate(LAYERS) if part in layer)


def every_import() -> Iterator[tuple[Path, Import]]:
    return ((path, imported) for path in MODULES for imported in imports_of(path))


def is_within(path: Path, prefixes: tuple[str, ...]) -> bool:
    return below(path).startswith(prefixes)


def test_there_are_modules_to_check() -> None:
    assert Path("jaxstore/saving/run.py") in MODULES


def test_imports_go_down_and_never_to_a_sibling_wing() -> None:
    faults = []
    for path, imported in every_import():
        name = dotted(path)
        for target in targets(imported) if name != "jaxstore" else ():  # the root gathers all
            place = f"{path}:{imported.line} imports {target}"
            if layer_of(target) > layer_of(name):
                faults.append(f"{place}, which is above it")
            wings = {name.split(".")[1], target.split(".")[1]} & set(WINGS)
            if len(wings) == 2 and below(path) != "processing/ensemble":
                faults.append(f"{place}, a sibling wing")
    assert not faults, "\n".join(faults)


def test_nobody_below_the_face_imports_the_root() -> None:
    faults = [
        f"{path}:{imported.line} imports the package root"
        for path, imported in every_import()
        if imported.module == "jaxstore"
        and not list(targets(imported))
        and not is_within(path, ("__init__", "cli", "face/"))
    ]
    assert not faults, "\n".join(faults)


def test_no_private_name_crosses_files() -> None:
    faults = []
    for path in MODULES:
        ours = [i for i in imports_of(path) if i.module.split(".")[0] == "jaxstore"]
        for imported in ours:
            parts = (*imported.module.split("."), imported.name or "")
            private = [part for part in parts if part.startswith("_") and not part.endswith("__")]
            faults += [f"{path}:{imported.line} imports {part}" for part in private]
        modules = {i.name for i in ours if list(targets(i))} - {None}
        faults += [
            f"{path}:{node.lineno} uses {ast.unparse(node)}"
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and isinstance(node.value, ast.Name)
            and node.value.id in modules
            and node.attr not in {"_replace", "_fields", "_make", "_asdict"}
        ]
    assert not faults, "\n".join(faults)


def test_libraries_stay_behind_their_borders() -> None:
    faults = [
        f"{path}:{imported.line} imports {imported.module}, which is for {', '.join(places)}"
        for path, imported in every_import()
        if (places := BORDERS.get(imported.module.split(".")[0])) and not is_within(path, places)
    ]
    assert not faults, "\n".join(faults)


def test_callbacks_and_threads_start_where_they_belong() -> None:
    places = dict.fromkeys(("io_callback", "pure_callback"), CALLBACKS)
    starts = ("Thread", "Timer", "to_thread", "ThreadPoolExecutor", "ProcessPoolExecutor")
    places |= dict.fromkeys(starts, THREADS)
    faults = []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            name = (
                node.attr if isinstance(node, ast.Attribute)
                else node.id if isinstance(node, ast.Name)
                else node.name if isinstance(node, ast.alias)
                else ""
            )  # fmt: skip
            if name in places and not is_within(path, places[name]):
                line = getattr(node, "lineno", 0)
                faults.append(f"{path}:{line} uses {name}, which is for {places[name]}")
    assert not faults, "\n".join(faults)


def test_modules_import_one_another_without_cycles() -> None:
    graph = {
        dotted(path): {
            target
            for imported in imports_of(path)
            if imported.is_at_top
            for target in targets(imported)
        }
        - {dotted(path)}
        for path in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_files_and_functions_are_short() -> None:
    faults = []
    for path in MODULES:
        n_lines = len((ROOT.parent / path).read_text().splitlines())
        if n_lines > MAX_FILE_LINES:
            faults.append(f"{path} has {n_lines} lines; split it")
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n_body = body_lines(node)
                if n_body > MAX_BODY_LINES:
                    faults.append(f"{path}: {node.name} has {n_body} body lines")
    assert not faults, "\n".join(faults)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, docstring apart."""
    first = function.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    body = function.body[1:] if is_docstring else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_module_is_called_a_drawer() -> None:
    assert not {path.stem for path in MODULES} & {"utils", "common", "helpers", "misc", "core"}
