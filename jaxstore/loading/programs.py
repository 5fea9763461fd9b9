"""Programs that JAX was given and that may still run.

Owned here: waiting for them. Their errors are no business of who waits.
"""

from __future__ import annotations

import contextlib

import jax


def wait_for_programs() -> None:
    """Return once what was started before is through, calls to the host included.

    A program that failed tells it where its result is used. JAX would tell it here too, and again
    whenever anyone waits, until another program has run on that device.
    """
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        jax.effects_barrier()
