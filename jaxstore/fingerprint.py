"""What tells two programs apart, and two arrays: short texts that are equal in any process.

Owned here: fingerprints of functions, by what JAX makes of them, of array values and of bytes. What
is compared, and what it means if it differs, is its caller's.

A program is read equation by equation, not as the text that JAX prints of it: that leaves out the
values of arrays, and depends on terminals, print options and the order of sets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, PyTree

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of a callback or a rule, another in each process
_LENGTH = 16  # hexadecimal digits; no adversary, so 64 bits suffice
# What they do is not in the program; callbacks that only print are others, and change no result.
_CALLBACKS = {"pure_callback", "io_callback"}
_numbers = count()  # of traces in this process


@dataclass(frozen=True, slots=True)
class Traced:
    """A function as JAX sees it now; what is edited later changes it no more."""

    call: Callable[..., PyTree]  # computes what was traced, for arrays of the same shapes
    fingerprint: str
    has_callback: bool  # whether the host computes a part of it, which no fingerprint sees


def trace(function: Callable[..., PyTree], *args: Any) -> Traced:
    """Trace a function anew, whatever JAX remembers of it, of its helpers and of its loops.

    JAX keeps traces by the function alone: once a helper is defined again, or a captured value is
    another, `jit` and `scan` of a function that is still the same go on with the old one. So what
    is computed has to be `call`, for it to be what the fingerprint tells of.

    The first call lets JAX forget what it compiled before, so that each is compiled once more.

    Args:
        function: Is traced, not run.
        args: Arrays or shapes.

    >>> trace(lambda x: {"y": x + 1}, 0.0).call(np.float32(2))
    {'y': Array(3., dtype=float32)}
    """
    with _context()(next(_numbers)):  # the lambda is for functions that have no hash
        closed, shapes = jax.make_jaxpr(lambda *a: function(*a), return_shape=True)(*args)
    structure = jax.tree.structure(shapes)
    compute = _jax_core().jaxpr_as_fun(closed)

    def call(*values: Any) -> PyTree:
        return jax.tree.unflatten(structure, compute(*jax.tree.leaves(values)))

    reading = _Reading()
    return Traced(call, reading.digest(closed)[:_LENGTH], bool(reading.primitives & _CALLBACKS))


def of_function(function: Callable[..., Any], *args: Any) -> str:
    """Fingerprint of what a function computes: its equations for these arguments, its constants.

    Equal programs have equal ones under one version of JAX; another version may make other
    equations of the same program. What a callback does on the host is not seen, and of functions
    below that JAX has traced before, what it remembers: see `trace`.

    Args:
        function: Is traced, not run.
        args: Arrays or shapes.

    >>> of_function(lambda x: x + 1, 0.0) == of_function(lambda y: y + 1, 5.0)
    True
    >>> of_function(lambda x: x + 1, 0.0) == of_function(lambda x: x + 2, 0.0)
    False
    """
    return with_shapes(function, *args)[0]


def with_shapes(function: Callable[..., Any], *args: Any) -> tuple[str, PyTree]:
    """`of_function`, and the shapes of what the function gives, of one trace.

    >>> with_shapes(lambda x: {"y": x > 1}, 0.0)[1]["y"].dtype
    dtype('bool')
    """
    # A function of our own: of the given one JAX may remember how it was before.
    closed, shapes = jax.make_jaxpr(lambda *a: function(*a), return_shape=True)(*args)
    return _Reading().digest(closed)[:_LENGTH], shapes


def of_bytes(data: bytes) -> str:
    """Fingerprint of bytes.

    >>> of_bytes(b"")
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(data).hexdigest()[:_LENGTH]


def of_array(value: ArrayLike) -> str:
    """Fingerprint of shape, dtype and bits of an array; of a typed key, those of its data.

    >>> of_array(np.zeros(3)) == of_array(np.zeros(3, "float32"))
    False
    """
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        with jax.ensure_compile_time_eval():  # also while a program around this one is traced
            value = jax.random.key_data(value)
    array = np.asarray(value)
    shape = array.shape  # `ascontiguousarray` makes a vector of a scalar
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    digest = hashlib.sha256(f"{array.dtype.name}{shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:_LENGTH]


def _jax_core() -> Any:
    """Imported when it is used: with it come parts of JAX that `import jax` leaves out."""
    from jax.extend import core

    return core


@cache
def _jaxprs() -> tuple[type, ...]:
    core = _jax_core()
    return (core.Jaxpr, getattr(core, "ClosedJaxpr", core.Jaxpr))  # one since JAX 0.12


@cache
def _context() -> Any:
    """What makes JAX trace anew wherever its value is another; made once, since that costs."""
    return jax.make_user_context(None)


@dataclass(slots=True)
class _Reading:
    """One pass through a program."""

    primitives: set[str] = field(default_factory=set)  # that came
    digests: dict[int, str] = field(default_factory=dict)  # of jaxprs that come several times

    def digest(self, jaxpr: Any) -> str:
        """Of a program with its constants, or of one without."""
        known = self.digests.get(id(jaxpr))
        if known is None:
            known = self.digests[id(jaxpr)] = self._digest(jaxpr)
        return known

    def _digest(self, jaxpr: Any) -> str:
        body = getattr(jaxpr, "jaxpr", jaxpr)
        numbers: dict[Any, int] = {}
        literal = _jax_core().Literal

        def named(variables: Any) -> list[str]:
            return [f"{numbers.setdefault(v, len(numbers))}:{_type(v.aval)}" for v in variables]

        def used(atom: Any) -> str:
            return _literal(atom) if isinstance(atom, literal) else str(numbers[atom])

        lines = [str([named(body.constvars), named(body.invars)])]
        lines += [of_array(constant) for constant in getattr(jaxpr, "consts", ())]
        for equation in body.eqns:
            self.primitives.add(equation.primitive.name)
            takes = [used(atom) for atom in equation.invars]
            gives = named(equation.outvars)
            settings = self._settings(equation)
            lines.append(str([equation.primitive.name, takes, gives, settings]))
        lines.append(str([used(atom) for atom in body.outvars]))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _settings(self, equation: Any) -> str:
        # Which random numbers a key gives hangs on a setting of JAX that is no parameter.
        is_partitionable = getattr(equation.ctx, "threefry_partitionable", None)
        return f"{is_partitionable}{self._text(equation.params)}"

    def _text(self, value: Any) -> str:
        """A parameter of an equation, with all there is inside of it."""
        if isinstance(value, _jaxprs()):
            return self.digest(value)
        if isinstance(value, (np.ndarray, jax.Array)):
            return of_array(value)
        inside: list[str] | None = None
        if isinstance(value, Mapping):
            inside = sorted(f"{self._text(k)}={self._text(v)}" for k, v in value.items())
        elif isinstance(value, (set, frozenset)):
            inside = sorted(map(self._text, value))
        elif isinstance(value, (tuple, list)):
            inside = [self._text(item) for item in value]
        text = _ADDRESS.sub("", str(value)) if inside is None else str(inside)
        return f"{type(value).__name__} {text}"


def _type(aval: Any) -> str:
    """Of a variable. Whether a type is weak shows in what is done with it, and only there."""
    return f"{aval.dtype}{aval.shape}" if hasattr(aval, "dtype") else str(aval)


def _literal(literal: Any) -> str:
    dtype = getattr(literal.aval, "dtype", None)
    return f"={of_array(np.asarray(literal.val, dtype))}"
