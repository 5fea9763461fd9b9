"""What makes a scan the same as the one that a stored run came from.

Owned here: what is recorded of a scan's program, and the refusal of another one. Values of `xs`
are looked at in the rows 0, 1, 2, 4, 8 and so on, so that a longer run can be told to begin alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxstore.errors import MismatchError
from jaxstore.fingerprint import of_array, of_function
from jaxstore.saving.resumption import Found
from jaxstore.saving.schedule import Schedule
from jaxstore.stores.base import Json
from jaxstore.tree import leaf_names


def identity_of(step: str, schedule: Schedule, carry: PyTree, xs: PyTree) -> dict[str, Json]:
    """What is recorded of a scan.

    Args:
        step: Fingerprint of what it computes.
        schedule: Of the scan.
        carry: The first carry; leaves that are shapes have no values to compare.
        xs: All rows.
    """
    keep, length = schedule.keep, schedule.length
    rows = [0, *(1 << i for i in range(length.bit_length()))] if length else []
    return {
        "jax": jax.__version__,
        "step": step,
        "keep": keep and of_function(keep, jax.ShapeDtypeStruct((), jnp.int32)),
        "carry": named(carry),
        "xs": {
            leaf.name: [of_array(value[row]) for row in rows if row < length]
            for leaf, value in zip(leaf_names(xs, bare="xs"), jax.tree.leaves(xs), strict=True)
        },
    }


def named(carry: PyTree) -> dict[str, str | None]:
    """Fingerprints of the leaves of a carry by name; None where there is only a shape."""
    return {
        leaf.name: None if isinstance(value, jax.ShapeDtypeStruct) else of_array(value)
        for leaf, value in zip(leaf_names(carry, bare="carry"), jax.tree.leaves(carry), strict=True)
    }


def check_settings(found: Found, schedule: Schedule, chains: int | None) -> None:
    """Refuse to go on with other settings than a run has; it may become longer.

    Raises:
        MismatchError: One differs; both sides are named.
    """
    place, settings = found.store.location, found.manifest["settings"]
    wanted = {"thin": schedule.thin, "burn_in": schedule.burn_in, "chains": chains or 1}
    for name, value in wanted.items():
        if name in settings and settings[name] != value:
            raise MismatchError(
                f"the run at {place} has {name}={settings[name]}, this scan {name}={value}. "
                f"Go on with {name}={settings[name]}, or save to a new place."
            )
    done = found.checkpoint.step if found.checkpoint else 0
    if found.is_complete:
        done = max(done, settings.get("length", 0))
    if schedule.length < done:
        raise MismatchError(
            f"the run at {place} has {done:,} steps already, this scan has "
            f"length={schedule.length:,}. A run can become longer, not shorter."
        )


def check_same_scan(found: Found, wanted: Mapping[str, Json]) -> dict[str, Json]:
    """What to record of a scan that goes on with a run, if it is the one that made it.

    Raises:
        MismatchError: The step, keep, the first carry or xs differ; both sides are named.
    """
    place, before = found.store.location, found.manifest.get("identity")
    if not before:
        raise MismatchError(
            f"the run at {place} was not made by scan with checkpoints. Go on with the program "
            "that made it, or save to a new place."
        )
    for what in ("step", "keep") if before["jax"] == wanted["jax"] else ():
        if before[what] != wanted[what]:  # under another JAX the same program may look different
            raise MismatchError(
                f"{what} computes something else than that of the run at {place}: its jaxpr has "
                f"fingerprint {wanted[what]}, the run's {before[what]}. Go on with the same "
                f"{what}, or save to a new place."
            )
    for name, value in wanted["carry"].items():
        known = before["carry"].get(name)
        if None not in (known, value) and known != value:
            raise MismatchError(
                f"the first carry differs from that of the run at {place} in {name!r}: it has "
                f"fingerprint {value}, the run's {known}. Give the carry that the run began with, "
                "or jax.eval_shape of it, which is not compared; or save to a new place."
            )
    for name, rows in wanted["xs"].items():
        if differs(before["xs"].get(name, ()), rows):
            raise MismatchError(
                f"xs differs from that of the run at {place} in {name!r}. Give the xs that the run "
                "began with, longer if you like, or save to a new place."
            )
    # Where only the shape of the first carry came, the values stay those of the first run.
    carry = {n: before["carry"].get(n) if v is None else v for n, v in wanted["carry"].items()}
    return {**wanted, "carry": carry}


def differs(before: Sequence[Any], now: Sequence[Any]) -> bool:
    """Whether one is not the beginning of the other."""
    n = min(len(before), len(now))
    return list(before[:n]) != list(now[:n])
