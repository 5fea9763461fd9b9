"""Results of `js.process` from one format into another, partial ones too.

Owned here: which chunks of a result count, by its marks. Where results lie is told by
`result_facts`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxstore.face.convert_arrays import Copy, Region, copy_regions, reader, whole
from jaxstore.face.convert_tally import Tally
from jaxstore.processing.manifest import Manifest, fit
from jaxstore.processing.outputs import ERROR_BYTES, ERRORS, PARTIALS
from jaxstore.stores.results import DONE, FAILED, Marks, ResultGroup, ResultPlace


def copy_result(source: ResultPlace, target: ResultPlace, name: str, tally: Tally) -> None:
    """Copy one result, which is partial until all that its marks tell of is there.

    Raises:
        FormatError: It is damaged.
    """
    group = source.open(name)
    try:
        manifest, marks = group.manifest(), group.marks()
        parsed = Manifest.from_json(manifest, location=group.location)
        specs = [group.spec(array) for array in group.names()]
        partial = {**manifest, "state": "partial"}
        made = target.create(name, manifest=partial, specs=specs, n_units=len(marks))
        try:
            for copy in copies_of(group, parsed, marks):
                copy_regions(copy, made.write, tally)
            made.set_marks(marks)
            made.set_manifest(manifest)
        finally:
            made.close()
        tally.n_arrays += len(specs)
    finally:
        group.close()


def bytes_of(source: ResultPlace, name: str) -> int:
    """Of all arrays of a result, decoded."""
    group = source.open(name)
    try:
        specs = [group.spec(array) for array in group.names()]
        return sum(int(np.prod(spec.shape)) * spec.dtype.itemsize for spec in specs)
    finally:
        group.close()


def copies_of(group: ResultGroup, manifest: Manifest, marks: Marks) -> Iterator[Copy]:
    """What is copied: the units that are marked, and arrays that are not made of units."""
    units, outputs = manifest.units, {output.name for output in manifest.outputs}
    fitted = fit(marks, units.n_units)
    failed = np.flatnonzero(fitted == FAILED).tolist()
    done = np.flatnonzero(fitted == DONE).tolist()
    for numbers, is_strict in ((done, True), (failed, False)):
        regions: dict[str, list[Region]] = {}
        for unit in numbers:
            for name, region in manifest.regions(unit):
                regions.setdefault(name, []).append(region)
        for name, mine in regions.items():
            yield Copy(group.spec(name), reader(group, name, is_strict=is_strict), tuple(mine))
    is_reduced = bool(manifest.states) and manifest.state == "complete"
    for name in group.names():
        read = reader(group, name, is_strict=name != ERRORS)
        if name == ERRORS:
            words = (
                (_cut(units.items(unit)), _cut(range(b := units.block(unit), b + 1)))
                for unit in failed
            )
            regions_told = tuple((*region, slice(0, ERROR_BYTES)) for region in words)
            yield Copy(group.spec(name), read, regions_told)
        elif not name.startswith(f"{PARTIALS}/") and (name not in outputs or is_reduced):
            yield whole(group.spec(name), read)


def _cut(numbers: range) -> slice:
    return slice(numbers.start, numbers.stop)
