"""`feed`: the batches of a loader inside `jit`, `scan` and `vmap`.

Owned here: what the three functions mean. The state is `feed_state`'s, the host side `feed_host`'s.
The shape of the triple is that of jax_sgmc.data (Thaler, Fuchs, Cukarska, Zavadlav, 2024,
https://doi.org/10.1016/j.softx.2024.101722).
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from jaxstore.errors import MismatchError
from jaxstore.loading.batch import Batch, count_of
from jaxstore.loading.device import DeviceTransform
from jaxstore.loading.feed_host import Host
from jaxstore.loading.feed_state import (
    Cached,
    FeedState,
    current,
    empty_state,
    lane_of,
    make_refill,
)
from jaxstore.loading.loader import Loader
from jaxstore.loading.options import at_least
from jaxstore.loading.randomness import row_keys


class Functions(NamedTuple):
    """Three functions that feed programs; unpacks as `init_batch, next_batch, release`."""

    init_batch: Callable[..., FeedState]
    next_batch: Callable[[FeedState], tuple[FeedState, Batch]]
    release: Callable[[], None]


class Feed(Functions):
    """A triple that is a context manager too: its end releases, errors leave it as themselves."""

    host: Host

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.release()
            return
        if not isinstance(error, jax.errors.JaxRuntimeError):
            self.host.end()  # after Ctrl-C nobody wants to wait for the program
            return
        self.host.release()
        original = self.host.error_once()
        if original is not None:
            raise original from error


def feed(loader: Loader, cached_batches: int | None = None) -> Feed:
    """The batches of a loader inside `jit`, `scan`, `while_loop`, `vmap` and the rest.

    - `init_batch(lane=None, *, chain=None, chains=None)` gives a `FeedState` for the carry, inside
      a program or outside. It begins with the first batch of epoch 0, wherever the loader is.
    - `next_batch(state)` gives `(state, batch)`, epoch after epoch without end: what `for batch in
      loader` gives, with `batch.mask` and `batch.observation_count`. Its rows are on the host and
      not told. Batches are data: no gradient goes through them.
    - `release()` waits for programs that this thread began, ends threads and lets go of memory;
      so does the end of a `with` block.

    Where it is lies in the state, not on the host. So a state always gives the same batches: a
    compiled function that is called twice gives them twice, and a state that was stored with a
    checkpoint goes on where it was, in any process, bit for bit. The states of other loaders are
    refused.

    Chains: where `vmap` maps `lane`, which may be anything that differs between lanes such as the
    chain's key, lane j of n gets the batches j, n + j, 2n + j and so on of the stream: no two
    lanes have one in common, and together they have all. They come from one iterator and in one
    host call. Without `lane`, or where vmap does not map it, all lanes get the same batches. Under
    `shard_map`, `pmap` and in loops of Python give `chain=`, from 0 on, and `chains=`.

    On the device a state takes `cached_batches` batches, on the host each chain up to three times
    as many, beside the windows of the loader; with `chains=` up to 256 MiB of batches that one
    chain passed over wait there for the others. Arrays go where the program is, whatever `device`
    or `sharding` the loader has.

    An error of the host, such as a damaged chunk, stops the program. JAX raises its own type then.
    It becomes the original in the block of `with js.feed(loader) as (init_batch, next_batch, _):`,
    and else in the next call of one of the three functions, which raises it once. In a program
    that JAX spreads over devices by itself, without `shard_map`, the other devices wait for the
    one that was stopped: on the CPU XLA then ends the process after a minute.

    Args:
        loader: Stays yours to close, after the release.
        cached_batches: Batches of each chain that one call to the host brings; what comes does not
            depend on it. None takes about 8 MiB, at most 64 batches.

    Raises:
        MismatchError: JAX would change values, or the sharding goes over several processes.
        BusyError: By the functions: the feed was released.

    >>> import jax, numpy as np, jaxstore as js
    >>> loader = js.Loader({"x": np.arange(6.0, dtype="float32")}, batch_size=4, shuffle=False)
    >>> with js.feed(loader) as (init_batch, next_batch, _):
    ...     def step(state, _):
    ...         state, batch = next_batch(state)
    ...         return state, (batch["x"] * batch.mask).sum()
    ...     sums = jax.jit(lambda: jax.lax.scan(step, init_batch(), length=4)[1])()
    >>> sums.tolist()
    [6.0, 9.0, 6.0, 9.0]
    """
    if not isinstance(loader, Loader):
        raise TypeError(f"feed: {loader!r} is no loader. Give a js.Loader.")
    if cached_batches is not None:
        at_least("cached_batches", cached_batches, 1)
    host = Host(loader.parts, cached_batches)
    source = Source(
        host, loader.parts.recipe.schedule.n_rows, loader.parts.destination.device_transform
    )
    made = Feed(source.init_batch, source.next_batch, source.release)
    made.host = host
    return made


class Source:
    """What the functions of one feed share.

    Args:
        host: Gives the batches.
        n_rows: Rows of the split.
        transform: Of the arrays of a batch, with a key per row.
    """

    def __init__(self, host: Host, n_rows: int, transform: DeviceTransform | None) -> None:
        self._host = host
        self._count = count_of(n_rows)
        self._transform = transform
        self._refill = make_refill(host.take)

    def init_batch(
        self, lane: PyTree = None, *, chain: ArrayLike | None = None, chains: int | None = None
    ) -> FeedState:
        """The state of a chain before its first batch.

        Args:
            lane: Anything that differs between the lanes of a `vmap`, each of which is a chain.
            chain: The number of this chain instead, shape=(), from 0 on.
            chains: How many there are then.
        """
        self._host.check()
        if (chain is None) != (chains is None) or (chain is not None and lane is not None):
            raise ValueError(
                "init_batch: give lane alone, for the lanes of a vmap, or chain and chains."
            )
        if chain is None:
            number, n = lane_of(tuple(_mark(leaf) for leaf in jax.tree.leaves(lane)))
        else:
            number, n = _checked_chain(chain, chains)
        return empty_state(self._host.identity, number, n, self._host.shapes())

    def next_batch(self, state: FeedState) -> tuple[FeedState, Batch]:
        """The next batch of a chain, and the state after it."""
        self._host.check()
        self._check_state(state)
        state = jax.tree.map(jax.lax.stop_gradient, state)
        state, found = current(self._refill(state))
        arrays = found.arrays
        if self._transform is not None:
            arrays = dict(self._transform(arrays, row_keys(found.seeds[0])))
        return state, Batch(arrays, found.mask, jnp.asarray(self._count), None, None, None)

    def release(self) -> None:
        """End threads and let go of memory; raises what stopped a program, if nobody was told."""
        self._host.release()
        error = self._host.error_once()
        if error is not None:
            raise error

    def _check_state(self, state: FeedState) -> None:
        if not isinstance(state, FeedState):
            raise TypeError(
                f"next_batch: a {type(state).__name__} is no state. Give what init_batch or "
                "next_batch returned."
            )
        wanted, found = (_types(cached) for cached in (self._host.shapes(), state.cached))
        if wanted != found:
            raise MismatchError(
                f"next_batch: the state holds {found}, this feed {wanted}. Give a state of a feed "
                "with the same batches and cached_batches, without an axis of chains: vmap "
                "next_batch for several."
            )


def _types(cached: Cached) -> dict[str, str]:
    return {
        jax.tree_util.keystr(path): f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(cached)
    }


def _mark(leaf: Any) -> Array:
    """An array that vmap maps where it maps this one."""
    is_key = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.lax.stop_gradient(jax.random.key_data(leaf) if is_key else jnp.asarray(leaf))


def _checked_chain(chain: ArrayLike, chains: int | None) -> tuple[Array, Array]:
    """A number of a chain and how many there are, as a state holds them.

    Raises:
        ValueError: There is no such chain; of a traced number that comes when the program runs.
    """
    at_least("chains", chains, 1)
    if not isinstance(chain, jax.core.Tracer):
        at_least("chain", np.asarray(chain).item(), 0)
        if np.asarray(chain) >= chains:
            raise ValueError(f"init_batch: chain {chain} of {chains}. Give chain < chains.")
    return jnp.asarray(chain), jnp.asarray(chains)
